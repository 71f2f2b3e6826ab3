"""The only importer of DeepSpeed: one step of optimisation, sharded or not.

The engine averages gradients over processes and clips by their global norm. It never accumulates:
Barlow Twins over a batch is not a sum over its parts. The learning rate is set by the caller before
each step as a function of the step alone, so no scheduler state exists.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tasks.params import TrainingParams

# Decision: the processor unless the environment names another accelerator. Exact resume has been
# shown there, and a laptop's graphics card must not change what a run does.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.utils import logger as deepspeed_logger

_SINGLE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}


def join_world() -> tuple[int, int]:
    """Join the process group that ``torchrun`` describes, or a group of one.

    Returns:
        This process's rank and the number of processes.
    """
    deepspeed_logger.setLevel(logging.WARNING)
    for name, value in _SINGLE.items():
        os.environ.setdefault(name, value)
    # Compiling this operator takes minutes, needs a compiler, and a killed compilation leaves a
    # lock on which every later run waits for ever. Gloo does its work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        backend = "gloo" if os.environ["DS_ACCELERATOR"] == "cpu" else "nccl"
        deepspeed.init_distributed(backend, verbose=False)
    return dist.get_rank(), dist.get_world_size()


class Engine:
    """A module with its optimiser, under DeepSpeed ZeRO.

    Args:
        module: What is trained; weights must be equal on every process.
        params: Batch size, clipping, ZeRO stage.
        world_size: Number of processes; divides the batch.
    """

    def __init__(
        self, module: nn.Module, params: TrainingParams, world_size: int, backward_passes: int
    ) -> None:
        chosen = json.loads(Path(params.execution.deepspeed).read_text())
        self.zero_stage = int(chosen["zero_optimization"]["stage"])
        groups = _decay_groups(module, params.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, betas=params.betas)
        # DeepSpeed's default buckets are 2 GB each whatever the model's size.
        bucket = min(500_000_000, sum(p.numel() for p in module.parameters()))
        config = {
            "train_micro_batch_size_per_gpu": max(
                1, params.batch_size // world_size // backward_passes
            ),
            "gradient_accumulation_steps": backward_passes,
            "gradient_clipping": params.clip_norm,
            "zero_optimization": {
                **chosen["zero_optimization"],
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
            },
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )

    @property
    def module(self) -> nn.Module:
        """The wrapped module; call it through here so that ZeRO-3 gathers its weights."""
        engine: nn.Module = self._engine
        return engine

    def backward(self, term: Tensor) -> None:
        """Add the gradient of one term of the loss."""
        self._engine.backward(term, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        """Move the weights once, by the gradient that has been gathered."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()

    def gradient_norm(self) -> float | None:
        """Return the global gradient norm before clipping; ``None`` at ZeRO stage 0."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def save(self, folder: Path, tag: str) -> None:
        """Write weights and optimiser state, every process its part, without naming it latest."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Restore what ``save`` wrote; the caller has verified the files' digests."""
        self._engine.load_checkpoint(str(folder), tag=tag)

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return whole weights of ``module``, gathered if ZeRO-3 has split them.

        Every process must call it.
        """
        split = list(module.parameters()) if self.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(split, enabled=bool(split)):
            return {name: t.detach().cpu().clone() for name, t in module.state_dict().items()}

    def close(self) -> None:
        """Release hooks and buffers; the process group stays."""
        self._engine.destroy()


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only: biases and gains are not shrunk, as in the v1 recipe."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
