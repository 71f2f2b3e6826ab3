"""The whole pipeline as one flow: ``prefect deployment run tessera/full``.

Prefect says when, where and what to try again; DVC says what is up to date; the stages do the work.
Running it again after a failure continues at the stage that failed, because every stage that is up
to date is left alone.
"""

from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import data, release, student, teacher
from flows.artifacts import shown
from flows.steps import journal_of_this_run
from tasks.params import set_archive, use_params
from tasks.running.graph import share_out, stages_from
from tasks.running.journal import Journal
from tasks.workspace import find_workspace

SECTIONS = {
    "data": data.STAGES,
    "teacher": teacher.STAGES,
    "student": student.STAGES,
    "release": release.STAGES,
}
"""Which sub-flow runs which stages of ``dvc.yaml``."""


def end_leftovers(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """End what a cancelled or killed run has left; called in the worker, not in the dead run."""
    Journal(find_workspace(), str(flow_run.id)).end()


@flow(name="tessera", on_cancellation=[end_leftovers], on_crashed=[end_leftovers])
def tessera(
    params: str | None = None,
    archive: str | None = None,
    start: str | None = None,
    force: bool = False,
    students_at_once: int = 2,
) -> dict[str, str]:
    """Run the pipeline from the raw archive to a promoted student and embedding tiles.

    Args:
        params: File of settings to make the project's ``params.yaml``.
        archive: Folder of tile folders to use instead of the archive that ``params.yaml`` names.
        start: Stage to start at; what comes before it must be up to date and is not touched.
        force: Run every stage even if nothing has changed.
        students_at_once: Students that are distilled at the same time, each with its own threads.

    Returns:
        What became of each stage, by name.

    Raises:
        StageFailed: A stage ended with an error.
        LineageError: ``start`` was given and a stage before it is not up to date.
    """
    workspace = find_workspace()
    if params:
        use_params(Path(params), workspace.params)
    if archive:
        set_archive(workspace.params, archive)
    journal = journal_of_this_run()
    journal.open()
    todo = share_out(stages_from(workspace, start), SECTIONS)
    # The cast: Prefect types a runner by its futures, and takes only the abstract kind here.
    side_by_side = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(students_at_once))
    with shown(journal):
        data.data(todo["data"], force)
        teacher.teacher(todo["teacher"], force)
        student.student.with_options(task_runner=side_by_side)(todo["student"], force)
        release.release(todo["release"], force)
    return {receipt.stage: receipt.status for receipt in journal.receipts()}
