"""MLflow's runs: the store, and one run per stage execution.

MLflow holds a copy of the manifests for people to browse, never a second truth. A run carries the
stage's parameters, metrics in batches, its inputs as datasets named by digest, and links to the runs
that made them, in its description and as tags. Whoever wants the models that runs logged goes to
``tasks.tracked_models``.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from socket import gethostname
from time import time
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from tasks.errors import Preempted, TrackingError
from tasks.manifest import MANIFEST, Manifest
from tasks.progress import say
from tasks.workspace import QUIET, Workspace

os.environ.update(QUIET)

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import SQLAlchemyError

EXPERIMENT = "tessera"
_BATCH = 900
_DIGEST_CHARS = 36  # MLflow's limit for a dataset digest
_PARAM_CHARS = 6000  # its limit for one parameter

MACHINE = "system/"
"""Beginning of the names of what was measured of the machine; MLflow shows it on its own page."""
EXECUTION_TAG = "tessera.execution"
"""Settings of how a training was carried out, as JSON."""


@dataclass(slots=True)
class Tracker:
    """The MLflow run of one stage execution."""

    client: MlflowClient
    run_id: str
    experiment_id: str
    models_in: Mapping[str, str]
    """MLflow model of each parent stage that made one, by stage."""
    prefix: str = ""
    """Put before the name of every number and file: of which of several trainings of the stage."""

    def log_metrics(self, rows: Sequence[Mapping[str, float]], *, step_key: str = "step") -> None:
        """Log rows of named numbers, each with its step, in few requests."""
        now = int(time() * 1000)
        metrics = [
            Metric(self.prefix + name, float(value), now, int(row.get(step_key, 0)))
            for row in rows
            for name, value in row.items()
            if name != step_key
        ]
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH])

    def log_speed(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log measurements of the machine by step; MLflow shows them on a page of their own."""
        self.log_metrics(
            [{n if n == "step" else MACHINE + n: v for n, v in row.items()} for row in rows]
        )

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Attach a file to the run."""
        place = f"{self.prefix}{folder or ''}".strip("/")
        self.client.log_artifact(self.run_id, str(path), place or None)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self.client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def log_model(self, folder: Path, *, name: str, tags: Mapping[str, str]) -> str:
        """Record a checkpoint folder as an MLflow model that this run made.

        Returns:
            The model's id, ``m-...``.
        """
        model = self.client.create_logged_model(
            self.experiment_id, name=name, source_run_id=self.run_id, tags=dict(tags)
        )
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        self.set_tags({"tessera.model": model.model_id})
        return str(model.model_id)

    def log_output(self, folder: Path, manifest: Manifest) -> None:
        """Log what the stage made: counts, size, manifest and its digest."""
        size = sum(entry["size"] for entry in manifest.files.values())
        self.log_metrics([{f"count.{k}": v for k, v in manifest.counts.items()} | {"bytes": size}])
        self.log_file(folder / MANIFEST)
        self.set_tags({"tessera.digest": sha256(manifest.to_bytes()).hexdigest()})


@contextmanager
def track_stage(workspace: Workspace, plan: Manifest) -> Iterator[Tracker]:
    """Open the run of a stage execution; it ends with the block.

    It ends as FINISHED or FAILED, or as KILLED if it was asked to end or interrupted. Runs
    of the same stage of this workspace that are still open are dead (the caller holds the stage's
    lock) and are closed as KILLED.
    """
    client = open_client(workspace)
    experiment = experiment_id(client, workspace)
    mine = (
        f"tags.tessera.stage = '{plan.stage}' and tags.tessera.workspace = '{name_of(workspace)}'"
    )
    for dead in _find(client, experiment, mine, status="RUNNING"):
        client.set_terminated(dead.info.run_id, "KILLED")
    parents = {name: run_of(client, experiment, digest) for name, digest in plan.parents.items()}
    tags = _tags(plan, parents) | {"tessera.workspace": name_of(workspace)}
    run = client.create_run(experiment, run_name=plan.stage, tags=tags)
    tracker = Tracker(
        client,
        run.info.run_id,
        experiment,
        {name: r.data.tags["tessera.model"] for name, r in parents.items() if has_model(r)},
    )
    try:
        params = [Param(k, str(v)[:_PARAM_CHARS]) for k, v in _flatten(plan.params)]
        client.log_batch(run.info.run_id, params=params)
        _log_inputs(tracker, plan)
        yield tracker
    except BaseException as error:
        with beside_an_error():
            tracker.set_tags({"tessera.error": str(error)[:_PARAM_CHARS]})
            client.set_terminated(run.info.run_id, "FAILED" if _is_failure(error) else "KILLED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


@contextmanager
def beside_an_error() -> Iterator[None]:
    """Say what fails in the block, and go on: the error under way is the one that counts.

    A training that was asked to end must be seen to have been asked, whether or not MLflow answers.
    """
    try:
        yield
    except (MlflowException, OSError) as error:
        say(f"the run's end could not be recorded in MLflow: {error}")


def _is_failure(error: BaseException) -> bool:
    """Return whether a stage that ended by ``error`` failed, and was not just asked to end."""
    return isinstance(error, Exception) and not isinstance(error, Preempted)


def open_client(workspace: Workspace) -> MlflowClient:
    """Return a client of the workspace's MLflow store, creating the database once.

    The first creation runs migrations, and two at once leave a broken database: it is locked.
    """
    folder = workspace.state / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".create.lock"):
        _create_database(workspace)
        try:
            client = MlflowClient(workspace.tracking_uri)
            client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError) as error:
            raise TrackingError(
                "an MLflow store that answers",
                found=str(error).splitlines()[0],
                where=workspace.tracking_uri,
                mend="Restore the database, or move it away: a new one is made at the next run.",
            ) from error
    return client


def _create_database(workspace: Workspace) -> None:
    """Make the project's own database aside: a killed migration would leave a broken one."""
    final = workspace.state / "mlflow" / "mlflow.db"
    if workspace.tracking_uri != f"sqlite:///{final}" or final.exists():
        return
    aside = final.with_name("mlflow.db.making")
    aside.unlink(missing_ok=True)
    artifacts = final.with_name("artifacts").as_uri()
    SqlAlchemyStore(f"sqlite:///{aside}", artifacts)  # type: ignore[no-untyped-call]  # MLflow's
    aside.replace(final)


def experiment_id(client: MlflowClient, workspace: Workspace) -> str:
    """Return the project's experiment, made at first use with its artifacts inside the project."""
    with FileLock(workspace.state / "mlflow" / ".create.lock"):
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        artifacts = workspace.state / "mlflow" / "artifacts"
        remote = not workspace.tracking_uri.startswith("sqlite")
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the page opens on training
        location = None if remote else artifacts.as_uri()
        return str(client.create_experiment(EXPERIMENT, location, kind))


def _tags(plan: Manifest, parents: Mapping[str, Any]) -> dict[str, str]:
    tags = {
        "tessera.stage": plan.stage,
        "tessera.key": plan.key,
        "tessera.code": plan.code,
        "tessera.lock": plan.lock,
    }
    for name, digest in plan.parents.items():
        tags[f"tessera.parent.{name}.digest"] = digest
    found = {name: run for name, run in parents.items() if run is not None}
    for name, run in found.items():
        tags[f"tessera.parent.{name}.run"] = run.info.run_id
        # Decision: all runs hang on the first one, ingest's, so that one click shows the whole
        # pipeline; a chain of eight levels would hide it. The description links the real parents.
        tags["mlflow.parentRunId"] = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
    links = [f"[{name}](#/runs/{run.info.run_id})" for name, run in found.items()]
    return tags | ({"mlflow.note.content": f"Made from {', '.join(links)}."} if links else {})


def name_of(workspace: Workspace) -> str:
    """Name this workspace among those that share a store, in words that a query can quote."""
    return f"{gethostname()}:{quote(str(workspace.root))}"


def _log_inputs(tracker: Tracker, plan: Manifest) -> None:
    datasets = [
        DatasetInput(
            Dataset(name, digest[:_DIGEST_CHARS], "tessera-manifest", f"artifacts/{name}"),
            [InputTag("mlflow.data.context", plan.stage)],
        )
        for name, digest in plan.parents.items()
    ]
    models = [LoggedModelInput(model_id) for model_id in tracker.models_in.values()]
    if datasets or models:
        tracker.client.log_inputs(tracker.run_id, datasets=datasets, models=models)


def run_of(client: MlflowClient, experiment: str, digest: str) -> Any:
    """Find the run that made an output; ``None`` where it was restored from a cache or remote."""
    found = _find(client, experiment, f"tags.tessera.digest = '{digest}'", status="FINISHED")
    return found[0] if found else None


def has_model(run: Any) -> bool:
    """Return whether there is a run, and it logged a model."""
    return run is not None and "tessera.model" in run.data.tags


def _find(client: MlflowClient, experiment: str, query: str, *, status: str) -> list[Any]:
    return list(
        client.search_runs(
            [experiment],
            f"{query} and attributes.status = '{status}'",
            ViewType.ACTIVE_ONLY,
            order_by=["attributes.start_time DESC"],
        )
    )


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner
