import json
from pathlib import Path

from tasks.running.journal import Journal, Receipt
from tasks.running.outcome import mlflow_run, outcome, render, scores_of_run, verdict_of_run
from tasks.workspace import Workspace

RECEIPTS = [
    Receipt("evaluate", "ran", 12.25),
    Receipt("promote", "kept", 0.5, message="the incumbent 2 stays"),
]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_before_any_stage_has_run_the_outcome_is_empty_and_still_renders(tmp_path: Path) -> None:
    found = outcome(Workspace(tmp_path), [])
    assert (found.scores, found.decision, found.report, found.failure) == ({}, "", None, None)
    assert "tessera up" in render(found)


def test_the_summary_shows_stages_scores_decision_and_report(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    composite = {"N": {"16": 0.25, "128": 0.5}, "L": {"16": 0.75}}
    write(workspace.output("evaluate") / "scores.json", {"composite": composite})
    write(workspace.output("report") / "index.html", "")
    text = render(outcome(workspace, RECEIPTS))
    table = [line.split() for line in text.splitlines()]
    assert ["+", "evaluate", "ran", "12.2", "s"] in table
    assert ["=", "promote", "kept", "0.5", "s"] in table
    assert ["N", "0.250", "0.500"] in table
    assert ["L", "0.750", "-"] in table, "a score that was not computed is no zero"
    assert "Gate:   the incumbent 2 stays" in text
    assert "Report: artifacts/report/index.html" in text


def test_prefixes_are_in_order_of_length_not_of_spelling(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    composite = {"N": {"128": 0.1, "16": 0.2, "64": 0.3}}
    write(workspace.output("evaluate") / "scores.json", {"composite": composite})
    lines = [line.split() for line in render(outcome(workspace, [])).splitlines()]
    assert ["prefix", "16", "64", "128", "composite", "score"] in lines
    assert ["N", "0.200", "0.300", "0.100"] in lines


def test_a_failed_stage_is_the_failure_of_the_outcome(tmp_path: Path) -> None:
    failed = Receipt("pack", "failed", 1.0, message="DataError: no tiles")
    found = outcome(Workspace(tmp_path), [*RECEIPTS, failed])
    assert found.failure == failed
    assert json.loads(json.dumps(found.to_json()))["stages"][-1]["message"] == failed.message


def journal_of(workspace: Workspace, *receipts: Receipt) -> Journal:
    journal = Journal(workspace, f"run-{len(receipts)}")
    for receipt in receipts:
        journal.add(receipt)
    return journal


def test_results_of_earlier_runs_are_not_shown_as_those_of_a_run_that_did_not_get_there(
    tmp_path: Path,
) -> None:
    workspace = Workspace(tmp_path)
    write(workspace.output("validate") / "verdict.json", {"success": True})
    write(workspace.output("evaluate") / "scores.json", {"composite": {"N": {"16": 0.5}}})
    ingested = Receipt("ingest", "ran", 1.0)
    journal = journal_of(workspace, ingested)
    assert (verdict_of_run(journal), scores_of_run(journal)) == (None, {})
    journal = journal_of(workspace, ingested, Receipt("validate", "up to date", 1.0))
    assert (verdict_of_run(journal), scores_of_run(journal)) == ({"success": True}, {})
    evaluated = [Receipt(stage, "ran", 1.0) for stage in ("validate", "evaluate")]
    assert scores_of_run(journal_of(workspace, ingested, *evaluated)) == {"N": {"16": 0.5}}


def test_the_verdict_of_a_refused_archive_is_found_in_the_copy_that_is_kept(
    tmp_path: Path,
) -> None:
    workspace = Workspace(tmp_path)
    write(workspace.state / "validation" / "archive" / "verdict.json", {"success": False})
    refused = Receipt("validate", "failed", 1.0, message="ValidationFailed: 3 checks")
    assert verdict_of_run(journal_of(workspace, refused)) == {"success": False}


def test_a_validation_that_broke_down_does_not_show_an_earlier_verdict(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write(workspace.state / "validation" / "archive" / "verdict.json", {"success": False})
    killed = Receipt("validate", "failed", 1.0, message="exit code 255")
    assert verdict_of_run(journal_of(workspace, killed)) is None


def test_the_experiment_of_a_stage_is_known_from_its_provenance(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert mlflow_run(workspace, "distill@N") is None
    write(workspace.artifacts / "provenance" / "distill@N.json", {"mlflow_run": "abc"})
    assert mlflow_run(workspace, "distill@N") == "abc"
