"""The two Prefect tasks of the pipeline: run a stage, ask the gate.

A task supervises one process (``tasks.running.reproduce``) and files its receipt; what the stage does is
not known here. Prefect's own cache is off because DVC decides what is up to date, and two caches
could disagree. Only what time heals is tried again: another door at work, or a machine that was
wanted for something else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.tasks import Task

from flows.artifacts import key_of
from tasks.errors import Preempted, StageBusy
from tasks.running import reproduce
from tasks.running.journal import Journal, Receipt
from tasks.running.outcome import mlflow_run
from tasks.serving.servers import mlflow_url
from tasks.workspace import Workspace, find_workspace

_RETRIES = 360
_DELAY_S = 10.0


def journal_of_this_run() -> Journal:
    """Return the journal of the flow run that calls, which is that of its outermost flow."""
    return Journal(find_workspace(), str(flow_run.root_flow_run_id))


@contextmanager
def end_stages_on_error() -> Iterator[None]:
    """End the stages that run in other threads when the flow's own thread is interrupted.

    A cancellation reaches the main thread only, and Prefect then waits for the others.
    """
    try:
        yield
    except BaseException:
        journal_of_this_run().end()
        raise


def _heals(_task: Task[..., Receipt], _run: TaskRun, state: State[Receipt]) -> bool:
    return isinstance(state.data, (StageBusy, Preempted))


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=_RETRIES,
    retry_delay_seconds=_DELAY_S,
    retry_condition_fn=_heals,
)
def run_stage(stage: str, force: bool = False) -> Receipt:
    """Bring one stage of ``dvc.yaml`` up to date, with its output in the run's log.

    Args:
        stage: Address in ``dvc.yaml``, e.g. ``pack`` or ``distill@N``.
        force: Run it even if nothing has changed.

    Raises:
        StageFailed: The stage ended with an error.
        StageBusy: Another door was running a stage that this one needs for an hour.
        Preempted: The stage was asked to end more often than it is tried again.
    """
    journal = journal_of_this_run()
    receipt = reproduce.reproduce(journal, stage, say=get_run_logger().info, force=force)
    _link_experiment(journal.workspace, stage)
    return receipt


@task(task_run_name=reproduce.PROMOTE, cache_policy=NO_CACHE)
def promote() -> Receipt:
    """Ask the promotion gate; that it keeps the incumbent is an answer, not a failure."""
    return reproduce.promote(journal_of_this_run(), say=get_run_logger().info)


def _link_experiment(workspace: Workspace, stage: str) -> None:
    """Link the task run to the MLflow run that made the stage's output."""
    if run := mlflow_run(workspace, stage):
        create_link_artifact(
            link=f"{mlflow_url(workspace)}/#/runs/{run}",
            link_text=f"MLflow run of {stage}",
            key=key_of("mlflow", stage),
        )
