"""The files for Slurm and Kubernetes, run here: two machines are two launchers on this one.

The schedulers' own programs are stand-ins that run what they are given; all else is the real thing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.preempted import EXIT_CODE
from tasks.workspace import Workspace
from tests.project import REPOSITORY, environment, output_digests, run, write_settings
from tests.toy_project import free_ports

INFRA = REPOSITORY / "infra"
SCRIPTS = sorted([*INFRA.glob("*.sh"), *INFRA.glob("slurm/*.sbatch")])
GRACE = "TESSERA_GRACE_S"

SRUN = """#!/bin/sh
# Run a command once on each of the job's machines, which are all this one.
while [ "${1#--}" != "$1" ]; do shift; done
"$@" & "$@" & wait %1 && wait %2
"""
SCONTROL = """#!/bin/sh
# `show hostnames` names the first machine; `requeue` says so.
[ "$1" = show ] && echo 127.0.0.1 && exit
echo "$@" > requeued
"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all((INFRA / "kubernetes" / name).read_text()))


def job_of(name: str) -> dict[str, Any]:
    (job,) = [document for document in documents(name) if document["kind"] == "Job"]
    return job


def container_of(name: str) -> dict[str, Any]:
    (container,) = job_of(name)["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def options_of(script: Path) -> dict[str, str]:
    """Options of a batch script, without their comments."""
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH --")]
    words = [line.split()[1].removeprefix("--").partition("=") for line in lines]
    return {name: value for name, _, value in words}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_whole(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["pretrain.sbatch", "distill.sbatch"])
def test_slurm_asks_the_script_alone_and_leaves_time_to_save(name: str) -> None:
    script = INFRA / "slurm" / name
    options = options_of(script)
    whom, seconds = options["signal"].removeprefix("B:TERM").partition("@")[::2]
    assert whom == ""
    assert {"requeue", "output", "open-mode"} <= options.keys()
    grace = script.read_text().partition(f"{GRACE}:-")[2].partition("}")[0]
    assert 60 <= int(grace) < int(seconds)


def test_an_array_has_a_task_for_each_student() -> None:
    students = list(
        YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())["distill"]["students"]
    )
    script = INFRA / "slurm" / "distill.sbatch"
    assert f"sizes=({' '.join(students)})" in script.read_text()
    assert options_of(script)["array"] == f"0-{len(students) - 1}"
    assert variables_of(container_of("distill.yaml"))["SIZES"].split() == students
    assert job_of("distill.yaml")["spec"]["completions"] == len(students)


@pytest.mark.parametrize("name", ["pretrain.yaml", "distill.yaml"])
def test_pods_have_time_to_save_and_leave_without_counting_as_failed(name: str) -> None:
    spec, container = job_of(name)["spec"], container_of(name)
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # else Kubernetes refuses the failure policy
    again = spec["podFailurePolicy"]["rules"][0]
    codes = {"containerName": container["name"], "operator": "In", "values": [EXIT_CODE]}
    assert (again["action"], again["onExitCodes"]) == ("Ignore", codes)
    grace = int(variables_of(container)[GRACE])
    assert 60 <= grace < pod["terminationGracePeriodSeconds"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]} == {"project", "shm"}
    assert "nvidia.com/gpu" in container["resources"]["limits"]


def test_pods_of_a_training_find_each_other() -> None:
    service = documents("pretrain.yaml")[0]
    spec, variables = job_of("pretrain.yaml")["spec"], variables_of(container_of("pretrain.yaml"))
    name = job_of("pretrain.yaml")["metadata"]["name"]
    subdomain = spec["template"]["spec"]["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["selector"] == {"job-name": name}
    assert variables["PET_MASTER_ADDR"] == f"{name}-0.{subdomain}"
    assert int(variables["PET_NNODES"]) == spec["completions"] == spec["parallelism"]
    cards = container_of("pretrain.yaml")["resources"]["limits"]["nvidia.com/gpu"]
    assert variables["PET_NPROC_PER_NODE"] == cards


@pytest.fixture(scope="module")
def project(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose teacher was trained by two processes of one machine."""
    root = tmp_path_factory.mktemp("cluster") / "project"
    shutil.copytree(finished_project, root, symlinks=True)
    (root / ".venv").symlink_to(Path(sys.executable).parents[1])
    write_settings(root, {"pretrain": {"steps": 30, "execution": {"processes": 2}}})
    run(root, sys.executable, "-m", "tasks.pretrain")
    return root


@pytest.fixture
def untrained(project: Path, tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "project"
    shutil.copytree(project, root, symlinks=True)
    shutil.rmtree(root / ".tessera" / "work")
    shutil.rmtree(root / "artifacts" / "pretrain")
    write_settings(root, {"pretrain": {"execution": {"processes": 1}}})  # the launcher's count
    yield root
    assert losses_of(root) == losses_of(project)
    assert trained(root) == trained(project)


def losses_of(root: Path) -> list[str]:
    return (root / "artifacts" / "pretrain" / "curves.csv").read_text().splitlines()


def trained(root: Path) -> dict[str, str]:
    return {n: d for n, d in output_digests(root).items() if n.startswith("pretrain/")}


@pytest.mark.slow
def test_slurm_script_trains_on_two_machines_as_one_machine_does(untrained: Path) -> None:
    programs = untrained / "programs"
    programs.mkdir()
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    variables: dict[str, Any] = {
        "PATH": f"{programs}{os.pathsep}{environment(untrained)['PATH']}",
        "SLURM_SUBMIT_DIR": str(untrained),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "7",
        "DS_ACCELERATOR": "cpu",
        "TESSERA_PORT": str(free_ports(1)[0]),
    }
    run(untrained, "bash", "infra/slurm/pretrain.sbatch", **variables)
    assert not (untrained / "requeued").exists()


@pytest.mark.slow
def test_pods_of_kubernetes_train_as_one_machine_does(untrained: Path) -> None:
    container = container_of("pretrain.yaml")
    given = variables_of(container) | {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(free_ports(1)[0]),
        "DS_ACCELERATOR": "cpu",
    }

    def start(index: str) -> subprocess.Popen[str]:
        mine = {"JOB_COMPLETION_INDEX": index, "PET_NODE_RANK": index}
        return subprocess.Popen(
            container["command"],
            cwd=untrained,
            env=environment(untrained, **given, **mine),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    # What a stage that was killed has left, which nobody must join.
    stale = Workspace(untrained).state / "jobs" / "pretrain.json"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text(json.dumps({"attempt": "stale", "job": "left/job.json"}))
    with start("1") as follower, start("0") as first:
        printed = [pod.communicate(timeout=400)[0] for pod in (first, follower)]
    assert [first.returncode, follower.returncode] == [0, 0], "\n".join(printed)
    assert "joining attempt stale" not in printed[1]
    assert "joining attempt" in printed[1]
    assert not stale.exists()


@pytest.mark.slow
def test_pod_that_follows_leaves_when_it_is_asked_to_before_there_is_a_job(
    finished_project: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_project, tmp_path / "project", symlinks=True)
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.training.follow", "pretrain"],
        cwd=tmp_path / "project",
        env=environment(tmp_path / "project", TESSERA_LAUNCHER="torchrun"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert "waiting for the stage to publish" in follower.stdout.readline()
        follower.send_signal(signal.SIGTERM)
        said = follower.communicate(timeout=60)[0]
    assert follower.returncode == EXIT_CODE
    assert "Preempted: pretrain" in said
