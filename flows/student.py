"""From targets to the students, one stage each."""

from prefect import flow
from prefect.futures import wait

from flows.steps import end_stages_on_error, run_stage
from tasks.running.journal import Receipt

STAGES = ("distill",)
"""Stages of ``dvc.yaml`` that belong here; a test holds them against the graph."""


@flow(name="student")
def student(stages: list[str], force: bool = False) -> list[Receipt]:
    """Distil the students, which do not depend on each other.

    How many at once is the task runner's affair. If one fails, the others are finished first.

    Args:
        stages: The stages to run, one a student.
        force: Run them even if nothing has changed.
    """
    with end_stages_on_error():
        futures = [run_stage.submit(stage, force) for stage in stages]
        wait(futures)
    return [future.result() for future in futures]
