"""Search settings of the pretraining: a training and its probe for each trial, ranked by the probe.

    .tessera/search/<name>/<trial>/     one project a trial, see ``tasks.searching.project``
    .tessera/search/<name>/trials.csv   all trials that are done, best first

A trial reads the packed corpus of the project and trains in a folder of its own, named by everything
that its result depends on. So a search that was interrupted goes on, another search of the same name
adds to the table, and no trial is done twice. Every trial is an MLflow run below the run of its
search. The loss is in the table and ranks nothing (finding F1 of TESSERA v2).

It deliberately changes nothing of the project: who likes a trial writes it into params.yaml.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from tasks.errors import ParamsError
from tasks.files import canonical_json, write_bytes, write_json
from tasks.manifest import digest_of
from tasks.params import read_params
from tasks.progress import say
from tasks.searching.overrides import Override, applied
from tasks.searching.project import complete, open_project, share_outputs
from tasks.stage import code_digest, lock_digest
from tasks.tracking import experiment_id, name_of, open_client
from tasks.workspace import Workspace

STAGE = "pretrain"
_PARENTS = ("ingest", "pack")
_RESULT = "result.json"
_ID_CHARS = 12
_SEARCH, _OWNER = "tessera.search", "tessera.workspace"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of settings of a search."""

    name: str
    """Digest of all that its result depends on."""
    override: Override
    folder: Path

    @property
    def result(self) -> Row | None:
        """What it came to; ``None`` if it is not done."""
        path = self.folder / _RESULT
        return json.loads(path.read_text()) if path.is_file() else None


def plan(workspace: Workspace, search: str, overrides: Sequence[Override]) -> list[Trial]:
    """Return the trials of a search, equal ones once.

    Args:
        workspace: The project; its corpus must be packed.
        search: Name of the search, one folder.
        overrides: Changes to the section ``pretrain``, see ``tasks.searching.overrides``.

    Raises:
        ParamsError: A trial is not valid, or the name is no folder's.
        LineageError: The corpus is not there.
    """
    if not search.replace("-", "").replace("_", "").isalnum() or not search.isascii():
        raise ParamsError(
            "letters, digits, - and _",
            found=repr(search),
            where="name of the search",
            mend="Choose another name.",
        )
    params = read_params(workspace.params)
    common = {
        "parents": {stage: digest_of(workspace.output(stage)) for stage in _PARENTS},
        "code": code_digest(workspace, STAGE),
        "lock": lock_digest(workspace),
        "probe": params.probe_settings,
    }
    trials = {}
    for override in overrides:
        section = applied(params.pretrain, override).model_dump(mode="json")
        facts = canonical_json(common | {"params": section})
        name = sha256(facts.encode()).hexdigest()[:_ID_CHARS]
        trials[name] = Trial(name, override, _folder(workspace, search) / name)
    return list(trials.values())


def run_trial(workspace: Workspace, search: str, trial: Trial, mark: Mapping[str, str]) -> Row:
    """Train a trial if it is not done, and return what it came to.

    Args:
        workspace: The project.
        search: Name of the search.
        trial: From ``plan``.
        mark: Environment that tells the trial's processes from others.

    Raises:
        StageFailed: The training ended with an error.
    """
    if (done := trial.result) is not None:
        say(f"{search}: trial {trial.name} is done already")
        return done
    settings = applied(read_params(workspace.params).pretrain, trial.override)
    changes = {STAGE: settings.complete()}
    project = open_project(workspace, trial.folder, workspace.params, changes)
    share_outputs(workspace, project, _PARENTS)
    parent = _parent_run(workspace, search)
    store = {"MLFLOW_TRACKING_URI": workspace.tracking_uri}
    output = complete(project, STAGE, {**store, **mark})
    row = {"trial": trial.name, **trial.override, **read_result(output)}
    row["mlflow_run"] = _file_under(workspace, parent, project, row)
    write_json(trial.folder / _RESULT, row)
    return row


def read_result(output: Path) -> Row:
    """Return the numbers of a finished pretraining that trials are compared by.

    Returns:
        ``probe`` of the selected checkpoint (``None`` without labels), its ``step`` and losses, and
        ``effective_rank`` of the embedding when it was last measured.
    """
    found = json.loads((output / "checkpoints.json").read_text())
    best = next(row for row in found["candidates"] if row["selected"])
    with (output / "curves.csv").open() as stream:
        ranks = [row["effective_rank"] for row in csv.DictReader(stream)]
    measured = [float(value) for value in ranks if value]
    wanted = ("step", "probe", "held_out_loss", "loss")
    return {name: best.get(name) for name in wanted} | {
        "effective_rank": measured[-1] if measured else None
    }


def read_table(workspace: Workspace, search: str) -> list[Row]:
    """Return all finished trials of a search, best probe first."""
    results = _folder(workspace, search).glob(f"*/{_RESULT}")
    return ranked([json.loads(path.read_text()) for path in results])


def write_table(workspace: Workspace, search: str, table: Sequence[Row]) -> Path:
    """Write the trials of a search as ``trials.csv`` and return the file."""
    names = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["rank", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"rank": place} | row for place, row in enumerate(table, start=1))
    path = _folder(workspace, search) / "trials.csv"
    write_bytes(path, text.getvalue().encode())
    return path


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Order trials by their probe, best first; those without a probe come last."""

    def key(row: Row) -> tuple[bool, float, str]:
        probe = row.get("probe")
        return probe is None, -(probe or 0.0), str(row["trial"])

    return sorted(rows, key=key)


def _folder(workspace: Workspace, search: str) -> Path:
    return workspace.state / "search" / search


def _parent_run(workspace: Workspace, search: str) -> str:
    """Return the MLflow run of this project's search, made at first use by one of its trials."""
    client, tags = open_client(workspace), {_SEARCH: search, _OWNER: name_of(workspace)}
    experiment = experiment_id(client, workspace)
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    with FileLock(_folder(workspace, search) / ".lock"):
        if found := client.search_runs([experiment], query, max_results=1):
            return str(found[0].info.run_id)
        run = client.create_run(experiment, run_name=f"search {search}", tags=tags)
        client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _file_under(workspace: Workspace, parent: str, project: Workspace, row: Row) -> str:
    """Put the run of a trial below the search's, with the numbers it is ranked by; return its id."""
    provenance = json.loads((project.artifacts / "provenance" / f"{STAGE}.json").read_text())
    client, run = open_client(workspace), str(provenance["mlflow_run"])
    client.set_tag(run, "mlflow.parentRunId", parent)
    client.set_tag(run, "tessera.trial", row["trial"])
    for name in ("probe", "effective_rank", "held_out_loss", "loss"):
        if row[name] is not None:
            client.log_metric(run, f"trial.{name}", float(row[name]))
    return run
