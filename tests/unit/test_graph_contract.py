"""Hold ``dvc.yaml`` against the code: a stage's deps are what can change its bytes."""

import re
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[2]
STAGES = {
    name: stage
    for file in ("dvc.yaml", "infra/controls/dvc.yaml")
    for name, stage in YAML(typ="safe").load((REPOSITORY / file).read_text())["stages"].items()
}

REPORTING = {
    *("tasks", "models", "tasks.errors", "tasks.lifeline", "tasks.lock"),
    *("tasks.params", "tasks.progress", "tasks.provenance", "tasks.tracking"),
    *("tasks.tracked_models", "tasks.workspace", "models.cost", "models.training_cost"),
    *("tasks.training.collapse", "tasks.training.events", "tasks.training.metering"),
    *("tasks.training.watch", "tasks.settings", "tasks.settings.data"),
    *("tasks.settings.products", "tasks.settings.section", "tasks.settings.training"),
}
"""Modules that cannot change an output's bytes: they report, find folders, or hand over settings
(which DVC compares value by value). A reworded message must not retrain a teacher."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("tasks", "models")


def source_of(module: str) -> str | None:
    path = Path(*module.split(".")).with_suffix(".py")
    return path.as_posix() if (REPOSITORY / path).is_file() else None


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_every_module_that_it_imports(
    stage: str, imports: grimp.ImportGraph
) -> None:
    module = f"tasks.{stage}"
    closure = {module, *imports.find_upstream_modules(module)} - REPORTING
    expected = {path for name in closure if (path := source_of(name))}
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == expected


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_run_as_a_module(stage: str) -> None:
    assert STAGES[stage]["cmd"].startswith(f"python -m tasks.{stage}")


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_outputs_that_its_code_reads(stage: str) -> None:
    source = (REPOSITORY / "tasks" / f"{stage}.py").read_text()
    found = re.search(r"parents=\(([^)]*)\)", source)
    literal = set(re.findall(r'"(\w+)"', found.group(1))) if found else set()
    declared = {dep.split("/")[1] for dep in STAGES[stage]["deps"] if dep.startswith("artifacts/")}
    assert literal <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_stage_writes_its_folder_and_its_provenance_and_nothing_else(stage: str) -> None:
    suffix = "/${item.size}" if "matrix" in STAGES[stage] else ""
    item = "@${item.size}" if suffix else ""
    assert STAGES[stage]["outs"] == [
        f"artifacts/{stage}{suffix}",
        f"artifacts/provenance/{stage}{item}.json",
    ]


def test_students_of_the_graph_are_those_of_the_settings() -> None:
    settings = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())
    assert STAGES["distill"]["matrix"]["size"] == list(settings["distill"]["students"])


def test_each_heavy_library_has_the_importers_that_are_listed() -> None:
    graph = grimp.build_graph("tasks", "models", "flows", include_external_packages=True)
    for library in ("deepspeed", "great_expectations", "sklearn", "onnx", "onnxruntime"):
        assert len(graph.find_modules_that_directly_import(library)) == 1, library
    runs_and_models = {"tasks.tracking", "tasks.tracked_models"}
    assert graph.find_modules_that_directly_import("mlflow") == runs_and_models
    arrow = {f"tasks.shards.{part}" for part in ("index", "reader", "rows", "taking", "writer")}
    parquet = {"tasks.points", "tasks.stac.point_tables"}
    formats = arrow | parquet | {"tasks.inspection.shard_files"}
    assert graph.find_modules_that_directly_import("pyarrow") == formats
    pictures = {
        *("tasks.controlling.picture", "tasks.inspection.drawing"),
        *("tasks.reporting.maps", "tasks.reporting.overlay"),
    }
    assert graph.find_modules_that_directly_import("matplotlib") == pictures
    importers = graph.find_modules_that_directly_import("prefect")
    assert importers
    assert all(name.startswith("flows") for name in importers)
