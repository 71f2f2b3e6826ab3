"""What a search tries, and how it ranks what came out; running it is in the integration tests."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ParamsError
from tasks.files import write_json
from tasks.params import read_params
from tasks.search import ranked, read_result, read_table, write_table
from tasks.searching.overrides import applied, expand
from tasks.searching.project import is_complete, open_project, share_outputs
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
SECTION = read_params(REPOSITORY / "params.yaml").pretrain


def test_a_grid_is_all_combinations_and_a_list_comes_after_it() -> None:
    found = expand({"steps": [1, 2], "view_lengths": [[8], [8, 16]]}, [{"seed": 3}])
    assert found == [
        {"steps": 1, "view_lengths": [8]},
        {"steps": 1, "view_lengths": [8, 16]},
        {"steps": 2, "view_lengths": [8]},
        {"steps": 2, "view_lengths": [8, 16]},
        {"seed": 3},
    ]


@pytest.mark.parametrize("grid", [{"steps": 5}, {"steps": "12"}, {"steps": []}])
def test_a_grid_without_a_list_of_values_is_refused(grid: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="list of values to try"):
        expand(grid, None)


def test_no_trial_at_all_is_refused() -> None:
    with pytest.raises(ParamsError, match="at least one trial"):
        expand({}, [])


def test_a_trial_changes_what_it_names_and_nothing_else() -> None:
    found = applied(SECTION, {"projector.width": 64, "learning_rate": 0.5})
    assert (found.projector.width, found.learning_rate) == (64, 0.5)
    back = applied(
        found,
        {"projector.width": SECTION.projector.width, "learning_rate": SECTION.learning_rate},
    )
    assert back == SECTION


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"learning_rat": 1.0}, "learning_rat"),
        ({"projector.depth": 1}, "projector.depth"),
        ({"steps.more": 1}, "steps.more"),
        ({"steps": -3}, "steps: Input should be greater than 0"),
        ({"architecture.latent": 0}, "latent"),
    ],
)
def test_a_trial_that_pretraining_would_refuse_is_refused_before_it_runs(
    override: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        applied(SECTION, override)


def test_trials_are_ranked_by_the_probe_and_never_by_the_loss() -> None:
    rows: list[dict[str, Any]] = [
        {"trial": "a", "probe": 0.5, "loss": 1.0},
        {"trial": "b", "probe": None, "loss": 0.1},
        {"trial": "c", "probe": 0.7, "loss": 9.0},
        {"trial": "d", "probe": -0.1, "loss": 0.2},
    ]
    assert [row["trial"] for row in ranked(rows)] == ["c", "a", "d", "b"]


def test_the_numbers_of_a_trial_are_those_of_the_selected_checkpoint(tmp_path: Path) -> None:
    candidates = [
        {"step": 10, "selected": 1, "probe": 0.8, "loss": 7.0},
        {"step": 20, "selected": 0, "probe": 0.6, "loss": 3.0},
    ]
    write_json(tmp_path / "checkpoints.json", {"candidates": candidates})
    (tmp_path / "curves.csv").write_text("step,effective_rank\n0,4.5\n1,\n10,6.25\n11,\n")
    assert read_result(tmp_path) == {
        "step": 10,
        "probe": 0.8,
        "held_out_loss": None,
        "loss": 7.0,
        "effective_rank": 6.25,
    }


def test_the_table_holds_every_finished_trial_best_first(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.state / "search" / "lr"
    for trial, probe in (("one", 0.2), ("two", 0.9)):
        (folder / trial).mkdir(parents=True)
        write_json(folder / trial / "result.json", {"trial": trial, "probe": probe})
    (folder / "unfinished").mkdir()
    path = write_table(workspace, "lr", read_table(workspace, "lr"))
    with path.open() as stream:
        rows = [(row["rank"], row["trial"]) for row in csv.DictReader(stream)]
    assert rows == [("1", "two"), ("2", "one")]


def test_a_project_has_the_code_by_link_settings_of_its_own_and_shared_outputs(
    tmp_path: Path,
) -> None:
    source = Workspace(REPOSITORY)
    changes = {"pretrain": {"projector": {"width": 96}}}
    for _ in range(2):  # the second time it is taken up as it is
        project = open_project(source, tmp_path / "p", source.params, changes)
    params, original = read_params(project.params), read_params(source.params)
    assert params.pretrain.projector.width == 96
    assert params.pretrain.projector.layers == original.pretrain.projector.layers
    assert params.ingest.archive == str(REPOSITORY / original.ingest.archive)
    assert (project.root / "tasks").resolve() == REPOSITORY / "tasks"
    share_outputs(Workspace(tmp_path / "other"), project, ["pack"])
    assert project.output("pack").is_symlink()
    assert not is_complete(project, "pack")


def test_the_settings_of_the_study_are_valid() -> None:
    study = read_params(REPOSITORY / "infra" / "params" / "world.yaml")
    assert study.pretrain.architecture == SECTION.architecture
    assert study.pretrain.steps > SECTION.steps
