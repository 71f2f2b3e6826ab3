"""A search over a real small project: the flow, the trainings, MLflow, and what is not done twice."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from tasks.tracking import open_client
from tasks.workspace import Workspace
from tests.project import run

pytestmark = pytest.mark.slow

_FLOW = """
import json, sys
from prefect.testing.utilities import prefect_test_harness
from flows.search import search
with prefect_test_harness(server_startup_timeout=240):
    search(**json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def project(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("search") / "project"
    shutil.copytree(finished_project, root, symlinks=True)
    return Workspace(root)


def search(project: Workspace, code: int = 0, **arguments: object) -> str:
    """Run the flow with a server of its own, in memory; return what it printed."""
    wanted = json.dumps({"name": "rates", **arguments})
    return run(project.root, sys.executable, "-c", _FLOW, wanted, code=code)


def table(project: Workspace) -> list[dict[str, str]]:
    with (project.state / "search" / "rates" / "trials.csv").open() as stream:
        return list(csv.DictReader(stream))


def logs(project: Workspace) -> dict[str, int]:
    folder = project.state / "search" / "rates"
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/pretrain.log")}


def test_trials_are_trained_ranked_tracked_and_not_repeated(project: Workspace) -> None:
    before = project.params.read_bytes()
    search(project, grid={"learning_rate": [0.001, 0.004]}, at_once=2)
    rows, trained = table(project), logs(project)
    assert {row["learning_rate"] for row in rows} == {"0.001", "0.004"}
    assert [row["rank"] for row in rows] == ["1", "2"]
    probes = [float(row["probe"]) for row in rows]
    assert probes == sorted(probes, reverse=True)
    assert all(float(row["effective_rank"]) > 1 for row in rows)
    assert project.params.read_bytes() == before

    client = open_client(project)
    parents = set()
    for row in rows:
        found = client.get_run(row["mlflow_run"])
        parents.add(found.data.tags["mlflow.parentRunId"])
        assert found.data.params["learning_rate"] == row["learning_rate"]
        assert found.data.metrics["trial.probe"] == float(row["probe"])
    assert len(parents) == 1
    assert client.get_run(parents.pop()).data.tags["tessera.search"] == "rates"

    search(project, trials=[{"learning_rate": 0.004}, {"steps": 4}])
    assert {row["steps"] for row in table(project)} == {"", "4"}
    assert len(table(project)) == 3
    assert logs(project).items() > trained.items()


def test_a_trial_that_is_not_valid_stops_the_search_before_it_trains(project: Workspace) -> None:
    trained = logs(project)
    said = search(project, code=1, trials=[{"steps": 3}, {"learning_rat": 0.1}])
    assert "expected a setting of pretrain" in said
    assert logs(project) == trained
