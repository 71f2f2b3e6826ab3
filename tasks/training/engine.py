"""The only importer of DeepSpeed: one step of optimisation, sharded or not.

The engine adds up the gradients of the terms of a step, averages them over processes, clips by their
global norm, and moves the weights if the step is admitted. The learning rate is set by the caller as
a function of the step alone, so no scheduler state exists.
"""

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.precision import has_bfloat16
from tasks.progress import say
from tasks.settings.training import TrainingParams
from tasks.training.sharding import Sharding

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

VERSION = str(deepspeed.__version__)

PATIENCE = timedelta(minutes=30)
"""How long processes wait for one that probes, hashes or converts alone. DeepSpeed's is 10 minutes."""


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
        deepspeed.init_distributed(backend, verbose=False, timeout=PATIENCE)
    return dist.get_rank(), dist.get_world_size()


class Engine:
    """A module with its optimiser, under DeepSpeed ZeRO.

    Args:
        module: What is trained; weights must be equal on every process.
        params: Batch size, clipping, precision, optimiser.
        sharding: How state is shared out.
        backward_passes: Terms that the gradient of a step is the sum of.
    """

    def __init__(
        self, module: nn.Module, params: TrainingParams, sharding: Sharding, backward_passes: int
    ) -> None:
        self.zero_stage = sharding.stage
        self._passes, self._passed = backward_passes, 0
        groups = _decay_groups(module, params.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, betas=params.betas)
        micro_batch = params.batch_size // dist.get_world_size() // backward_passes
        config = {
            "train_micro_batch_size_per_gpu": max(1, micro_batch),
            "gradient_accumulation_steps": backward_passes,
            # DeepSpeed's default is 1.0, not none.
            "gradient_clipping": params.clip_norm,
            "communication_data_type": "fp32",
            "torch_autocast": _autocast(params.precision),
            "zero_optimization": sharding.bounded(sum(p.numel() for p in module.parameters())),
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
        optimizer.step = self._asking(optimizer.step)  # type: ignore[method-assign, assignment]  # of this one alone
        self._admit: Callable[[float], bool] = lambda _: True
        self._verdict: bool | None = None

    @property
    def module(self) -> nn.Module:
        """The wrapped module; call it through here so that ZeRO-3 gathers its weights.

        Differentiate what it returns by ``backward`` alone. DeepSpeed takes any other derivative
        through it for the end of a step: stages 1 and 2 fail, stage 3 may scale it unsaid.
        """
        engine: nn.Module = self._engine
        return engine

    @property
    def parameter_names(self) -> list[str]:
        """Names of all that is trained."""
        return [name for name, p in self._engine.module.named_parameters() if p.requires_grad]

    def backward(self, term: Tensor) -> None:
        """Add the gradient of one term of the loss."""
        # Stage 1 adds gradients up over processes at the last term alone; 2 and 3 at each.
        self._passed += 1
        self._engine.set_gradient_accumulation_boundary(self._passed == self._passes)
        self._engine.backward(term, scale_wrt_gas=False)

    def step(self, learning_rate: float, admit: Callable[[float], bool]) -> bool:
        """Move the weights once, by the gradient that has been gathered, if it is admitted.

        Args:
            learning_rate: Of this step.
            admit: Told the global gradient norm before clipping, says whether the step is taken;
                called once, on every process. Whatever it says, a norm that is not finite moves
                nothing.

        Returns:
            Whether the step was taken.
        """
        if self._passed != self._passes:
            raise RuntimeError(f"expected {self._passes} terms a step, got {self._passed}")
        self._passed = 0
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._admit, self._verdict = admit, None
        self._engine.step()
        if self._verdict is None:
            # DeepSpeed found the norm not to be finite and did not call the optimiser.
            admit(self._norm())
            return False
        return self._verdict

    def agree(self, *numbers: float) -> list[float]:
        """Return process 0's numbers on every process, so that all decide alike."""
        if dist.get_world_size() == 1:
            return list(numbers)
        told = torch.tensor(numbers, dtype=torch.float64, device=self._engine.device)
        dist.broadcast(told, src=0)
        return [float(number) for number in told]

    def save(self, folder: Path, tag: str) -> None:
        """Write weights and optimiser state, every process its part, without naming it latest."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str, *, universal: bool) -> None:
        """Restore what ``save`` wrote; the caller has verified the files' digests.

        Args:
            folder: Holds the folder ``tag``.
            tag: What was given to ``save``.
            universal: Whether it was converted for other processes or another ZeRO stage since.
        """
        settings = [_without_weights(group) for group in self._optimizer.param_groups]
        self._engine._config.load_universal_checkpoint = universal
        self._engine.load_checkpoint(str(folder), tag=tag)
        if not universal:
            return
        # Stage 3 gives every group the settings of the first, so that biases would decay, and one
        # count of steps that all groups then advance.
        for group, own in zip(self._optimizer.param_groups, settings, strict=True):
            group.update(own)
        for state in self._optimizer.state.values():
            state["step"] = state["step"].clone()

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

    def _asking(self, take: Callable[[], Any]) -> Callable[[], Any]:
        """Make the optimiser ask, once a step, whether the step is taken.

        ZeRO finds the global gradient norm, clips, and then calls the optimiser for one group of
        weights after the other. A refusal here leaves weights, moments and step counts as they
        were, to the bit.
        """

        def ask() -> Any:
            if self._verdict is None:
                self._verdict = self._admit(self._norm())
            return take() if self._verdict else None

        return ask

    def _norm(self) -> float:
        return float(self._engine.optimizer._global_grad_norm)


def _without_weights(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only: biases and gains are not shrunk, as in the v1 recipe."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _autocast(precision: str) -> dict[str, Any]:
    if precision == "float32":
        return {"enabled": False}
    # DeepSpeed's ``bf16`` would turn the weights themselves into bfloat16; autocast keeps them, the
    # moments and the statistics in float32. By default it also adds up the gradients of linear maps
    # in bfloat16, over processes and micro-batches; an empty list keeps those sums in float32.
    return {"enabled": True, "dtype": precision, "lower_precision_safe_modules": []}


def say_if_emulated(precision: str) -> None:
    """Say where bfloat16 is slower than float32: a processor without the units emulates it."""
    on_processor = os.environ["DS_ACCELERATOR"] == "cpu"
    if precision == "bfloat16" and on_processor and not has_bfloat16(torch.device("cpu")):
        say(
            "train: this processor has no bfloat16 units and emulates it: the run is slower than in"
            " float32, and results differ. Set precision: float32, unless you test."
        )
