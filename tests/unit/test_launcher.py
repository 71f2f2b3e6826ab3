"""How the processes of a training are started, joined, and given their graphics cards."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tasks.errors import DataError, ParamsError, Preempted
from tasks.files import write_json
from tasks.preempted import ends_on_request, mark_of, when_asked
from tasks.training.devices import VISIBLE, share_of_devices
from tasks.training.follow import Heard, follow
from tasks.training.launcher import (
    FAILED,
    LAUNCHER,
    STOPPED,
    WEIGHTS,
    forget_ends,
    launcher_of,
    published,
    published_of,
    was_preempted,
)
from tasks.workspace import Workspace


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_without_a_launcher_of_the_site_torchrun_starts_the_processes_here() -> None:
    assert launcher_of(3)[-2:] == ["--standalone", "--nproc-per-node=3"]


def test_launcher_of_the_site_is_split_as_a_shell_would_and_run_by_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(LAUNCHER, "srun -n 2\n torchrun --rdzv-endpoint='a b:1' $HOME;x")
    assert launcher_of(8) == [
        *("srun", "-n", "2", "torchrun", "--rdzv-endpoint=a b:1", "$HOME;x"),
    ]


@pytest.mark.parametrize("given", ["", "srun 'torchrun"])
def test_launcher_that_is_no_command_is_refused(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCHER, given)
    with pytest.raises(
        ParamsError, match=r"TESSERA_LAUNCHER: expected a command .* 'srun torchrun"
    ):
        launcher_of(1)


@pytest.mark.parametrize(
    ("left", "code", "asked", "again"),
    [
        ([STOPPED], 0, True, True),
        ([STOPPED], 1, False, True),  # torchrun itself was asked
        ([], 1, True, True),
        ([], 1, False, False),
        ([FAILED], 1, True, False),  # torchrun asked the others, since one had failed
        ([WEIGHTS], 0, True, False),
    ],
)
def test_training_that_failed_is_not_run_again_because_the_others_were_then_asked_to_end(
    left: list[str], code: int, asked: bool, again: bool, tmp_path: Path
) -> None:
    for name in left:
        (tmp_path / name).touch()
    assert was_preempted(tmp_path, code, asked=asked) is again
    forget_ends(tmp_path)
    assert was_preempted(tmp_path, 1, asked=False) is False


def test_published_job_is_alive_only_once_it_has_beaten_while_we_listened(
    project: Workspace,
) -> None:
    job = project.state / "work" / "pretrain" / "job.json"
    heard = Heard(published_of(project, "pretrain"))
    heard.listen()
    assert not heard.alive
    with published(project, "pretrain", job) as (attempt, beat):
        for _ in range(2):  # the file of a stage that was killed looks the same
            heard.listen()
            assert (heard.attempt, heard.alive) == (attempt, False)
        os.utime(beat, ns=(1, 1))  # a beat need not be later: clocks differ
        heard.listen()
        assert heard.alive
        assert project.root / heard.job == job
    assert not beat.exists()
    heard.listen()
    assert heard.alive  # gone is silence, and silence takes its time


def test_another_attempt_must_beat_anew(project: Workspace) -> None:
    job = project.state / "work" / "job.json"
    heard = Heard(published_of(project, "pretrain"))
    with published(project, "pretrain", job) as (_, beat):
        heard.listen()
        os.utime(beat, ns=(1, 1))
        heard.listen()
        assert heard.alive
        with published(project, "pretrain", job) as (later, _):
            heard.listen()
            assert (heard.attempt, heard.alive) == (later, False)


def test_job_outside_the_work_of_the_project_is_not_joined(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCHER, "torchrun")
    monkeypatch.setattr("tasks.training.follow.POLL_S", 0.05)
    path = published_of(project, "pretrain")
    beating = f"import os, sys, time\nwhile True: os.utime({str(path)!r}); time.sleep(0.02)"
    path.parent.mkdir(parents=True)
    write_json(path, {"attempt": "x", "job": "../../etc/job.json"})
    with subprocess.Popen([sys.executable, "-c", beating]) as beater:
        try:
            with pytest.raises(DataError, match=r"expected a job in \.tessera/work; found \.\./"):
                follow(project, "pretrain")
        finally:
            beater.kill()


def test_only_trainings_are_followed_and_only_with_the_launcher(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParamsError, match="one of the trainings pretrain"):
        follow(project, "pack")
    monkeypatch.delenv(LAUNCHER, raising=False)
    with pytest.raises(ParamsError, match="TESSERA_LAUNCHER: expected the same command"):
        follow(project, "distill@N")


def test_stage_that_is_asked_to_end_leaves_its_mark_and_the_next_run_removes_it(
    project: Workspace,
) -> None:
    def work() -> None:
        with ends_on_request(project, "pack"), suppress(Exception):  # as a stage may handle errors
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(Preempted, match=r"pack: expected the time .* Run again"):
        work()
    mark = mark_of(project, "pack")
    assert json.loads(mark.read_text()) == {"stage": "pack", "step": None}
    with ends_on_request(project, "pack"):
        assert not mark.exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_inner_answer_to_a_request_goes_before_the_outer_one(project: Workspace) -> None:
    heard: list[int] = []
    with ends_on_request(project, "pretrain"), when_asked(lambda: heard.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [1]


@pytest.fixture
def three_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setenv(VISIBLE, "4, 6,GPU-1f")


@pytest.mark.usefixtures("three_cards")
def test_trainings_at_the_same_time_have_cards_of_their_own(project: Workspace) -> None:
    with share_of_devices(project, "distill@N", 1) as first:
        assert os.environ[VISIBLE] == "4"
        os.environ[VISIBLE] = "4,6,GPU-1f"  # as another process sees it
        with share_of_devices(project, "distill@S", 2) as second:
            assert (first, second) == (["4"], ["6", "GPU-1f"])
    with share_of_devices(project, "pretrain", 3) as everything:
        assert everything == ["4", "6", "GPU-1f"]
    assert os.environ[VISIBLE] == "4, 6,GPU-1f"


@pytest.mark.usefixtures("three_cards")
def test_training_waits_for_a_card_and_gets_it_from_one_that_was_killed(
    project: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.training.devices._POLL_S", 0.05)
    holder = f"""
import time; from pathlib import Path
from tasks.training.devices import share_of_devices
from tasks.workspace import Workspace
with share_of_devices(Workspace(Path({str(project.root)!r})), "pretrain", 3):
    print("held", flush=True); time.sleep(1); print("killed", flush=True); time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

        def kill() -> None:
            if "waiting" in (said := capsys.readouterr().out):
                assert said.startswith("distill@N: waiting for 1 of the 3 graphics cards")
                process.kill()

        monkeypatch.setattr("tasks.training.devices.time.sleep", lambda _s: kill())
        with share_of_devices(project, "distill@N", 1) as taken:
            assert taken[0] in {"4", "6", "GPU-1f"}
        assert process.wait() == -signal.SIGKILL


@pytest.mark.usefixtures("three_cards")
def test_jobs_of_slurm_whose_cards_have_the_same_number_do_not_wait_for_each_other(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm numbers the cards of each job from 0, whichever they are."""
    with ExitStack() as held:
        for job in ("71", "72"):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            monkeypatch.setenv(VISIBLE, "0")
            share = share_of_devices(project, f"distill@{job}", 1)
            assert held.enter_context(share) == ["0"]


@pytest.mark.usefixtures("three_cards")
def test_more_processes_than_cards_are_refused(project: Workspace) -> None:
    refused = pytest.raises(ParamsError, match="each of 4 processes; found 3 on")
    with refused, share_of_devices(project, "pretrain", 4):
        pass


def test_on_the_processor_nothing_is_shared_out(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with share_of_devices(project, "pretrain", 64) as taken:
        assert taken == []
    assert not (project.state / "devices").exists()
