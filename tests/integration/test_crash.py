"""Kill every stage at its write points, run again, and compare with an uninterrupted run."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.running.graph import ON_DEMAND
from tests.project import CRASH, environment, forget, output_digests, repro, run

pytestmark = pytest.mark.slow

STAGES = (
    *("ingest", "validate", "pack", "pretrain", "cache_targets", "distill@N"),
    *("evaluate", "controls", "export", "report"),
)


def kill_points(writes: list[str]) -> list[int]:
    """Return the writes to be killed at: in the middle, when all is sealed but not yet in its place,
    and where an export's tile has its layers but no record of them."""
    records = [at for at, write in enumerate(writes, 1) if write.endswith("/tile.json")]
    return [max(2, len(writes) // 2), len(writes), *records[:1]]


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_is_finished_by_a_rerun_with_the_same_bytes(
    stage: str, finished_project: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished_project, project, symlinks=True)
    expected = output_digests(finished_project)
    writes = (finished_project.with_name("writes") / stage).read_text().splitlines()
    # A run that resumes has fewer writes, so each kill starts from nothing.
    target = ON_DEMAND if stage == "controls" else stage
    for at in kill_points(writes):
        for state in ("work", "targets"):
            shutil.rmtree(project / ".tessera" / state, ignore_errors=True)
        printed = repro(
            *(project, "-s", "-f", target),
            code=255,
            CRASH_STAGE=stage,
            CRASH_AT=str(at),
            PYTHONPATH=CRASH,
        )
        assert "failed to run" in printed
        forget(project, [stage])
        module = f"tasks.{stage.split('@', maxsplit=1)[0]}"
        assert f"python -m {module}" in repro(project, "-s", target)
        assert output_digests(project) == expected
    assert not list((project / "artifacts").rglob(".*.building"))


def test_killed_dvc_takes_its_stage_with_it(finished_project: Path, tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys
    import time

    import psutil

    project = tmp_path / "project"
    shutil.copytree(finished_project, project, symlinks=True)
    expected = output_digests(finished_project)
    work = project / ".tessera" / "work" / "pretrain"
    shutil.rmtree(work)  # of the uninterrupted run; what appears here next is the killed one's
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-s", "-f", "pretrain"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(work.glob("*/records.jsonl")):
        assert dvc.poll() is None
        time.sleep(0.05)
    inner = psutil.Process(dvc.pid).children(recursive=True)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    _, alive = psutil.wait_procs(inner, timeout=20)
    assert alive == []
    forget(project, ["pretrain"])
    assert "resuming from" in repro(project, "-s", "pretrain")
    assert output_digests(project) == expected


def test_two_runs_at_once_end_with_one_result(finished_project: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    project = tmp_path / "project"
    shutil.copytree(finished_project, project, symlinks=True)
    expected = output_digests(finished_project)
    shutil.rmtree(project / "artifacts" / "pack")
    # The stage by hand, beside DVC running the same stage.
    by_dvc, by_hand = (
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=project,
            env=environment(project),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in (["dvc", "repro", "-s", "-f", "pack"], ["tasks.pack"])
    )
    printed = by_dvc.communicate()[0] + by_hand.communicate()[0]
    assert (by_dvc.returncode, by_hand.returncode) == (0, 0), printed
    run(project, sys.executable, "-m", "dvc", "status", "pack")
    assert output_digests(project) == expected
