"""A whole, frozen copy of what is trained, for scoring it.

The one idea: a score must not depend on how the engine holds the weights, nor touch them.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def rebuilt(build: Callable[[], M], weights: Mapping[str, Tensor], device: torch.device) -> M:
    """Build a module and give it these weights; they are shared on the processor, copied elsewhere.

    Raises:
        RuntimeError: They are not exactly the weights of such a module.
    """
    with torch.device("meta"):
        module = build()
    module.load_state_dict(dict(weights), strict=True, assign=True)
    return module.to(device).eval()
