"""What a training leaves: the selected weights, the others beside them, and the table of candidates."""

import csv
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats

from models.checkpoint import load_student, read_checkpoint
from models.initialisation import initialise
from models.student import Student
from tasks.checkpoints import open_checkpoint
from tasks.errors import LineageError
from tasks.params import read_params
from tasks.settings.training import DistillParams
from tasks.stage import Stage
from tasks.training.records import Recorder
from tasks.training.result import Result, compare, table_of
from tasks.training.selection import Candidate, open_selection
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
LOSSES = {2: 0.9, 4: 0.5, 6: 0.3, 8: 0.2}
SCORES = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.4}


class Silent:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, rows: list[dict[str, float]]) -> None:
        """Take rows."""
        self.rows += rows


def section() -> DistillParams:
    params = read_params(REPOSITORY / "params.yaml").distill
    changes = {"steps": 8, "probe_every": 2, "early_share": 0.2}
    return params.model_copy(update=changes)


def finished(tmp_path: Path, scores: dict[int, float] | None) -> tuple[Result, Stage]:
    """Return the result of a training whose weights say their step."""
    params = section()
    for name in ("build", "work", "pack"):
        (tmp_path / name).mkdir()
    stage = Stage(
        "distill@N",
        Workspace(tmp_path),
        {"pack": tmp_path / "pack"},
        *(tmp_path / "build", tmp_path / "work"),
        cast(Any, Silent()),
    )
    recorder = Recorder(stage.work / "records.jsonl")
    for step in range(8):
        recorder.add({"step": step, "loss": 10.0 - step})
    model = Student(params.students["N"])
    initialise(model, seed=1)
    selection = open_selection(stage.work, params)
    for step, loss in LOSSES.items():
        first_bias(model)[:] = step
        numbers = {"held_out_loss": loss}
        if scores:
            numbers |= {"probe": scores[step], "probe_error": 0.05}
        selection.offer(step, model.state_dict(), numbers)
    return Result(stage, params, params.students["N"], recorder), stage


def first_bias(model: Student) -> torch.Tensor:
    return model.get_parameter("dim_reducer.0.bias").data


def step_of(folder: Path) -> int:
    bias = first_bias(load_student(folder))
    assert torch.all(bias == bias[0])
    return int(bias[0])


def test_the_best_score_is_the_result_and_early_and_late_stand_beside_it(tmp_path: Path) -> None:
    result, stage = finished(tmp_path, SCORES)
    digest = result.write()
    result.write_aside("early", 2)
    result.write_aside("late", 8)
    assert LOSSES[8] < LOSSES[4]
    assert step_of(stage.build) == 4
    assert [step_of(stage.build / name) for name in ("early", "late")] == [2, 8]
    assert open_checkpoint(stage.build).digest == digest
    provenance = [
        read_checkpoint(folder)[1]["provenance"] for folder in (stage.build, stage.build / "late")
    ]
    assert [(p["step"], p["role"]) for p in provenance] == [(4, "selected"), (8, "late")]
    assert stage.counts["selected_step"] == 4


def test_the_table_has_loss_and_score_of_the_same_weights_and_their_correlation(
    tmp_path: Path,
) -> None:
    result, stage = finished(tmp_path, SCORES)
    result.write()
    with (stage.build / "checkpoints.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert [float(row["loss"]) for row in rows] == [9.0, 7.0, 5.0, 3.0]
    assert [float(row["probe"]) for row in rows] == list(SCORES.values())
    assert [int(row["selected"]) for row in rows] == [0, 1, 0, 0]
    content = json.loads((stage.build / "checkpoints.json").read_text())
    x, y = list(LOSSES.values()), list(SCORES.values())
    assert (content["loss"], content["n"]) == ("held_out_loss", 4)
    assert content["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-6)
    assert content["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-6)
    tracked = cast(Any, stage.tracker).rows[-1]
    assert tracked["loss_against_score.pearson"] == content["pearson"]
    assert tracked["loss_against_score.n"] == 4


def test_without_a_probe_the_last_weights_are_the_result_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, stage = finished(tmp_path, None)
    result.write()
    assert step_of(stage.build) == 8
    content = json.loads((stage.build / "checkpoints.json").read_text())
    assert (content["n"], content["pearson"], content["spearman"]) == (0, None, None)
    assert "step 8 of 4 candidates, the last: nothing was probed" in "".join(capsys.readouterr())


def test_a_training_without_candidates_is_refused(tmp_path: Path) -> None:
    result, stage = finished(tmp_path, SCORES)
    (stage.work / "candidates" / "candidates.json").unlink()
    with pytest.raises(LineageError, match="at least its last weights; found none"):
        result.write()


def test_the_training_loss_stands_in_where_nothing_is_held_out() -> None:
    records = [{"step": n, "loss": float(np.cos(n))} for n in range(6)]
    candidates = [Candidate(n, {"probe": float(n % 3)}, None) for n in (1, 3, 4, 6)]
    facts = compare(table_of(candidates, records, 4))
    losses = [np.cos(n - 1) for n in (1, 3, 4, 6)]
    assert (facts["loss"], facts["selected"]) == ("loss", 4)
    expected = stats.pearsonr(losses, [1, 0, 1, 0]).statistic
    assert facts["pearson"] == pytest.approx(expected, abs=1e-6)
