"""Who owns which part of a pixel: fields, roads and what grows on them each year.

The land is an endless brick pattern, turned against the pixel grid: rows with slanted edges, cut
into fields at jittered places, with a narrow road along some rows. Sixteen points per pixel are
asked which field they are in; so border pixels are mixed, with area shares in sixteenths.

Fields belong to districts (arable, pasture, wood, settlement, lakes and pits) that decide the odds
of land use; arable fields rotate crops by year. Nothing here depends on the window asked for.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.simulator.classes import BARE, BROADLEAF, BUILT, CONIFER, GRASS, ROTATIONS, WATER
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.randomness import F64, I64, Stream, mix_at, uniform_at

NUM_SHARES = 3
_SUBPIXELS = 4
_ROAD_COLUMN = 1 << 20  # a column number that no field reaches
_ROW_HEIGHT = 0.9  # of the typical field side
_ROWS_PER_ROAD = 5
_ROAD_PX = 0.7
_DISTRICT_SIDE = 2
_ARABLE_USE = 99

# Percent of fields by use, per district: (use, percent) in order.
_DISTRICTS: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
    (34, ((_ARABLE_USE, 80), (GRASS, 12), (BROADLEAF, 4), (BUILT, 4))),
    (17, ((GRASS, 58), (_ARABLE_USE, 26), (BROADLEAF, 8), (WATER, 4), (BUILT, 4))),
    (20, ((BROADLEAF, 41), (CONIFER, 41), (GRASS, 10), (BARE, 4), (WATER, 4))),
    (14, ((BUILT, 52), (GRASS, 20), (BARE, 10), (_ARABLE_USE, 10), (BROADLEAF, 8))),
    (15, ((WATER, 48), (BARE, 36), (GRASS, 8), (BROADLEAF, 8))),
)


@dataclass(frozen=True, slots=True)
class ParcelMap:
    """The parcels of a window and their shares of its pixels."""

    row: I64
    """(P,) brick row of each parcel."""
    column: I64
    """(P,) position in the row; a road has a column beyond all fields."""
    member: I64
    """(H, W, 3) index into the P parcels, largest share first."""
    share: F64
    """(H, W, 3) area shares, multiples of 1/16 that add up to 1."""

    @property
    def group(self) -> I64:
        """(P,) group number 1 to 65535.

        Decision: 16 bits cannot count an endless map, so numbers repeat every 255 rows and 257
        columns. Far fields that share a number fall on the same side of a split: that costs a
        little data and never leaks.
        """
        return 1 + self.row % 255 * 257 + self.column % 257

    @property
    def is_road(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the parcel is a road."""
        return np.equal(self.column, _ROAD_COLUMN)


def map_parcels(config: SimulatorConfig, x: I64, y: I64) -> ParcelMap:
    """Find the parcels under a window and their shares of each pixel.

    Args:
        config: World and field size.
        x: (W,) map columns, pixels.
        y: (H,) map rows, pixels.

    Returns:
        The map. A fourth parcel in a pixel (a corner) is given to the largest.
    """
    points = [_fields_at(config, x, y, i, j) for i in range(_SUBPIXELS) for j in range(_SUBPIXELS)]
    names, index = np.unique(np.stack(points, axis=-1), return_inverse=True)
    member, count = _largest(index.reshape((*points[0].shape, len(points))).astype(np.int64))
    count[..., 0] = len(points) - count[..., 1] - count[..., 2]
    row = np.floor_divide(names, 1 << 32)
    column = names - (row << 32) - (1 << 31)
    return ParcelMap(row, column, member, count.astype(np.float64) / len(points))


def land_use(config: SimulatorConfig, parcels: ParcelMap, year: int) -> I64:
    """Return (P,) class positions of the parcels in a year; only arable fields change."""
    district = mix_at(
        config.key(Stream.LAND_USE, 1),
        np.floor_divide(parcels.row, _DISTRICT_SIDE),
        np.floor_divide(parcels.column, _DISTRICT_SIDE),
    )
    chance = mix_at(config.key(Stream.LAND_USE, 2), parcels.row, parcels.column)
    use = np.full(parcels.row.shape, BUILT, dtype=np.int64)
    kind = _draw(tuple((n, weight) for n, (weight, _) in enumerate(_DISTRICTS)), district)
    for number, (_, odds) in enumerate(_DISTRICTS):
        use = np.where(kind == number, _draw(odds, chance), use)
    use = np.where(use == _ARABLE_USE, _crop_of(config, parcels, year), use)
    return np.where(parcels.is_road, BUILT, use)


def _crop_of(config: SimulatorConfig, parcels: ParcelMap, year: int) -> I64:
    """Follow each parcel's rotation to a year."""
    chance = mix_at(config.key(Stream.LAND_USE, 3), parcels.row, parcels.column)
    sequence = (chance % np.uint64(len(ROTATIONS))).astype(np.int64)
    start = (chance >> np.uint64(32) & np.uint64(3)).astype(np.int64)
    return np.array(ROTATIONS, dtype=np.int64)[sequence, (start + year) % 4]


def _draw(odds: tuple[tuple[int, int], ...], words: np.ndarray) -> I64:
    """Choose by percent: each word gives one of the first members of ``odds``."""
    percent = (words % np.uint64(100)).astype(np.int64)
    chosen = np.full(words.shape, odds[-1][0], dtype=np.int64)
    limit = 100
    for value, weight in reversed(odds):
        chosen = np.where(percent < limit, value, chosen)
        limit -= weight
    return chosen


def _fields_at(config: SimulatorConfig, x: I64, y: I64, i: int, j: int) -> I64:
    """Return (H, W) parcel names, row * 2**32 + column + 2**31, at one point within each pixel."""
    east = (x[None, :] + (j + 0.5) / _SUBPIXELS) / config.parcel_size_px
    south = (y[:, None] + (i + 0.5) / _SUBPIXELS) / config.parcel_size_px
    # A 3-4-5 turn has exact cosine and sine; fields are 1.15 long and 0.9 wide.
    along = (0.8 * east + 0.6 * south) / 1.15
    across = (0.8 * south - 0.6 * east) / _ROW_HEIGHT
    guess = np.floor(across)
    row = guess - (across - guess < _row_edge(config, guess, along))
    depth = across - row - _row_edge(config, row, along)
    start = along + 40.0 * uniform_at(mix_at(config.key(Stream.PARCEL_SHAPE, 2), _int(row)))
    guess = np.floor(start)
    column = guess - (start - guess < _column_edge(config, row, guess, depth))
    joined = _is_joined(config, row, column) & ~_is_joined(config, row, column - 1.0)
    column = column - joined
    on_road = (_int(row) % _ROWS_PER_ROAD == 0) & (
        depth * _ROW_HEIGHT * config.parcel_size_px < _ROAD_PX
    )
    place: I64 = np.where(on_road, _ROAD_COLUMN, _int(column))
    return (_int(row) << 32) + place + (1 << 31)


def _row_edge(config: SimulatorConfig, row: F64, along: F64) -> F64:
    """Offset of a row's upper edge, 0 to 0.4, a polyline with a knot every four fields."""
    knot = np.floor(along / 4.0)
    key = config.key(Stream.PARCEL_SHAPE, 0)
    left = uniform_at(mix_at(key, _int(row), _int(knot)))
    right = uniform_at(mix_at(key, _int(row), _int(knot) + 1))
    return 0.4 * (left + (right - left) * (along / 4.0 - knot))


def _column_edge(config: SimulatorConfig, row: F64, column: F64, depth: F64) -> F64:
    """Offset of a field's left edge, 0.05 to 0.6, slanted by up to a fifth of the row's depth."""
    words = mix_at(config.key(Stream.PARCEL_SHAPE, 1), _int(row), _int(column))
    lean = uniform_at(mix_at(0, words.view(np.int64))) - 0.5
    return 0.1 + 0.45 * uniform_at(words) + 0.2 * lean * (depth - 0.5)


def _is_joined(config: SimulatorConfig, row: F64, column: F64) -> npt.NDArray[np.bool_]:
    """Say which fields have lost the hedge to their left-hand neighbour: three in ten."""
    words = mix_at(config.key(Stream.PARCEL_SHAPE, 3), _int(row), _int(column))
    return uniform_at(words) < 0.3


def _largest(index: I64) -> tuple[I64, I64]:
    """Return the three most frequent values along the last axis and their counts, (..., 3)."""
    num_points = index.shape[-1]
    votes = np.zeros_like(index)
    for other in range(num_points):
        votes += index == index[..., other : other + 1]
    rank = votes * (1 << 40) - index
    member: list[I64] = []
    count: list[I64] = []
    for _ in range(NUM_SHARES):
        best = rank.max(axis=-1)
        gone = best < 0
        value = np.where(gone, 0, -best % (1 << 40))
        count.append(np.where(gone, 0, np.floor_divide(best + value, 1 << 40)))
        member.append(np.where(gone, member[0] if member else value, value))
        rank = np.where(rank == best[..., None], -1, rank)
    return np.stack(member, axis=-1), np.stack(count, axis=-1)


def _int(values: F64) -> I64:
    return values.astype(np.int64)
