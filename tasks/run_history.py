"""What MLflow knows of earlier runs of the stages, read back for people.

The one idea: a run is named as it comes to mind: by its id or the beginning of it, by its stage,
which means the last one that went well or still goes, and by ``stage~1`` for the one before. Only
runs of this project's stages are seen; a store may hold others' runs as well.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.errors import LineageError
from tasks.tracking import experiment_id, name_of, open_client
from tasks.workspace import Workspace

_STAGE = "tessera.stage"
_BEFORE = re.compile(r"(?P<stage>[^~]+)~(?P<back>\d+)")
_ID_CHARS = 4
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class StageRun:
    """One execution of a stage, as MLflow has it."""

    run_id: str
    stage: str
    """Its address, e.g. ``distill@N``."""
    status: str
    """``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
    started: datetime
    """In UTC."""
    seconds: float | None
    """Wall time; ``None`` while it goes on."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each."""
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """Beginning of the id, as long as it has to be in practice."""
        return self.run_id[:8]

    def to_json(self) -> dict[str, Any]:
        """Return plain types."""
        return asdict(self) | {"started": self.started.isoformat()}


def list_runs(
    workspace: Workspace, *, stage: str | None = None, limit: int = 20, everyone: bool = False
) -> list[StageRun]:
    """Return runs, newest first.

    Args:
        workspace: The project.
        stage: Only of this stage; ``distill`` stands for all of its sizes.
        limit: At most so many.
        everyone: Those of other project folders that share the store too.
    """
    runs = _search(workspace, "" if everyone else _own(workspace))
    kept = [r for r in runs if stage is None or stage in (r.stage, r.stage.split("@")[0])]
    return kept[:limit]


def find_run(workspace: Workspace, name: str) -> StageRun:
    """Return the run that a name stands for.

    Args:
        workspace: The project.
        name: Id, unique beginning of an id, stage, or ``stage~1`` for the one before its last.

    Raises:
        LineageError: Nothing has that name, or several have.
    """
    everything = _search(workspace, "")
    if run := by_id(everything, name):
        return run
    before = _BEFORE.fullmatch(name)
    stage, back = (before["stage"], int(before["back"])) if before else (name, 0)
    own = {r.run_id for r in _search(workspace, _own(workspace))}
    good = [
        run
        for run in everything
        if run.run_id in own and run.stage == stage and run.status in ("FINISHED", "RUNNING")
    ]
    if back < len(good):
        return good[back]
    number = f"{len(good)} runs of {stage} that went well" if good else "no run of that name"
    raise _unknown(name, number, "See what there is with: tessera runs")


def by_id(runs: Sequence[StageRun], name: str) -> StageRun | None:
    """Return the run whose id is, or begins with, a name of some length; ``None`` without one.

    Raises:
        LineageError: Several ids begin so.
    """
    found = [r for r in runs if len(name) >= _ID_CHARS and r.run_id.startswith(name)]
    if len(found) > 1:
        raise _unknown(name, f"{len(found)} runs whose ids begin so", "Give more of the id.")
    return found[0] if found else None


def history(workspace: Workspace, run: StageRun, metric: str) -> tuple[list[int], list[float]]:
    """Return steps and values of a metric; of a step that was taken twice the later value."""
    points = open_client(workspace).get_metric_history(run.run_id, metric)
    by_step = {p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}
    return list(by_step), list(by_step.values())


def _unknown(name: str, found: str, mend: str) -> LineageError:
    return LineageError(
        "the id of a run, the beginning of one, a stage, or stage~1 for the run before",
        found=found,
        where=name,
        mend=mend,
    )


def _own(workspace: Workspace) -> str:
    return f"tags.tessera.workspace = '{name_of(workspace)}'"


def _search(workspace: Workspace, query: str) -> list[StageRun]:
    client = open_client(workspace)
    experiment, runs, token = experiment_id(client, workspace), [], None
    while True:
        page = client.search_runs(
            [experiment],
            query,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += [_run(run) for run in page if _STAGE in run.data.tags]
        token = page.token
        if not token:
            return runs


def _run(run: Any) -> StageRun:
    begun, ended = run.info.start_time, run.info.end_time
    return StageRun(
        run.info.run_id,
        run.data.tags[_STAGE],
        run.info.status,
        datetime.fromtimestamp(begun / 1000, UTC),
        None if ended is None else (ended - begun) / 1000,
        run.data.params,
        run.data.metrics,
        run.data.tags,
    )
