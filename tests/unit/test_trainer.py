import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.errors import DataError
from tasks.files import write_json
from tasks.params import PretrainParams, read_params
from tasks.pretrain import TeacherObjective
from tasks.stage import Stage
from tasks.training.launch import JOB, Job, run_training
from tasks.training.objective import Batch, Work
from tasks.training.records import Recorder
from tasks.training.trainer import learning_rate
from tasks.training.trainer import train as train_in_process
from tasks.workspace import Workspace
from tests.corpora import make_dpixels, write_corpus
from tests.streams import damage_block

pytestmark = [
    pytest.mark.slow,
    # What PyTorch and DeepSpeed say of their own parts, where a test trains in this process.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]

REPOSITORY = Path(__file__).parents[2]


def small(**changes: object) -> PretrainParams:
    section = read_params(REPOSITORY / "params.yaml").pretrain.complete()
    tiny = {"latent": 4, "layers": 1, "heads": 2, "feedforward": 16, "repr_dim": 24}
    section |= {"architecture": tiny, "projector": {"width": 32, "layers": 2}}
    section |= {"batch_size": 16, "steps": 9}
    execution = section["execution"] | {"checkpoint_every": 3, "threads": 1}
    execution |= {name: changes.pop(name) for name in execution.keys() & changes.keys()}
    return PretrainParams.model_validate(section | changes | {"execution": execution})


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


def train(
    work: Path, corpus: Path, processes: int = 1, **changes: object
) -> list[dict[str, float]]:
    params = small(processes=processes, **changes)
    environment = write_job(work, corpus, params)
    done = subprocess.run(
        command(processes),
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_records(work)


def read_records(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "records.jsonl").read_text().splitlines()]


def weights_of(work: Path) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in load_file(work / "weights.safetensors").items()}


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("whole")
    train(work, corpus)
    return work


def test_training_lowers_the_loss(corpus: Path, tmp_path: Path) -> None:
    losses = [r["barlow_twins"] for r in train(tmp_path, corpus, steps=60, learning_rate=0.005)]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


@pytest.mark.parametrize("kill_after", [1, 4, 8])
def test_killed_run_resumes_to_the_same_losses_and_weights(
    kill_after: int, corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    environment = write_job(tmp_path, corpus, small())
    process = subprocess.Popen(command(1), env=environment, cwd=REPOSITORY)
    records = tmp_path / "records.jsonl"
    while process.poll() is None:
        if records.exists() and len(records.read_text().splitlines()) >= kill_after:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert train(tmp_path, corpus) == read_records(uninterrupted)
    expected = weights_of(uninterrupted)
    found = weights_of(tmp_path)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_damaged_checkpoint_is_passed_over_for_the_one_before(
    corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000006"
    victim = next(path for path in newest.rglob("*.pt") if path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    (tmp_path / "run" / "weights.safetensors").unlink()
    assert train(tmp_path / "run", corpus) == read_records(uninterrupted)


class Stopped(Exception):
    """What a run meets that is killed."""


class Watched(TeacherObjective):
    """The teacher's objective, stopped at a step, with the rows that it was given."""

    def __init__(self, job: Job, params: PretrainParams, stop_at: int | None) -> None:
        super().__init__(job, params)
        self.stop_at, self.seen = stop_at, dict[int, list[int]]()

    def work(self, module: nn.Module, batch: Batch) -> Work:
        if batch.step == self.stop_at:
            raise Stopped
        self.seen[batch.step] = np.concatenate([part.rows for part in batch.parts]).tolist()
        return super().work(module, batch)


def train_here(
    work: Path, corpus: Path, stop_at: int | None = None
) -> tuple[dict[int, list[int]], dict[str, Tensor]]:
    """Train in this process with a checkpoint at every step; return rows and weights."""
    work.mkdir(exist_ok=True)
    params = small(checkpoint_every=1)
    job = Job("pretrain", {}, {"pack": str(corpus)}, str(work))
    objective = Watched(job, params, stop_at)
    weights = train_in_process(objective, params, work, Recorder(work / "records.jsonl"))
    return objective.seen, weights


def test_a_run_stopped_at_any_step_goes_on_with_the_same_rows_to_the_same_weights(
    corpus: Path, tmp_path: Path
) -> None:
    rows, weights = train_here(tmp_path / "whole", corpus)
    assert list(rows) == list(range(9))
    assert len({tuple(sorted(step)) for step in rows.values()}) == 9
    for stop_at in range(1, 9):
        work = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(Stopped):
            train_here(work, corpus, stop_at)
        later, again = train_here(work, corpus)
        assert later == {step: rows[step] for step in range(stop_at, 9)}
        assert all(torch.equal(again[name], weights[name]) for name in weights)
        assert read_records(work) == read_records(tmp_path / "whole")


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one process at ZeRO stage 1."""
    records = train(tmp_path_factory.mktemp("alone"), corpus, steps=5)
    return [r["loss"] for r in records]


@pytest.mark.parametrize(("processes", "zero_stage"), [(1, 2), (1, 3), (2, 1), (2, 3)])
def test_processes_and_zero_stages_agree_on_the_loss(
    processes: int, zero_stage: int, corpus: Path, alone: list[float], tmp_path: Path
) -> None:
    found = train(
        tmp_path, corpus, processes, steps=5, deepspeed=f"infra/deepspeed/zero{zero_stage}.json"
    )
    expected = alone
    assert [r["loss"] for r in found] == pytest.approx(expected, rel=2e-4)


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
    done = subprocess.run(
        command(2), env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{shard}, block 4: expected sha256" in done.stderr
    assert "Traceback" not in done.stderr.split("ShardDamaged", maxsplit=1)[0]
    assert not (tmp_path / "work" / "weights.safetensors").exists()


class Silent:
    """A tracker that nobody reads."""

    def log_metrics(self, rows: list[dict[str, float]]) -> None:
        """Take records."""


def test_blocks_that_were_skipped_are_in_the_output_and_its_counts(
    tmp_path: Path, corpus: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "pack")
    shard = damage_block(tmp_path / "pack", 4)
    for name in ("build", "work"):
        (tmp_path / name).mkdir()
    stream = {"lanes": 4, "window_blocks": 2, "on_damage": "skip", "max_damaged_share": 0.5}
    stage = Stage(
        "pretrain",
        Workspace(tmp_path),
        {"pack": tmp_path / "pack"},
        *(tmp_path / "build", tmp_path / "work"),
        cast(Any, Silent()),
    )
    run_training("tasks.pretrain", TeacherObjective, stage, small(stream=stream))
    skipped = json.loads((tmp_path / "build" / "skipped_blocks.json").read_text())
    assert stage.counts == {"skipped_blocks": 1}
    assert [(row["epoch"], row["block"]) for row in skipped] == [(0, 4), (1, 4), (2, 4)]
    assert all(shard in row["where"] for row in skipped)
