"""From the raw archive to shuffled shards of d-pixels."""

from prefect import flow

from flows.steps import run_stage
from tasks.running.journal import Receipt

STAGES = ("ingest", "validate", "pack")
"""Stages of ``dvc.yaml`` that belong here; a test holds them against the graph."""


@flow(name="data")
def data(stages: list[str], force: bool = False) -> list[Receipt]:
    """Catalogue the archive, check it, pack it.

    Args:
        stages: The stages to run, in order.
        force: Run them even if nothing has changed.
    """
    return [run_stage(stage, force) for stage in stages]
