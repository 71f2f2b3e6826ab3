"""From shards to a frozen teacher and its cached targets."""

from prefect import flow

from flows.steps import run_stage
from tasks.running.journal import Receipt

STAGES = ("pretrain", "cache_targets")
"""Stages of ``dvc.yaml`` that belong here; a test holds them against the graph."""


@flow(name="teacher")
def teacher(stages: list[str], force: bool = False) -> list[Receipt]:
    """Pretrain the teacher, then let it read every d-pixel once.

    Args:
        stages: The stages to run, in order.
        force: Run them even if nothing has changed.
    """
    return [run_stage(stage, force) for stage in stages]
