"""The control experiments: components against numpy, scores in pairs, files that say the same."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.controlling.compression import fit_components
from tasks.controlling.page import render, write_results
from tasks.controlling.scoring import REFERENCE, Control, score_controls
from tasks.controls import require_own_targets
from tasks.errors import ParamsError
from tasks.evaluation.labels import Task
from tasks.evaluation.probes import folds_of, probe
from tasks.manifest import MANIFEST, Manifest
from tasks.params import Params, read_params
from tests.builders import SECTION

REPOSITORY = Path(__file__).parents[2]
SMALL = SECTION.model_copy(update={"prefixes": (2, 4, 8), "rank_prefix": 8, "bootstrap": 60})
Features = NDArray[np.float32]


class Targets:
    """Embeddings in blocks, as a corpus of targets gives them."""

    def __init__(self, blocks: list[NDArray[np.float16]]) -> None:
        self.blocks, self.num_blocks, self.width = blocks, len(blocks), blocks[0].shape[1]

    def targets(self, number: int) -> tuple[NDArray[np.uint64], NDArray[np.float16]]:
        block = self.blocks[number]
        return np.zeros(len(block), np.uint64), block


def test_components_are_the_singular_vectors_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(90, 6)) @ rng.normal(size=(6, 6)) + 40).astype(np.float16)
    found = fit_components(Targets([rows[:32], rows[32:64], rows[64:]]))  # type: ignore[arg-type]  # all that is read of one
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions.T
    coordinates = found.transform(rows.astype(np.float32))
    np.testing.assert_allclose(np.abs(coordinates), np.abs(expected), atol=1e-3)
    np.testing.assert_allclose(found.explained, np.cumsum(singular**2) / (singular**2).sum())


def tasks() -> list[Task]:
    group = np.repeat(np.arange(24), 10)
    value = np.array([3, 11, 40])[group % 3]
    amount = np.random.default_rng(0).normal(size=24)[group]
    rows, folds = np.arange(len(group)), 3
    return [
        Task("cover", "classification", np.zeros_like(group), rows, group, value, folds, {}),
        Task("amount", "regression", np.zeros_like(group), rows, group, amount, folds, {}),
    ]


def features(*, noise: float, seed: int = 0, width: int = 8) -> list[Features]:
    """Features of both tasks that say less, the more noise there is."""
    rng = np.random.default_rng(seed)
    told = [np.eye(3)[task.group % 3] for task in tasks()]
    mixed = [own @ rng.normal(size=(3, width)) for own in told]
    return [(m + noise * rng.normal(size=m.shape)).astype(np.float32) for m in mixed]


def scored(*controls: Control) -> dict[tuple[str, int], dict[str, Any]]:
    rows = score_controls(controls, tasks(), SMALL)
    return {(row["control"], row["prefix"]): row for row in rows}


def test_a_score_is_the_mean_of_the_probes_over_tasks_and_seeds() -> None:
    runs = [features(noise=2, seed=1), features(noise=2, seed=2)]
    row = scored(Control(REFERENCE, "", runs))[REFERENCE, 4]
    of_seed = [
        np.mean(
            [
                probe(x[:, :4], task, folds_of(task, SMALL.seed), SMALL).score
                for x, task in zip(run, tasks(), strict=True)
            ]
        )
        for run in runs
    ]
    assert row["seeds"] == pytest.approx(of_seed)
    assert row["score"] == pytest.approx(np.mean(of_seed))
    assert row["low"] <= row["score"] <= row["high"]
    assert set(row["tasks"]) == {"cover", "amount"}


def test_equal_features_differ_by_nothing_in_every_draw() -> None:
    runs = [features(noise=2, seed=1), features(noise=2, seed=2)]
    row = scored(Control(REFERENCE, "", runs), Control("twin", "", runs))["twin", 8]
    names = ("difference", "difference_low", "difference_high")
    assert [row[name] for name in names] == [0.0, 0.0, 0.0]
    assert row["high"] > row["low"]


def test_a_worse_control_is_found_worse_and_one_of_a_single_run_is_paired_with_all_seeds() -> None:
    good = [features(noise=0.3, seed=seed) for seed in (1, 2, 3)]
    found = scored(Control(REFERENCE, "", good), Control("bad", "", [features(noise=30)]))
    assert found["bad", 8]["difference_high"] < 0 < found[REFERENCE, 8]["low"]


def test_what_a_prefix_retains_is_its_share_of_the_longest() -> None:
    found = scored(Control(REFERENCE, "", [features(noise=1)]))
    short, longest = found[REFERENCE, 2], found[REFERENCE, 8]
    assert short["retained"] == pytest.approx(short["score"] / longest["score"])
    assert short["retained_low"] < short["retained"] < short["retained_high"]
    names = ("retained", "retained_low", "retained_high")
    assert [longest[name] for name in names] == [1.0, 1.0, 1.0]


def test_the_longest_prefix_is_the_longest_in_whatever_order_they_are_named() -> None:
    control = Control(REFERENCE, "", [features(noise=1)])
    falling = SMALL.model_copy(update={"prefixes": (8, 4, 2)})
    rows = {row["prefix"]: row for row in score_controls([control], tasks(), falling)}
    assert rows[8]["retained"] == 1.0
    assert rows[2]["retained"] == scored(control)[REFERENCE, 2]["retained"]


def test_targets_of_a_teacher_from_outside_are_refused(tmp_path: Path) -> None:
    def made_from(parents: dict[str, str]) -> Path:
        manifest = Manifest("cache_targets", "", {}, parents, "", "", {}, {})
        (tmp_path / MANIFEST).write_bytes(manifest.to_bytes())
        return tmp_path

    require_own_targets(made_from({"pack": "0" * 64, "pretrain": "1" * 64}))
    with pytest.raises(ParamsError, match=r"those of the teacher 2222.*cache_targets\.teacher"):
        require_own_targets(made_from({"pack": "0" * 64, "teacher": "2" * 64}))


def test_prefix_that_a_control_does_not_reach_is_left_out() -> None:
    short = [part[:, :4] for part in features(noise=1)]
    found = scored(Control(REFERENCE, "", [features(noise=1)]), Control("short", "", [short]))
    assert [prefix for name, prefix in found if name == "short"] == [2, 4]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    controls = [
        Control(REFERENCE, "the <student>", [features(noise=1)]),
        Control("other", "another", [features(noise=3)]),
    ]
    return {
        **{"size": "N", "seeds": [11], "rows": score_controls(controls, tasks(), SMALL)},
        "meanings": {control.name: control.meaning for control in controls},
    }


def test_files_tell_the_same_and_are_the_same_bytes_again(
    content: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, content)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["controls.csv", "controls.html", "controls.json", "controls.png"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = json.loads((tmp_path / "one" / "controls.json").read_text())["rows"]
    table = list(csv.DictReader(io.StringIO((tmp_path / "one" / "controls.csv").read_text())))
    assert [float(row["score"]) for row in table] == pytest.approx(
        [row["score"] for row in rows], rel=1e-5
    )
    page = (tmp_path / "one" / "controls.html").read_text()
    assert "for the trainings of seed 11 alone" in page
    assert "and the trainings of seeds 11, 12" in render(content | {"seeds": [11, 12]})
    assert "the &lt;student&gt;" in page
    assert f"{rows[0]['score']:.3f}" in page
    assert f"{rows[0]['score']:.3f}" in render(content)


def test_the_same_seed_twice_is_refused() -> None:
    content = read_params(REPOSITORY / "params.yaml").model_dump(mode="json", by_alias=True)
    for section in ("pretrain", "distill"):
        content[section] = getattr(read_params(REPOSITORY / "params.yaml"), section).complete()
    with pytest.raises(ValueError, match="not all different"):
        Params.model_validate(content | {"controls": {"size": "N", "seeds": [3, 3]}})
