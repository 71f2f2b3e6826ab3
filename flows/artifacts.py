"""What a flow run shows in Prefect's pages: verdict, scores, stages.

Each page is a view of a file that a stage wrote or of the run's receipts; nothing is computed here.
"""

import re

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.running import outcome
from tasks.running.journal import Journal


def key_of(*words: str) -> str:
    """Return an artifact key, which Prefect limits to lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower())


def show(journal: Journal) -> None:
    """Publish the verdict, the scores and the stages of a run, as far as it came."""
    if found := outcome.verdict(journal.workspace):
        create_markdown_artifact(_verdict_page(found), key="validation")
    rows = [{"model": m} | by for m, by in outcome.scores(journal.workspace).items()]
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
