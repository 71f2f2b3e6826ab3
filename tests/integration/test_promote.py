"""The promotion gate against a real MLflow registry on SQLite."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DigestMismatch, LineageError, ParamsError, PromotionRefused
from tasks.params import Params, read_params
from tasks.promote import REFUSED_EXIT, promote
from tasks.registry import ledger_of, registry
from tasks.tracking import open_client
from tasks.workspace import Workspace
from tests.promotion import make_scores, make_student, staged, stand

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def params(workspace: Workspace) -> Params:
    """The settings of the project."""
    return read_params(workspace.params)


def test_first_student_is_staged_with_its_lineage(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    done = promote(workspace, params)
    assert (done.version, done.moved) == ("1", True)
    (version,) = open_client(workspace).search_model_versions("name = 'tessera-student'")
    assert str(version.source).startswith("models:/m-")
    assert version.tags["tessera.lineage.pack"] == "a" * 64
    assert json.loads(version.tags["tessera.scores"]) == {
        "suite": "s1",
        "rank_prefix": 128,
        "composite": {"16": 0.1, "128": 0.5},
    }
    assert version.tags["tessera.digest"] == version.tags["tessera.lineage.distill-N"]


def test_registered_source_holds_the_very_weights(workspace: Workspace, params: Params) -> None:
    stand(workspace, 3.0, 0.5)
    promote(workspace, params)
    client = open_client(workspace)
    (version,) = client.search_model_versions("name = 'tessera-student'")
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    stored = Path(model.artifact_location.removeprefix("file://")) / "model.safetensors"
    made = workspace.output("distill@N") / "model.safetensors"
    assert made.read_bytes() == stored.read_bytes()


def test_promoting_the_same_student_again_makes_no_version(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    again = promote(workspace, params)
    assert (again.version, again.moved) == ("1", False)
    assert len(registry(workspace)) == 1


def test_better_student_takes_the_alias_and_the_older_version_stays(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    stand(workspace, 2.0, 0.6)
    promote(workspace, params)
    assert staged(workspace) == {"staging": "2"}
    assert [v.candidate.composite for v in registry(workspace)] == [0.5, 0.6]


def test_worse_student_is_refused_with_both_numbers(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    stand(workspace, 2.0, 0.4)
    with pytest.raises(PromotionRefused, match=r"0\.500000.*0\.400000"):
        promote(workspace, params)
    assert staged(workspace) == {"staging": "1"}
    assert len(registry(workspace)) == 1
    assert [line["decision"] for line in ledger_of(workspace).lines() if "decision" in line] == [
        "promote",
        "refuse",
    ]


def test_margin_lets_a_slightly_worse_student_through(workspace: Workspace, params: Params) -> None:
    lenient = params.model_copy(
        update={"promote": params.promote.model_copy(update={"margin": 0.2})}
    )
    stand(workspace, 1.0, 0.5)
    promote(workspace, lenient)
    stand(workspace, 2.0, 0.4)
    assert promote(workspace, lenient).version == "2"


def test_incumbent_of_another_suite_is_not_compared(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    stand(workspace, 2.0, 0.9, suite="s2")
    with pytest.raises(PromotionRefused, match=r"suite s2.*suite s1.*promote tessera-student-2"):
        promote(workspace, params)
    assert staged(workspace) == {"staging": "1"}


def test_both_ways_out_of_another_suite_are_open(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    stand(workspace, 2.0, 0.4, suite="s2")
    line = params.promote.model_copy(update={"model": "tessera-student-2"})
    assert promote(workspace, params.model_copy(update={"promote": line})).moved
    open_client(workspace).delete_registered_model_alias("tessera-student", "staging")
    assert promote(workspace, params).version == "2"


def test_reevaluated_incumbent_gets_its_new_scores_and_can_then_be_challenged(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    make_scores(workspace, 0.3, suite="s2")
    assert "renewed" in promote(workspace, params).text
    stand(workspace, 2.0, 0.4, suite="s2")
    assert promote(workspace, params).version == "2"


def test_incumbent_without_a_score_is_never_taken_for_a_low_one(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    client = open_client(workspace)
    stand(workspace, 2.0, 0.6)
    facts = {"suite": "s1", "rank_prefix": 128}
    for composite in ({"128": "nan"}, {"128": "0.1"}, {"16": 0.1}):
        text = json.dumps(facts | {"composite": composite})
        client.set_model_version_tag("tessera-student", "1", "tessera.scores", text)
        for alias in ("staging", "production"):
            with pytest.raises(PromotionRefused, match="finite composite score"):
                promote(workspace, params, to=alias)
    client.set_model_version_tag("tessera-student", "1", "tessera.scores", "not scores")
    with pytest.raises(PromotionRefused, match="suite none"):
        promote(workspace, params)
    assert staged(workspace) == {"staging": "1"}


def test_without_labels_nothing_is_promoted(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, None)
    with pytest.raises(PromotionRefused, match="labels: none"):
        promote(workspace, params)
    assert registry(workspace) == []


def test_student_made_again_after_its_evaluation_is_not_promoted(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    make_student(workspace, 2.0)
    with pytest.raises(LineageError, match="dvc repro evaluate"):
        promote(workspace, params)


def test_tampered_scores_are_not_promoted(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    scores = workspace.output("evaluate") / "scores.json"
    scores.write_text(scores.read_text().replace("0.5", "0.9"))
    with pytest.raises(DigestMismatch):
        promote(workspace, params)


def test_student_restored_without_its_run_is_logged_on_promotion(
    workspace: Workspace, params: Params, mlflow_template: Path
) -> None:
    stand(workspace, 1.0, 0.5)
    shutil.rmtree(workspace.state / "mlflow")
    (workspace.state / "mlflow").mkdir()
    shutil.copy(mlflow_template, workspace.state / "mlflow" / "mlflow.db")
    assert promote(workspace, params).version == "1"
    (version,) = open_client(workspace).search_model_versions("name = 'tessera-student'")
    assert str(version.source).startswith("models:/m-")


def test_model_behind_a_hundred_others_is_found(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    client = open_client(workspace)
    for number in range(101):
        client.create_registered_model(f"another-{number:03d}")
    promote(workspace, params)
    assert promote(workspace, params).moved is False
    assert staged(workspace) == {"staging": "1"}
    stand(workspace, 2.0, 0.4)
    with pytest.raises(PromotionRefused, match=r"0\.500000.*0\.400000"):
        promote(workspace, params)


def test_production_takes_only_what_staging_holds(workspace: Workspace, params: Params) -> None:
    with pytest.raises(PromotionRefused, match="version in staging"):
        promote(workspace, params, to="production")
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    assert promote(workspace, params, to="production").version == "1"
    stand(workspace, 2.0, 0.6)
    promote(workspace, params)
    assert staged(workspace) == {"staging": "2", "production": "1"}


def test_an_alias_that_does_not_exist_is_refused(workspace: Workspace, params: Params) -> None:
    with pytest.raises(ParamsError, match="expected staging or production; found prod"):
        promote(workspace, params, to="prod")


def start(workspace: Workspace) -> "subprocess.Popen[str]":
    environment = workspace.environment() | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tasks.promote"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_two_promoters_at_once_make_one_version(workspace: Workspace) -> None:
    stand(workspace, 1.0, 0.5)
    both = [start(workspace), start(workspace)]
    texts = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("already there" in text for text in texts) == 1
    assert len(registry(workspace)) == 1


def test_refusal_exits_with_three_and_says_why_in_the_last_line(workspace: Workspace) -> None:
    stand(workspace, 1.0, None)
    process = start(workspace)
    _, text = process.communicate()
    assert process.returncode == REFUSED_EXIT
    assert text.splitlines()[-1].startswith("tessera: PromotionRefused: ")


def test_registry_says_who_is_where_and_why(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    (version,) = registry(workspace)
    told = version.to_json()
    assert told["aliases"] == ["staging"]
    assert told["composite"] == {"16": 0.1, "128": 0.5}
    assert "no incumbent" in told["why"]
    assert np.isfinite(version.candidate.composite)
