import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.errors import LineageError, ParamsError
from tasks.running.graph import (
    ON_DEMAND,
    ancestors_of,
    items_of,
    outdated,
    share_out,
    stages,
    stages_from,
)
from tasks.workspace import Workspace
from tests.toy_project import Toy, make_toy

REPOSITORY = Path(__file__).parents[2]

DIAMOND: dict[str, tuple[str, ...]] = {
    "a": (),
    "b": ("a",),
    "c@1": ("a",),
    "c@2": ("a",),
    "d": ("b", "c@1", "c@2"),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("graph") / "toy")


@pytest.fixture
def workspace(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name, value in toy.environment().items():
        monkeypatch.setenv(name, value)
    return Workspace(toy.root)


def declared_stages() -> Iterator[str]:
    """Stage addresses as a person reads them in dvc.yaml, without asking DVC."""
    content = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name, stage in content.items():
        items = next(iter(stage.get("matrix", {}).values()), [None])
        yield from (name if item is None else f"{name}@{item}" for item in items)


def test_every_stage_of_dvc_yaml_is_in_the_graph_with_its_matrix_items() -> None:
    assert set(declared_stages()) == set(stages(Workspace(REPOSITORY)))


def test_a_stage_on_demand_counts_only_where_it_is_asked_for(
    workspace: Workspace, toy: Toy
) -> None:
    file, address = toy.root / ON_DEMAND, f"{ON_DEMAND}:controls"
    file.parent.mkdir(parents=True)
    file.write_text("stages: {controls: {cmd: 'false', outs: [never]}}\n")
    try:
        assert address not in outdated(workspace)
        assert address not in stages(workspace)
        assert outdated(workspace, [ON_DEMAND]) == [address]
    finally:
        file.unlink()
        file.parent.rmdir()


def test_every_stage_comes_after_what_it_reads() -> None:
    seen: set[str] = set()
    for stage, upstream in stages(Workspace(REPOSITORY)).items():
        assert set(upstream) <= seen
        seen.add(stage)


def test_sub_flows_run_every_stage_of_dvc_yaml_once_and_in_its_order(tmp_path: Path) -> None:
    # Imported in a process of its own: Prefect makes its home folder on import.
    code = "import json; from flows.full import SECTIONS as s; print(json.dumps(list(s.values())))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    listed = [stage for section in YAML(typ="safe").load(done.stdout) for stage in section]
    graph = stages(Workspace(REPOSITORY))
    in_order = list(dict.fromkeys(stage.split("@")[0] for stage in graph))
    assert sorted(in_order) == sorted(listed)
    for stage, upstream in graph.items():
        later = listed.index(stage.split("@")[0])
        assert all(listed.index(up.split("@")[0]) < later for up in upstream)


def test_pinned_data_is_no_stage(workspace: Workspace) -> None:
    assert not any(name.endswith(".dvc") for name in stages(workspace))


def test_a_broken_graph_is_a_message_and_not_a_traceback(workspace: Workspace, toy: Toy) -> None:
    graph = toy.root / "dvc.yaml"
    whole = graph.read_text()
    graph.write_text(whole + "  broken: {no_such_key: 1}\n")
    try:
        with pytest.raises(ParamsError, match=r"dvc\.yaml"):
            stages(workspace)
    finally:
        graph.write_text(whole)


def test_ancestors_are_all_stages_above_and_not_the_stage_itself() -> None:
    assert ancestors_of(DIAMOND, ["d"]) == ["a", "b", "c@1", "c@2"]
    assert ancestors_of(DIAMOND, ["c@1", "c@2"]) == ["a"]
    assert ancestors_of(DIAMOND, ["a"]) == []


def test_a_matrix_name_stands_for_all_its_items() -> None:
    assert items_of(DIAMOND, "c") == ["c@1", "c@2"]
    assert items_of(DIAMOND, "c@2") == ["c@2"]


def test_an_unknown_stage_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ParamsError, match="a, b, c@1"):
        items_of(DIAMOND, "nothing")


def test_a_stage_that_no_section_lists_is_refused_instead_of_left_out() -> None:
    with pytest.raises(ParamsError, match="found d"):
        share_out(DIAMOND, {"one": ("a", "b"), "two": ("c",)})


def test_matrix_items_go_to_the_section_of_their_stage() -> None:
    shares = share_out(DIAMOND, {"one": ("a", "b"), "two": ("c", "d")})
    assert shares == {"one": ["a", "b"], "two": ["c@1", "c@2", "d"]}


def test_starting_late_is_refused_while_an_earlier_stage_is_not_up_to_date(
    workspace: Workspace,
) -> None:
    with pytest.raises(LineageError, match="ingest"):
        stages_from(workspace, "distill")


def test_starting_late_leaves_out_what_is_above_once_it_is_up_to_date(
    workspace: Workspace, toy: Toy
) -> None:
    toy.python("dvc", "repro", "pack", check=True)
    assert outdated(workspace, ["ingest", "validate", "pack"]) == []
    todo = stages_from(workspace, "pretrain")
    assert todo[0] == "pretrain"
    assert not {"ingest", "validate", "pack"} & set(todo)
    assert {"distill@N", "distill@S", "distill@M", "distill@L", "report"} <= set(todo)
