"""Refuse tiles that have the right layout and cannot be right.

Right shapes and types do not show that masks are inverted or bands exchanged, and an encoder takes
such a tile without a word. These checks are the few that a look at one tile can decide; whole
archives are judged by ``validate``. ``--force`` of ``tessera embed`` leaves them out.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.bands import S2_BANDS, Normalisation
from models.dpixel import DPixels
from tasks.errors import DataError
from tasks.tiles import OPTICAL, Array, Tile
from tasks.validation.band_order import best_order, land_of

SOURCE = "source.json"
"""Optional record in a tile folder, or above it, of the archive that the data come from."""

_SPAN_PX = 1024  # of three spans: first, middle and last pixels
_MIN_DATES = 30  # as many as a year of one satellite without its twin
_BLUE = S2_BANDS.index("B02")
_MAX_BLUE_RATIO = 1.5  # clouds are brighter than ground; over snow the two are about equal
_MIN_SHARE = 0.05  # of observations, for a median to mean something
_MAX_ORDER_GAIN = 0.05  # two bands exchanged give 0.09 and more, real tiles less than 0.01
_SATURATED = np.iinfo(np.int16).max  # 56 dB: nothing on the ground scatters like that


def check_tile(tile: Tile) -> None:
    """Look at some of a tile's pixels.

    Raises:
        DataError: The masks cannot mean "1 is clear", or the bands are in another order.
    """
    rows = _sample(tile)
    flat_bands, flat_valid = _flat(tile.bands), _flat(tile.valid)
    bands = np.concatenate([flat_bands[:, r] for r in rows], 1)
    clear = np.concatenate([flat_valid[:, r] for r in rows], 1) != 0
    _check_masks(tile, bands[..., _BLUE], clear)
    order, gain = best_order(land_of(bands[clear].astype(np.float64)))
    if gain > _MAX_ORDER_GAIN:
        raise _refusal(
            tile,
            OPTICAL[0],
            expected=f"bands in the order {' '.join(S2_BANDS)}",
            found=f"values that look like {' '.join(order)}",
        )


def check_block(tile: Tile, rows: Array, dpixels: DPixels) -> None:
    """Look at every observation of a block.

    Raises:
        DataError: A mask is neither 0 nor 1, or a radar code is none.
    """
    masks = _flat(tile.valid)[:, int(rows[0]) : int(rows[-1]) + 1]
    if masks.size and masks.max() > 1:
        raise _refusal(tile, OPTICAL[1], expected="0 and 1 (clear)", found=str(masks.max()))
    for name in ("s1_asc", "s1_desc"):
        codes = getattr(dpixels, name).values
        wrong = codes[(codes < 0) | (codes == _SATURATED)]
        if len(wrong):
            orbit = {"s1_asc": "sar_ascending.npy", "s1_desc": "sar_descending.npy"}[name]
            raise _refusal(
                tile,
                orbit,
                expected=f"radar codes (dB + 50) * 200 in 0..{_SATURATED - 1}",
                found=f"{len(wrong)} others, the first {wrong[0]}",
            )


def check_source(folder: Path, root: Path, normalisation: Normalisation) -> None:
    """Hold the statistics of a checkpoint against what is recorded about the data.

    ``source.json`` may name the archive (``{"source": "mpc"}``) or the statistics the data were
    made for (``{"normalisation": "tessera-v1.1-mpc"}``). Without it nothing is known or refused.

    Args:
        folder: A tile folder.
        root: Where the search upward ends.
        normalisation: The checkpoint's statistics.

    Raises:
        DataError: The two do not belong together, or the record cannot be read.
    """
    record = _record(folder, root)
    wanted = {"normalisation": normalisation.name, "source": normalisation.source}
    for field, ours in wanted.items():
        if record.get(field) and ours and record[field] != ours:
            raise DataError(
                f"data for the checkpoint's statistics {normalisation.name}"
                + (f" (source {ours})" if field == "source" else ""),
                found=f"{field} {record[field]}",
                where=f"{SOURCE} of tile {folder.name}",
                mend="Use a checkpoint with that set, or --force if you know that they agree.",
            )


def _record(folder: Path, root: Path) -> dict[str, Any]:
    for place in (folder, *folder.parents):
        path = place / SOURCE
        if path.is_file():
            try:
                return dict(json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise DataError(
                    "a JSON object", found=str(error), where=str(path), mend="Mend the file."
                ) from error
        if place == root:
            break
    return {}


def _check_masks(tile: Tile, blue: Array, clear: Array) -> None:
    share = float(clear.mean()) if clear.size else 0.0
    if share == 1.0 and len(clear) >= _MIN_DATES:
        raise _refusal(
            tile, OPTICAL[1], expected="clouds in a year", found=f"all {len(clear)} dates clear"
        )
    if _MIN_SHARE < share < 1 - _MIN_SHARE:
        ratio = float(np.median(blue[clear])) / max(1.0, float(np.median(blue[~clear])))
        if ratio > _MAX_BLUE_RATIO:
            raise _refusal(
                tile,
                OPTICAL[1],
                expected="1 where it is clear",
                found=f"what is marked clear is {ratio:.1f} times as bright as what is not: inverted",
            )


def _flat(values: Array) -> Array:
    """Return (T, H * W, ...) of (T, H, W, ...), for T = 0 too."""
    return values.reshape(len(values), values.shape[1] * values.shape[2], *values.shape[3:])


def _sample(tile: Tile) -> list[slice]:
    """Return spans of flat pixels at both ends and in the middle."""
    size = tile.region.size
    starts = sorted({0, max(0, (size - _SPAN_PX) // 2), max(0, size - _SPAN_PX)})
    return [slice(start, start + _SPAN_PX) for start in starts]


def _refusal(tile: Tile, name: str, *, expected: str, found: str) -> DataError:
    return DataError(
        expected,
        found=found,
        where=f"{name} of tile {tile.ref.key}",
        mend=f"Mend {tile.ref.folder / name}, or --force if it is right.",
    )
