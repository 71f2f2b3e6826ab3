"""A real training, asked to end in every way in which it can be: it goes on to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tasks.preempted import EXIT_CODE, mark_of
from tasks.workspace import Workspace
from tests.project import environment, output_digests, repro, run, write_settings

pytestmark = pytest.mark.slow

STAGE = (sys.executable, "-m", "tasks.pretrain")
DVC = (sys.executable, "-m", "dvc", "repro", "-s", "pretrain")
FLOW = """
from prefect.testing.utilities import prefect_test_harness
from flows.teacher import teacher
with prefect_test_harness(server_startup_timeout=180):
    assert [receipt.status for receipt in teacher(["pretrain"])] == ["ran"]
"""


class Teacher:
    """A project whose teacher is yet to be trained.

    Args:
        root: Its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, Workspace(root)

    @property
    def steps(self) -> int:
        """Steps of the training that were recorded."""
        found = list((self.workspace.state / "work" / "pretrain").glob("*/records.jsonl"))
        return len(found[0].read_text().splitlines()) if found else 0

    @property
    def mark(self) -> dict[str, object]:
        """What the stage that was asked to end says."""
        content: dict[str, object] = json.loads(mark_of(self.workspace, "pretrain").read_text())
        return content

    @property
    def digests(self) -> dict[str, str]:
        """Digests of what was trained."""
        outputs = output_digests(self.root)
        return {name: digest for name, digest in outputs.items() if name.startswith("pretrain/")}

    @property
    def holder(self) -> psutil.Process:
        """The process of the stage."""
        content = (self.workspace.artifacts / ".pretrain.holder.json").read_text()
        return psutil.Process(json.loads(content)["pid"])

    @contextmanager
    def started(self, command: Sequence[str], **more: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command until its training has taken a few steps; then it is the block's."""
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=environment(self.root, PYTHONPATH=str(self.root), **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            while self.steps < 5:
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                time.sleep(0.002)
            yield process


@pytest.fixture
def teacher(finished_project: Path, tmp_path: Path) -> Teacher:
    return Teacher(make_untrained(finished_project, tmp_path / "project"))


def make_untrained(finished: Path, root: Path) -> Path:
    """Copy a project, for a longer training, most of it beyond the first checkpoint that is due."""
    shutil.copytree(finished, root, symlinks=True)
    shutil.rmtree(Workspace(root).state / "work")
    write_settings(root, {"pretrain": {"steps": 80, "execution": {"checkpoint_every": 60}}})
    return root


@pytest.fixture(scope="module")
def expected(
    finished_project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[str, str]]:
    """Digests of the uninterrupted run on so many processes."""
    found: dict[int, dict[str, str]] = {}

    def of(processes: int) -> dict[str, str]:
        if processes not in found:
            root = tmp_path_factory.mktemp(f"whole-{processes}") / "project"
            whole = Teacher(make_untrained(finished_project, root))
            write_settings(root, {"pretrain": {"execution": {"processes": processes}}})
            run(root, *STAGE)
            found[processes] = whole.digests
        return found[processes]

    return of


def has_ended(process: psutil.Process) -> bool:
    """Whether it has come to its end, even if nobody has asked yet how."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def agent_of(stage: psutil.Process) -> psutil.Process:
    """The launcher below the stage."""
    return next(p for p in stage.children() if "torch.distributed.run" in p.cmdline())


def worker_of(stage: psutil.Process) -> psutil.Process:
    """The last of the processes that train."""
    workers = [p for p in agent_of(stage).children() if p.environ().get("RANK") == "1"]
    assert workers
    return workers[-1]


@pytest.mark.parametrize(
    ("processes", "asked"),
    [(1, lambda stage: stage), (2, lambda stage: stage), (2, agent_of), (2, worker_of)],
    ids=["stage", "stage of two", "torchrun", "one of two processes"],
)
def test_training_that_is_asked_to_end_saves_and_goes_on_to_the_same_bytes(
    processes: int,
    asked: Callable[[psutil.Process], psutil.Process],
    teacher: Teacher,
    expected: Callable[[int], dict[str, str]],
) -> None:
    write_settings(teacher.root, {"pretrain": {"execution": {"processes": processes}}})
    with teacher.started(STAGE) as process:
        stage = psutil.Process(process.pid)
        tree = stage.children(recursive=True)
        asked(stage).terminate()
        printed = process.communicate()[0]
    assert process.returncode == EXIT_CODE, printed
    step = teacher.mark["step"]
    assert isinstance(step, int)
    assert 5 <= step < 60  # before the first checkpoint that was due
    assert "Preempted: pretrain: expected the time to finish; found a request" in printed
    assert f"with {step} steps saved" in printed
    assert not psutil.wait_procs(tree, timeout=30)[1]
    again = run(teacher.root, *STAGE)
    assert f"step {step}: resumed" in again
    assert teacher.digests == expected(processes)
    assert not mark_of(teacher.workspace, "pretrain").exists()


def test_training_whose_dvc_is_asked_to_end_outlives_it_to_save(
    teacher: Teacher, expected: Callable[[int], dict[str, str]]
) -> None:
    with teacher.started(DVC) as process:
        stage = teacher.holder
        process.terminate()
        process.communicate()  # to the end of the stage, which writes to it
    assert process.returncode == -signal.SIGTERM
    assert not psutil.wait_procs([stage], timeout=30)[1]
    step = teacher.mark["step"]
    assert f"step {step}: resumed" in repro(teacher.root, "-s", "pretrain")
    assert teacher.digests == expected(1)


def test_flow_runs_a_stage_again_that_was_asked_to_end(
    teacher: Teacher, expected: Callable[[int], dict[str, str]]
) -> None:
    with teacher.started((sys.executable, "-c", FLOW), PREFECT_LOGGING_LEVEL="INFO") as process:
        teacher.holder.terminate()
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert "failed to run: python -m tasks.pretrain, exited with 75" in printed
    assert "resumed from its checkpoint" in printed
    assert teacher.digests == expected(1)


def test_script_of_the_schedulers_waits_for_the_save_and_says_again(
    teacher: Teacher, tmp_path: Path, expected: Callable[[int], dict[str, str]]
) -> None:
    (teacher.root / ".venv").symlink_to(Path(sys.executable).parents[1])
    script = ("infra/run_stage.sh", "pretrain", "touch", str(tmp_path / "requeued"))
    with teacher.started(script) as process:
        stage = teacher.holder
        process.terminate()
        printed = process.communicate()[0]
        assert has_ended(stage)
    assert process.returncode == EXIT_CODE, printed
    assert (tmp_path / "requeued").exists()
    (tmp_path / "requeued").unlink()
    run(teacher.root, *script)
    assert not (tmp_path / "requeued").exists()
    assert teacher.digests == expected(1)


def test_ctrl_c_ends_a_training_without_a_mark(teacher: Teacher) -> None:
    with teacher.started(STAGE) as process:
        os.kill(process.pid, signal.SIGINT)
        process.communicate()
    assert process.returncode not in (0, EXIT_CODE)
    assert not mark_of(teacher.workspace, "pretrain").exists()
