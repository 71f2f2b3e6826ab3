"""What a flow run shows in Prefect's pages: verdict, scores, stages.

Each page is a view of a file that a stage wrote or of the run's receipts; nothing is computed here.
A run shows only what its own stages brought about: results that an earlier run left are not its own.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.running import outcome
from tasks.running.journal import Journal


def key_of(*words: str) -> str:
    """Return an artifact key, which Prefect limits to lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower())


@contextmanager
def shown(journal: Journal) -> Iterator[None]:
    """Publish what a run did when the block ends; its own error goes before one of the pages."""
    try:
        yield
    except BaseException:
        # Whatever goes wrong with a page is less than what is already on its way up.
        with suppress(Exception):
            show(journal)
        raise
    show(journal)


def show(journal: Journal) -> None:
    """Publish the verdict, the scores and the stages of a run, as far as it came."""
    if found := outcome.verdict_of_run(journal):
        create_markdown_artifact(_verdict_page(found), key="validation")
    rows = [{"model": m} | by for m, by in outcome.scores_of_run(journal).items()]
    if rows:
        create_table_artifact(rows, key="scores", description="Composite scores by prefix")
    stages = [
        {"stage": r.stage, "status": r.status, "seconds": r.seconds, "message": r.message}
        for r in journal.receipts()
    ]
    if stages:
        create_table_artifact(stages, key="stages", description="What this run did")


def _verdict_page(found: outcome.Verdict) -> str:
    head = "passed" if found["success"] else "failed"
    lines = [
        f"## Validation {head}: {len(found['checks'])} checks, {len(found['failures'])} broken"
    ]
    if found["failures"]:
        lines += [
            "",
            "| tile | sensor | band | expectation | found | expected |",
            "|---|---|---|---|---|---|",
        ]
    for failure in found["failures"]:
        cells = ("tile", "sensor", "band", "expectation", "found", "expected")
        lines.append("| " + " | ".join(str(failure[cell]) for cell in cells) + " |")
    return "\n".join(lines) + "\n"
