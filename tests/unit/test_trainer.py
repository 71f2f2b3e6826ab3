import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from models.dpixel import DPixels, Series
from tasks.errors import DataError
from tasks.files import write_json
from tasks.params import PretrainParams, read_params
from tasks.shards import write_dpixels, write_index
from tasks.training.launch import JOB
from tasks.training.trainer import _batches, learning_rate

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def make_dpixels(num: int, seed: int) -> DPixels:
    """Build d-pixels with 0 to 30 observations a sensor, some with an empty one."""
    random = np.random.default_rng(seed)

    def series(num_bands: int, kind: type[np.generic]) -> Series:
        counts = random.integers(0, 30, num)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        total = int(offsets[-1])
        # Each d-pixel has levels of its own, so two views of it have something in common.
        level = np.repeat(random.integers(500, 9000, (num, num_bands)), counts, axis=0)
        values = (level + random.integers(-300, 300, (total, num_bands))).astype(kind)
        return Series(values, random.integers(1, 366, total).astype(np.int16), offsets)

    return DPixels(
        np.arange(num, dtype=np.uint64),
        series(10, np.uint16),
        series(2, np.int16),
        series(2, np.int16),
    )


def small(**changes: object) -> PretrainParams:
    section = read_params(REPOSITORY / "params.yaml").pretrain.model_dump()
    tiny = {"latent": 4, "layers": 1, "heads": 2, "feedforward": 16, "repr_dim": 24}
    section |= {"architecture": tiny, "projector": {"width": 32, "layers": 2}}
    section |= {"batch_size": 16, "steps": 9, "checkpoint_every": 3, "threads": 1}
    return PretrainParams.model_validate(section | changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    for index, name in enumerate(["dpixels-00000.arrow", "dpixels-00001.arrow"]):
        write_dpixels(folder / name, make_dpixels(30, index))
    write_index(folder, ["dpixels-00000.arrow", "dpixels-00001.arrow"], {})
    return folder


def write_job(work: Path, corpus: Path, params: PretrainParams) -> dict[str, str]:
    work.mkdir(exist_ok=True)
    job = {
        "stage": "pretrain",
        "params": params.model_dump(mode="json"),
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


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one process at ZeRO stage 1."""
    records = train(tmp_path_factory.mktemp("alone"), corpus, steps=5)
    return [r["loss"] for r in records]


@pytest.mark.parametrize(("processes", "zero_stage"), [(1, 2), (1, 3), (2, 1), (2, 3)])
def test_processes_and_zero_stages_agree_on_the_loss(
    processes: int, zero_stage: int, corpus: Path, alone: list[float], tmp_path: Path
) -> None:
    found = train(tmp_path, corpus, processes, steps=5, zero_stage=zero_stage)
    expected = alone
    assert [r["loss"] for r in found] == pytest.approx(expected, rel=2e-4)


def test_rows_of_a_step_do_not_depend_on_the_number_of_processes() -> None:
    params = small()
    whole = list(_batches(60, params, 0, 1, 0))
    halves = [list(_batches(60, params, rank, 2, 0)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        rows = np.concatenate([half[step].rows for half in halves])
        assert np.array_equal(rows, batch.rows)
        assert {half[step].view_length for half in halves} == {batch.view_length}


def test_an_epoch_visits_every_row_once() -> None:
    params = small(steps=15)
    rows = np.concatenate([b.rows for b in _batches(60, params, 0, 1, 0)])
    first, second = rows[:60], rows[60:120]
    assert sorted(first) == list(range(60)) == sorted(second)
    assert not np.array_equal(first, second)


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    params = small(steps=100, learning_rate=2.0, warmup_share=0.1)
    rates = [learning_rate(step, params) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert np.argmax(rates) == 9
    assert rates[-1] < 0.001


def test_batch_larger_than_the_corpus_is_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    from tasks.pretrain import TeacherObjective
    from tasks.training.launch import Job
    from tasks.training.records import Recorder
    from tasks.training.trainer import train as train_here

    params = small(batch_size=64)
    job = Job("pretrain", {}, {"pack": str(corpus)}, str(tmp_path))
    objective = TeacherObjective(job, params)
    with pytest.raises(DataError, match="batch of 64 d-pixels; found 60"):
        train_here(objective, params, tmp_path, Recorder(tmp_path / "records.jsonl"))
