"""Published golden vectors of the released forward pass, with weights given by a formula.

The weights and the 2 x 2 input tile are defined by closed formulas, so the numbers can be checked
without any file. They come from the released inference code, run on a CPU in float32.
"""

import numpy as np
import torch
from torch import nn

from models.dpixel import DPixels
from tests.unit.models.arrays import tile_dpixels


def formula_weights(module: nn.Module) -> None:
    """Fill the parameters by the published formula over sorted names."""
    state = module.state_dict()
    for i, name in enumerate(sorted(state)):
        shape = tuple(state[name].shape)
        j = np.arange(state[name].numel(), dtype=np.float64)
        y = np.sin(12.9898 * (j + 1) + 78.233 * (i + 1)) * 43758.5453
        u = 2 * (y - np.floor(y)) - 1
        if len(shape) == 2:
            weight = u * 1.5 / np.sqrt(shape[1])
        else:
            weight = 0.1 * u + (1.0 if name.endswith("weight") else 0.0)
        state[name] = torch.from_numpy(weight.astype(np.float32).reshape(shape))
    module.load_state_dict(state)


def formula_tile(*, radar: bool = True) -> DPixels:
    """Return the published 2 x 2 tile; pixel (1, 1) has no clear optical date."""
    t, h, w, c = np.meshgrid(*map(np.arange, (12, 2, 2, 10)), indexing="ij")
    bands = 500 + 150 * ((7 * t + 3 * h + 5 * w + 11 * c) % 23)
    masks = ((t + h + 2 * w)[..., 0] % 3 != 0).astype(np.uint8)
    masks[:, 1, 1] = 0
    s2 = (bands, masks, 10 + 9 * np.arange(12))
    return tile_dpixels(s2, _radar(9 * radar, 5000, 5), _radar(7 * radar, 4800, 11))


def _radar(times: int, base: int, first_day: int) -> tuple[np.ndarray, np.ndarray]:
    t, h, w, c = np.meshgrid(*map(np.arange, (times, 2, 2, 2)), indexing="ij")
    values = base + 100 * ((5 * t + 2 * h + 3 * w + 7 * c) % 19)
    values[(t + h + w) % 4 == 0] = 0
    return values, first_day + 12 * np.arange(times)
