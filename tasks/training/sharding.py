"""The file of DeepSpeed's settings, read strictly: how state is shared out, and nothing else.

The one idea: what a training computes is decided in ``params.yaml`` alone. DeepSpeed accepts batch,
clipping, precision and optimiser in its own file as well, and a number there that differs silently
wins or silently loses. So a key that ``params.yaml`` owns is refused with the name of its owner, and
a key that has not been shown to resume exactly is refused by name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ParamsError

STAGES = (1, 2, 3)

_OWNERS = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "execution.micro_batch",
    "gradient_accumulation_steps": "execution.replay and execution.micro_batch",
    "gradient_clipping": "clip_norm",
    "optimizer": "learning_rate, betas and weight_decay",
    "scheduler": "learning_rate, warmup_share and steps",
    "fp16": "precision",
    "bf16": "precision",
    "bfloat16": "precision",
    "torch_autocast": "precision",
    "data_types": "precision",
    "amp": "precision",
    "activation_checkpointing": "execution.activation_checkpointing",
    "elasticity": "execution.processes: the batch never changes by itself",
    "checkpoint": "execution.checkpoint_every, keep_last and keep_every",
}
_ZERO = {
    "stage",
    *("reduce_bucket_size", "allgather_bucket_size", "sub_group_size"),
    *("overlap_comm", "contiguous_gradients", "reduce_scatter", "allgather_partitions"),
    *("round_robin_gradients", "use_multi_rank_bucket_allreduce"),
    *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"),
    *("stage3_max_live_parameters", "stage3_max_reuse_distance"),
}


@dataclass(frozen=True, slots=True)
class Sharding:
    """How the state of a training is shared out among its processes."""

    stage: int
    """ZeRO stage: 1 shares the optimiser's state, 2 gradients too, 3 weights too."""
    zero: dict[str, Any]
    """The whole section ``zero_optimization``."""

    def bounded(self, parameters: int) -> dict[str, Any]:
        """Return the section for a model of so many parameters.

        DeepSpeed's default buckets are 2 GB each whatever the model's size; it wants even ones. At
        stage 3 it would replace the linear map of the whole process by one of its own, whose
        gradients round otherwise under autocast: the same run would differ between stages.
        """
        largest = parameters + parameters % 2
        sizes = {
            name: min(int(self.zero.get(name, 500_000_000)), largest)
            for name in ("reduce_bucket_size", "allgather_bucket_size")
        }
        return {**self.zero, **sizes, "memory_efficient_linear": False}


def read_sharding(path: Path) -> Sharding:
    """Read and check a file such as ``infra/deepspeed/zero2.json``.

    Raises:
        ParamsError: Missing, not JSON, another stage than 1, 2 or 3, or a key that is owned by
            ``params.yaml`` or not supported.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _refused("a JSON file of DeepSpeed", str(error), path) from None
    if not isinstance(content, dict) or not isinstance(content.get("zero_optimization"), dict):
        raise _refused("an object with zero_optimization", type(content).__name__, path)
    for key in content.keys() - {"zero_optimization", "communication_data_type"}:
        if owner := _OWNERS.get(key):
            raise _refused(f"sharding only; params.yaml owns this as {owner}", key, path)
        raise _refused("zero_optimization and communication_data_type only", key, path)
    if content.get("communication_data_type", "fp32") != "fp32":
        found = f"communication_data_type {content['communication_data_type']!r}"
        raise _refused("gradients that are added in fp32", found, path)
    zero = content["zero_optimization"]
    for key in sorted(zero.keys() - _ZERO):
        found = f"zero_optimization.{key}"
        raise _refused(f"keys of zero_optimization among {', '.join(sorted(_ZERO))}", found, path)
    if zero.get("stage") not in STAGES:
        raise _refused("zero_optimization.stage 1, 2 or 3", repr(zero.get("stage")), path)
    return Sharding(zero["stage"], zero)


def _refused(expected: str, found: str, path: Path) -> ParamsError:
    mend = "Mend the file, or name one of infra/deepspeed/ as execution.deepspeed."
    return ParamsError(expected, found=found, where=str(path), mend=mend)
