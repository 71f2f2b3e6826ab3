"""Smooth curves from the four operations and the square root.

Every function here is elementwise over float64 and uses only ``+ - * / sqrt floor``, which IEEE 754
rounds exactly; ``exp``, ``sin`` and their kin differ between libraries in the last bit. The shapes
are chosen to look like the textbook ones: ``rise`` like a logistic, ``bump`` like a bell,
``sine_of_turns`` like a sine. Nothing here knows about plants, clouds or radar.
"""

import numpy as np

from tasks.simulator.randomness import F64, I64, mix_at, uniform_at


def rise(x: F64) -> F64:
    """Go from 0 to 1, one half at 0, with tails of 1/(4 x**4): 0.5 + 0.5 x / (1 + x**4)**(1/4)."""
    square = x * x
    return 0.5 + 0.5 * x / np.sqrt(np.sqrt(1.0 + square * square))


def bump(x: F64) -> F64:
    """Go from 0 up to 1 at 0 and back, one half at +-1: 1 / (1 + x**4)."""
    square = x * x
    return 1.0 / (1.0 + square * square)


def sine_of_turns(turns: float) -> float:
    """Sine of an angle in whole turns by Bhaskara's rational form, within 0.0017 of the sine."""
    phase = turns - turns // 1.0
    half = 2.0 * phase if phase < 0.5 else 2.0 * phase - 1.0
    lobe = half * (1.0 - half)
    value = 16.0 * lobe / (5.0 - 4.0 * lobe)
    return value if phase < 0.5 else -value


def summer_of(doy: float) -> float:
    """Season as -1 (about 10 January) to +1 (about 11 July)."""
    return sine_of_turns((doy - 101.0) / 365.25)


def value_noise(key: int, x: F64, y: F64, wavelength_px: float) -> F64:
    """Sample smooth noise on a grid: random values on a lattice, smoothstep between them.

    Args:
        key: Hash that names the field.
        x: (W,) map coordinates in pixels, any size and sign.
        y: (H,) map coordinates in pixels.
        wavelength_px: Lattice spacing in pixels.

    Returns:
        (H, W) float64 in [0, 1), mean one half, continuous across any choice of window.
    """
    column, across = _lattice_position(x, wavelength_px)
    row, down = _lattice_position(y, wavelength_px)
    columns = np.arange(column.min(), column.max() + 2, dtype=np.int64)
    rows = np.arange(row.min(), row.max() + 2, dtype=np.int64)
    lattice = uniform_at(mix_at(key, rows[:, None], columns[None, :]))
    column, row = column - columns[0], row - rows[0]
    west, east = lattice[:, column], lattice[:, column + 1]
    lines = west + (east - west) * across[None, :]
    smooth: F64 = lines[row] + (lines[row + 1] - lines[row]) * down[:, None]
    return smooth


def _lattice_position(x: F64, wavelength_px: float) -> tuple[I64, F64]:
    """Return the lattice cell of each coordinate and the smoothstep position within it."""
    scaled = x / wavelength_px
    cell = np.floor(scaled)
    part = scaled - cell
    return cell.astype(np.int64), part * part * (3.0 - 2.0 * part)
