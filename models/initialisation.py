"""Starting weights that depend on a seed and on parameter names alone.

The one idea: every parameter has its own generator, seeded by (seed, name). Weights are the same
whatever else was built before them, and adding a module changes no other module's start. The
global random state is neither read nor moved.

| parameter | start |
|---|---|
| matrices | uniform within +-1 / sqrt(number of columns), torch's own for linear maps |
| both maps of a band embedding | uniform within +-sqrt(6 / number of columns), He's for ReLU; the first one's four times that |
| `fusion_modality_embed` | 0, as released: the two sensors start alike |
| gains of norms | 1 |
| biases | 0 |

Decision: the paper names no start. Under torch's own the band values are a tenth of the date code that
is added to them, and an encoder of this family then spends its first thousands of steps on *when* a
d-pixel was seen; `docs/learning.md` has the trials.
"""

import hashlib
import math

import torch
from torch import nn

FIRST_MAP_GAIN = 4.0
"""Of the first map of a band embedding, over He's start."""


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Set all parameters of the module, in place, from the seed.

    Args:
        module: any module of this package.
        seed: whole number; equal seeds give equal weights on every machine.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("fusion_modality_embed"):
            parameter.zero_()
        else:
            bound = _gain(name) / math.sqrt(parameter.shape[1])
            start = torch.empty(parameter.shape)
            start.uniform_(-bound, bound, generator=_generator(seed, name))
            parameter.copy_(start)


def _gain(name: str) -> float:
    if ".embedding." not in name:
        return 1.0
    first = name.endswith(".embedding.0.weight")
    return math.sqrt(6) * (FIRST_MAP_GAIN if first else 1.0)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
