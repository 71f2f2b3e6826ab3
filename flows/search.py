"""Search settings of the pretraining: ``prefect deployment run tessera-search/search``.

A trial is a Prefect task of its own, so that the pages show which one is at work and how each ended;
what a trial is, and why it is not done twice, is in ``tasks.search``.
"""

from typing import Any, cast

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.artifacts import key_of
from flows.full import end_leftovers
from flows.steps import end_stages_on_error, journal_of_this_run
from tasks import search as searching
from tasks.running.journal import RUN_MARK
from tasks.searching.overrides import expand
from tasks.workspace import find_workspace


@task(task_run_name="{trial.name}", cache_policy=NO_CACHE)
def run_trial(search: str, trial: searching.Trial) -> searching.Row:
    """Train one trial, or take what it came to before."""
    journal = journal_of_this_run()
    return searching.run_trial(journal.workspace, search, trial, {RUN_MARK: journal.run})


@flow(name="trials")
def train_all(search: str, trials: list[searching.Trial]) -> list[searching.Row]:
    """Train the trials, which do not depend on each other; if one fails, the others go on."""
    with end_stages_on_error():
        futures = [run_trial.submit(search, trial) for trial in trials]
        wait(futures)
    return [future.result() for future in futures]


@flow(name="tessera-search", on_cancellation=[end_leftovers], on_crashed=[end_leftovers])
def search(
    name: str = "search",
    grid: dict[str, list[Any]] | None = None,
    trials: list[dict[str, Any]] | None = None,
    at_once: int = 1,
) -> list[searching.Row]:
    """Train each set of settings on the packed corpus and rank them by their downstream probe.

    Args:
        name: Of the search; trials of an earlier run of the same name stay in its table.
        grid: Values to try by setting of the section ``pretrain``, in all combinations.
        trials: Sets of settings to try as they are.
        at_once: Trials that are trained at the same time.

    Returns:
        The trials of this run, best first.

    Raises:
        ParamsError: A trial is not valid; then none is run.
        StageFailed: A trial ended with an error; those that did not are in the table.
    """
    workspace = find_workspace()
    planned = searching.plan(workspace, name, expand(grid, trials))
    journal_of_this_run().open()
    # The cast: Prefect types a runner by its futures, and takes only the abstract kind here.
    side_by_side = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(at_once))
    try:
        found = train_all.with_options(task_runner=side_by_side)(name, planned)
    finally:
        table = searching.read_table(workspace, name)
        if table:
            searching.write_table(workspace, name, table)
            create_table_artifact(table, key=key_of("search", name), description="Best first")
    return searching.ranked(found)
