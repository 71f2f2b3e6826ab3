import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from tasks.errors import DataError, StageFailed
from tasks.files import write_json
from tasks.pretrain import TeacherObjective
from tasks.settings.training import PretrainParams
from tasks.stage import Stage
from tasks.training.events import KINDS
from tasks.training.launch import Job, run_training
from tasks.training.launcher import JOB, LAUNCHER
from tasks.training.objective import Batch, Work
from tasks.training.records import Recorder
from tasks.training.selection import open_selection
from tasks.training.trainer import learning_rate
from tasks.training.trainer import train as train_in_process
from tasks.workspace import Workspace
from tests.corpora import make_dpixels, write_corpus
from tests.streams import damage_block
from tests.training_objectives import Planted, teacher
from tests.training_runs import NEVER, REPOSITORY, Kill, run, small

pytestmark = [
    pytest.mark.slow,
    # What PyTorch and DeepSpeed say of their own parts, where a test trains in this process.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


def write_job(work: Path, corpus: Path, params: PretrainParams) -> dict[str, str]:
    work.mkdir(exist_ok=True)
    job = {
        "stage": "pretrain",
        "params": params.complete(),
        "parents": {"pack": str(corpus)},
        "work": str(work),
    }
    write_json(work / "job.json", job)
    return {**os.environ, JOB: str(work / "job.json"), "OMP_NUM_THREADS": "1"}


def command(processes: int) -> list[str]:
    launcher: list[str] = []
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={processes}", "--module"]
    return [sys.executable, "-m", *launcher, "tasks.pretrain"]


def run_command(
    command: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_training_lowers_the_loss(corpus: Path, tmp_path: Path) -> None:
    params = small(steps=60, learning_rate=0.005)
    records = run(tmp_path, corpus, params, objective=teacher).records
    losses = [record["barlow_twins"] for record in records]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_a_step_is_other_rows_each_time_and_the_same_for_any_number_of_processes(
    corpus: Path, tmp_path: Path
) -> None:
    alone, two = (
        run(tmp_path / str(n), corpus, small(processes=n), objective=Planted()) for n in (1, 2)
    )
    rows = [record["rows"] for record in alone.records]
    assert len(set(rows)) == 9
    assert [record["rows"] for record in two.records] == rows


def test_a_run_by_the_launcher_that_is_killed_goes_on_to_the_same_bytes(
    corpus: Path, tmp_path: Path
) -> None:
    """As a stage starts it: two processes of ``torchrun``, killed by their launcher's end."""
    params = small(processes=2)
    whole = run(tmp_path / "whole", corpus, params, objective=teacher)
    environment = write_job(tmp_path / "killed", corpus, params)
    launcher = subprocess.Popen(command(2), env=environment, cwd=REPOSITORY)
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*")):
        assert launcher.poll() is None
        time.sleep(0.02)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    again = run_command(command(2), environment)
    assert again.returncode == 0, again.stderr
    assert "resumed from its checkpoint" in again.stdout
    records = (tmp_path / "killed" / "records.jsonl").read_bytes()
    assert records == (whole.work / "records.jsonl").read_bytes()
    weights = load_file(tmp_path / "killed" / "weights.safetensors")
    assert all(np.array_equal(weights[name].numpy(), w) for name, w in whole.weights.items())


def test_weights_are_offered_at_every_probe_and_at_the_end_with_their_score(
    corpus: Path, tmp_path: Path
) -> None:
    found = run(tmp_path, corpus, small(probe_every=4), objective=Planted())
    scored = {row["step"] + 1: row["probe"] for row in found.records if "probe" in row}
    table = open_selection(tmp_path, small()).table()
    assert {candidate.step: candidate.numbers["probe"] for candidate in table} == scored
    assert list(scored) == [4, 8, 9]


@pytest.mark.parametrize("stage", [1, 3])
def test_a_probe_in_the_middle_changes_nothing(stage: int, corpus: Path, tmp_path: Path) -> None:
    sharding = f"infra/deepspeed/zero{stage}.json"
    often, never = (
        run(
            *(tmp_path / str(every), corpus),
            small(processes=2, probe_every=every, deepspeed=sharding),
            objective=Planted(draws=True),
        )
        for every in (2, 0)
    )
    assert often.losses == never.losses
    assert all(np.array_equal(often.weights[name], w) for name, w in never.weights.items())
    assert sum("probe" in record for record in often.records) == 5


def test_a_killed_run_offers_the_same_candidates(corpus: Path, tmp_path: Path) -> None:
    tables = []
    for name, kills in (("whole", []), ("killed", [Kill(batch=5), Kill(batch=8)])):
        for kill in (*kills, NEVER):
            run(tmp_path / name, corpus, small(probe_every=4), objective=Planted(), kill=kill)
        selection = open_selection(tmp_path / name, small())
        tables.append([(c.step, c.numbers, c.sha256) for c in selection.table()])
    assert tables[0] == tables[1]


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    params = small(steps=100, learning_rate=2.0, warmup_share=0.1)
    rates = [learning_rate(step, params) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert np.argmax(rates) == 9
    assert rates[-1] < 0.001


def test_batch_larger_than_the_corpus_is_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    params = small(batch_size=64)
    objective = TeacherObjective(Job("pretrain", {}, {"pack": str(corpus)}, str(tmp_path)), params)
    with pytest.raises(DataError, match="batch of 64 d-pixels; found 60"):
        train_in_process(objective, params, tmp_path, Recorder(tmp_path / "records.jsonl"))


def test_damage_ends_a_run_of_two_processes_and_is_said_in_a_line(
    corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "pack")
    shard = damage_block(tmp_path / "pack", 4)
    environment = write_job(tmp_path / "work", tmp_path / "pack", small(processes=2))
    done = run_command(command(2), environment)
    assert done.returncode == 1
    assert f"{shard}, block 4: expected sha256" in done.stderr
    assert "Traceback" not in done.stderr.split("ShardDamaged", maxsplit=1)[0]
    assert not (tmp_path / "work" / "weights.safetensors").exists()
    # By which the stage knows it from a request to end, which torchrun makes of the other one.
    assert (tmp_path / "work" / "failed").exists()


def test_launcher_that_ends_without_having_trained_is_refused(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that puts the training into a queue."""
    monkeypatch.setenv(LAUNCHER, "true")
    monkeypatch.setattr("tasks.training.launcher._LATE_S", 0.0)
    stage = stage_of(tmp_path, corpus)
    with pytest.raises(StageFailed, match="found a launcher that ended, and no weights"):
        run_training("tasks.pretrain", TeacherObjective, stage, small())


class Remembering:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.files: dict[str, str] = {}

    def log_metrics(self, rows: list[dict[str, float]]) -> None:
        """Take records."""
        for row in rows:
            self.last |= row

    def log_speed(self, rows: list[dict[str, float]]) -> None:
        """Take what was metered."""

    def log_file(self, path: Path) -> None:
        """Take a file."""
        self.files[path.name] = path.read_text()

    def set_tags(self, tags: dict[str, str]) -> None:
        """Take tags."""


def stage_of(folder: Path, pack: Path) -> Stage:
    for name in ("build", "work"):
        (folder / name).mkdir()
    return Stage(
        "pretrain",
        Workspace(folder),
        {"pack": pack},
        *(folder / "build", folder / "work"),
        cast(Any, Remembering()),
    )


class Failing(TeacherObjective):
    """A teacher whose fifth batch cannot be computed."""

    def work(self, module: nn.Module, batch: Batch) -> Work:
        """Begin a step."""
        if batch.step == 4:
            raise ZeroDivisionError
        return super().work(module, batch)


def test_what_happened_to_a_run_is_counted_and_attached_however_it_ends(
    tmp_path: Path, corpus: Path
) -> None:
    stage = stage_of(tmp_path, corpus)
    tracker = cast(Any, stage.tracker)

    def found() -> tuple[dict[str, float], list[str]]:
        counts = {n: value for n, value in tracker.last.items() if n.startswith("events.")}
        lines = tracker.files.get("events.jsonl", "").splitlines()
        return counts, [json.loads(line)["kind"] for line in lines]

    none = {f"events.{kind}": 0.0 for kind in KINDS}
    for expected in ((none, []), (none | {"events.resumed": 1.0}, ["resumed"])):
        with pytest.raises(ZeroDivisionError):
            run_training("tasks.pretrain", Failing, stage, small())
        assert found() == expected
    run_training("tasks.pretrain", TeacherObjective, stage, small())
    assert found() == (none | {"events.resumed": 2.0}, ["resumed", "resumed"])


def test_blocks_that_were_skipped_are_in_the_output_and_its_counts(
    tmp_path: Path, corpus: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "pack")
    shard = damage_block(tmp_path / "pack", 4)
    stream = {"lanes": 4, "window_blocks": 2, "on_damage": "skip", "max_damaged_share": 0.5}
    stage = stage_of(tmp_path, tmp_path / "pack")
    run_training("tasks.pretrain", TeacherObjective, stage, small(stream=stream))
    skipped = json.loads((tmp_path / "build" / "skipped_blocks.json").read_text())
    assert stage.counts == {"skipped_blocks": 1}
    assert [(row["epoch"], row["block"]) for row in skipped] == [(0, 4), (1, 4), (2, 4)]
    assert all(shard in row["where"] for row in skipped)
