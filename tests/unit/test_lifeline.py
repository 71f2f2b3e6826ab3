import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.lifeline import grace_s

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STAGE = f"from tasks.lifeline import die_with_runner; die_with_runner(); {SLEEPER}"


def gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    """Start a Python process that starts another, and wait until the inner one is up."""
    process = subprocess.Popen(
        # The last word makes it look like DVC, whose stages must have DVC above them.
        [sys.executable, "-c", script, *(["dvc"] if "DVC_STAGE" in environment else [])],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    with process.stdout as stream:
        assert stream.readline() == "up\n"
    return process


def inner_of(process: subprocess.Popen[str]) -> int:
    return int(psutil.Process(process.pid).children(recursive=True)[-1].pid)


@pytest.mark.parametrize(
    "command",
    [
        f"[{sys.executable!r}, '-c', {STAGE!r}]",
        # A shell between the two that stays, as DVC's does when it cannot replace itself.
        f"['sh', '-c', '{sys.executable} -c \"$0\"; true', {STAGE!r}]",
    ],
    ids=["direct", "through a shell"],
)
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_stage_dies_when_its_runner_is_killed(command: str, blow: signal.Signals) -> None:
    runner = start(f"import subprocess; subprocess.run({command})", DVC_STAGE="pack")
    inner = inner_of(runner)
    runner.send_signal(blow)
    runner.wait()
    assert gone(inner)


def test_stage_started_by_hand_outlives_its_terminal() -> None:
    runner = start(f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {STAGE!r}])")
    inner = inner_of(runner)
    runner.kill()
    runner.wait()
    time.sleep(0.5)
    assert psutil.Process(inner).status() != psutil.STATUS_ZOMBIE
    os.kill(inner, signal.SIGKILL)


SAVES = """
import signal, sys, time
from tasks.lifeline import asked_first, die_with_runner
die_with_runner()
def save(*_):
    open(sys.argv[1], "w").write("saved"); {then}
signal.signal(signal.SIGTERM, save)
with asked_first():
    print("up", flush=True); time.sleep(60); time.sleep(60)
"""


@pytest.mark.parametrize("then", ["sys.exit(75)", "time.sleep(60)"], ids=["ends", "lingers"])
def test_training_is_asked_before_it_dies_with_its_runner(then: str, tmp_path: Path) -> None:
    script, saved = tmp_path / "training.py", tmp_path / "saved"
    script.write_text(SAVES.format(then=then))
    command = f"subprocess.run([{sys.executable!r}, {str(script)!r}, {str(saved)!r}])"
    grace = "60" if then.startswith("sys") else "1"
    runner = start(f"import subprocess; {command}", DVC_STAGE="pretrain", TESSERA_GRACE_S=grace)
    inner = inner_of(runner)
    runner.kill()
    runner.wait()
    assert gone(inner)
    assert saved.read_text() == "saved"


def test_seconds_of_grace_that_are_no_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_GRACE_S", "2m")
    with pytest.raises(ValueError, match=r"TESSERA_GRACE_S: expected seconds.* found '2m'"):
        grace_s()


def test_tied_command_dies_with_its_caller() -> None:
    command = [sys.executable, "-m", "tasks.lifeline", sys.executable, "-c", SLEEPER]
    runner = start(f"import subprocess; subprocess.run({command})")
    inner = inner_of(runner)
    runner.kill()
    runner.wait()
    assert gone(inner)


def test_stage_whose_runner_died_during_its_imports_ends_itself() -> None:
    orphan = f"import time; time.sleep(1.5); {STAGE}"
    command = [sys.executable, "-c", orphan]
    script = (
        f"import subprocess; p = subprocess.Popen({command}); print('up', flush=True); p.wait()"
    )
    runner = start(script, DVC_STAGE="pack")
    inner = inner_of(runner)
    runner.kill()
    runner.wait()
    assert gone(inner, within_s=10.0)


def test_tied_command_ends_itself_if_the_meant_parent_is_gone_already() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.lifeline", sys.executable, "-c", "print('ran')"],
        env=os.environ | {"TESSERA_PARENT": "999999999"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""
