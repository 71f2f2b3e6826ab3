"""From students to scores, a promoted model, embedding tiles and the report."""

from prefect import flow

from flows.steps import promote, run_stage
from tasks.running.journal import Receipt

STAGES = ("evaluate", "export", "report")
"""Stages of ``dvc.yaml`` that belong here; a test holds them against the graph."""


@flow(name="release")
def release(stages: list[str], force: bool = False) -> list[Receipt]:
    """Score the students, ask the gate, and publish.

    The gate is asked whenever the scores are at hand; it promotes nothing twice.

    Args:
        stages: The stages to run, in order.
        force: Run them even if nothing has changed.
    """
    scoring = [stage for stage in stages if stage == "evaluate"]
    publishing = [stage for stage in stages if stage != "evaluate"]
    scored = [run_stage(stage, force) for stage in scoring]
    return [*scored, promote(), *(run_stage(stage, force) for stage in publishing)]
