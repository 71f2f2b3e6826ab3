"""Refuse tiles that have the right layout and cannot be right.

Right shapes and types do not show that masks are inverted or bands exchanged, and an encoder takes
such a tile without a word. These checks are the few that a look at one tile can decide; whole
archives are judged by ``validate``. ``--force`` of ``tessera embed`` leaves them out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.bands import S2_BANDS, Normalisation
from models.dpixel import DPixels
from tasks.embedding.blocks import Block
from tasks.errors import DataError
from tasks.points import PointTable
from tasks.tiles import OPTICAL, SOURCE, Array, Tile
from tasks.validation.band_order import best_order, land_of
from tasks.validation.dpixel_checks import SATURATED, scan

_SPAN_PX = 1024  # of three spans: first, middle and last pixels of the region
_MIN_DATES = 30  # as many as a year of one satellite without its twin
_BLUE = S2_BANDS.index("B02")
_MAX_BLUE_RATIO = 1.5  # clouds are brighter than ground; over snow the two are about equal
_MIN_SHARE = 0.05  # of observations, for a median to mean something
_MAX_BLANK_SHARE = 0.05  # of what is marked clear; a black pixel in all ten bands is rare
_MAX_ORDER_GAIN = 0.05  # two bands exchanged give 0.09 and more, real tiles less than 0.01
_RADAR_CODES = f"radar codes (dB + 50) * 200 in 0..{SATURATED - 1}"
_RADAR_FAULTS = ("negative_code", "saturated", "empty_radar")


def check_tile(tile: Tile) -> None:
    """Look at some of a tile's pixels.

    Raises:
        DataError: The masks cannot mean "1 is clear", they call zeros clear, or the bands are in
            another order.
    """
    if not tile.region.any():
        return
    bands, clear, imaged = _sample(tile)
    _check_shares(tile, clear, imaged)
    _check_masks(tile, bands[imaged][:, _BLUE], clear[imaged])
    _check_blanks(tile, clear, imaged)
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
    for name, file in (("s1_asc", "sar_ascending.npy"), ("s1_desc", "sar_descending.npy")):
        codes = getattr(dpixels, name).values
        wrong = codes[_is_no_code(codes)]
        if len(wrong):
            found = f"{len(wrong)} others, the first {wrong[0]}"
            raise _refusal(tile, file, expected=_RADAR_CODES, found=found)


def check_points(table: PointTable) -> Iterator[Block]:
    """Yield the blocks of a point table, having looked at every radar observation.

    Raises:
        DataError: A radar code is none, or an observation is 0 0, which means that there is none.
    """
    for rows, dpixels in table.blocks():
        for fault in scan(dpixels).faults:
            if fault.kind in _RADAR_FAULTS:
                series = getattr(dpixels, fault.sensor)
                codes = series.values[series.offsets[fault.row] + fault.observation]
                raise DataError(
                    f"{_RADAR_CODES}, not both 0",
                    found=f"VV VH {codes.tolist()}",
                    where=f"{fault.sensor} in row {rows[fault.row]} of {table.path}",
                    mend="Leave such observations out, or --force if they are right.",
                )
        yield rows, dpixels


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
    record = source_record(folder, root)
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


def source_record(folder: Path, root: Path) -> dict[str, Any]:
    """Return the nearest ``source.json`` of a tile folder, up to ``root``; empty where there is none.

    Raises:
        DataError: It is no JSON object.
    """
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


def _check_shares(tile: Tile, clear: Array, imaged: Array) -> None:
    """Refuse a year whose observations are all called clear, or all cloudy."""
    num_dates = int(imaged.any(axis=1).sum())
    if num_dates >= _MIN_DATES and (clear.all() or not clear[imaged].any()):
        word = "clear" if clear.all() else "cloudy"
        raise _refusal(
            tile,
            OPTICAL[1],
            expected="clear and cloudy dates in a year",
            found=f"all {num_dates} dates {word}",
        )


def _check_masks(tile: Tile, blue: Array, clear: Array) -> None:
    """Refuse masks that call the brighter observations clear; fill of zeros is left out."""
    share = float(clear.mean()) if clear.size else 0.0
    if _MIN_SHARE < share < 1 - _MIN_SHARE:
        ratio = float(np.median(blue[clear])) / max(1.0, float(np.median(blue[~clear])))
        if ratio > _MAX_BLUE_RATIO:
            raise _refusal(
                tile,
                OPTICAL[1],
                expected="1 where it is clear",
                found=f"what is marked clear is {ratio:.1f} times as bright as what is not: inverted",
            )


def _check_blanks(tile: Tile, clear: Array, imaged: Array) -> None:
    """Refuse zeros that the masks call clear: they would be encoded as a black surface."""
    share = float(np.mean(~imaged[clear])) if clear.any() else 0.0
    if share > _MAX_BLANK_SHARE:
        raise _refusal(
            tile,
            OPTICAL[0],
            expected="reflectance where the masks say clear",
            found=f"only zeros in {share:.0%} of it",
        )


def _is_no_code(codes: Array) -> Array:
    return np.asarray((codes < 0) | (codes == SATURATED))


def _flat(values: Array) -> Array:
    """Return (T, H * W, ...) of (T, H, W, ...), for T = 0 too."""
    return values.reshape(len(values), values.shape[1] * values.shape[2], *values.shape[3:])


def _sample(tile: Tile) -> tuple[Array, Array, Array]:
    """Return bands (T, n, 10), clear (T, n) and imaged (T, n) of some pixels of the region.

    They lie at both ends and in the middle. Imaged is False at the zeros beyond a swath.
    """
    region = tile.region.reshape(-1)
    inside, last = np.flatnonzero(region), max(0, region.size - _SPAN_PX)
    places = (inside[0], inside[len(inside) // 2], inside[-1] - _SPAN_PX + 1)
    starts = sorted({min(max(0, int(place)), last) for place in places})
    spans = [slice(start, start + _SPAN_PX) for start in starts]
    bands, valid = (
        np.concatenate([_flat(array)[:, span][:, region[span]] for span in spans], axis=1)
        for array in (tile.bands, tile.valid)
    )
    return bands, valid != 0, np.asarray(bands.any(axis=-1))


def _refusal(tile: Tile, name: str, *, expected: str, found: str) -> DataError:
    return DataError(
        expected,
        found=found,
        where=f"{name} of tile {tile.ref.key}",
        mend=f"Mend {tile.ref.folder / name}, or --force if it is right.",
    )
