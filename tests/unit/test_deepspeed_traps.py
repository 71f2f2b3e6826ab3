"""What DeepSpeed and PyTorch do to a careless training, and that it is not done to ours.

Of two more traps the tests are where the mathematics is: the gradient of a loss over a batch that is
spread over processes (``models/test_pretraining.py``, ``models/test_collective.py``), and 16-bit
weights, which ``test_sharding.py`` and ``test_engine.py`` refuse and rule out.
"""

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import nn

from tasks.settings.training import PretrainParams
from tasks.training.objective import Batch, Work
from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import Planted, Small, teacher
from tests.training_runs import run, small
from tests.unit.models.processes import on_processes

EXTENSIONS = "TORCH_EXTENSIONS_DIR"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


class DiesAsItSaves(Planted):
    """Makes an objective whose last process dies when DeepSpeed first writes a file of its share."""

    def __call__(self, corpus: Path, params: PretrainParams) -> Small:
        """Make it, and lay the trap."""
        if os.environ["RANK"] == "1":
            torch.save = _die
        return super().__call__(corpus, params)


def _die(*_arguments: Any, **_keywords: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_a_checkpoint_that_one_process_did_not_write_is_none(corpus: Path, tmp_path: Path) -> None:
    """Process 0 has written its files by then, and DeepSpeed would name them the latest."""
    params = small(processes=2)
    ended = run(tmp_path / "killed", corpus, params, objective=DiesAsItSaves())
    assert ended.codes[1] == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "killed" / "checkpoints").rglob("*")]
    assert any(name.endswith("model_states.pt") for name in left)
    assert not {"latest", "latest.json"} & set(left)
    assert ended.checkpoints == []
    again = run(tmp_path / "killed", corpus, params, objective=Planted())
    whole = run(tmp_path / "whole", corpus, params, objective=Planted())
    assert again.records == whole.records
    assert all(np.array_equal(again.weights[name], whole.weights[name]) for name in whole.weights)


def test_torch_refuses_batch_norm_over_processes_without_graphics_cards(tmp_path: Path) -> None:
    for said in on_processes(2, _batch_norm_of_torch, tmp_path):
        assert "expected input tensor to be on" in said


def _batch_norm_of_torch(_rank: int) -> str:
    try:
        nn.SyncBatchNorm(4)(torch.ones(2, 4))
    except ValueError as error:
        return str(error)
    return "it took them"


def test_the_teacher_has_none_of_torchs_and_no_state_that_processes_could_differ_in(
    corpus: Path,
) -> None:
    module = teacher(corpus, small()).module
    torchs = nn.modules.batchnorm._BatchNorm
    assert not [part for part in module.modules() if isinstance(part, torchs)]
    assert not [name for name, _ in module.named_buffers() if "running" in name]


class Outside(Planted):
    """Makes an objective that differentiates what the engine's module returns by itself."""

    def __call__(self, corpus: Path, params: PretrainParams) -> Small:
        """Make it."""
        objective = super().__call__(corpus, params)
        begin = objective.work

        def work(module: nn.Module, batch: Batch) -> Work:
            inputs = torch.zeros(1, 8, requires_grad=True)
            torch.autograd.grad(module(inputs).sum(), inputs)
            return begin(module, batch)

        objective.work = work  # type: ignore[method-assign]  # of this one alone
        return objective


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_takes_any_derivative_through_its_module_for_the_end_of_a_step(
    stage: int, corpus: Path, tmp_path: Path
) -> None:
    """Why a replay takes its slopes inside the module; ``test_pretraining_engine.py`` runs it."""
    params = small(deepspeed=f"infra/deepspeed/zero{stage}.json")
    ended = run(tmp_path, corpus, params, objective=Outside())
    assert ended.error.startswith("IndexError")
    assert "reduce_ipg_grads" in (tmp_path / "log-0.txt").read_text()


class WithStaleLock(Planted):
    """Makes an objective in a process whose folder of extensions has a lock of a killed compiler."""

    def __call__(self, corpus: Path, params: PretrainParams) -> Any:
        """Make the teacher's."""
        os.environ[EXTENSIONS] = str(corpus.parent / "extensions")
        return teacher(corpus, params)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_compiles_nothing_and_does_not_wait_for_one_that_was_killed_compiling(
    processes: int, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "pack").symlink_to(corpus)
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    params = small(processes=processes, steps=2)
    ended = run(tmp_path / "run", tmp_path / "pack", params, objective=WithStaleLock())
    assert ended.codes == [0] * processes, ended.error
    assert len(ended.losses) == 2
    assert [path for path in (tmp_path / "extensions").rglob("*") if path.is_file()] == [lock]
