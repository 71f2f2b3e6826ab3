"""Turn the radar codes of a tile into Sentinel-1 scenes of linear power.

The one idea: a code stands for an interval of power, and any power in it gives the code again; the
middle is farthest from what rounding could do. It deliberately keeps no date on which nothing was seen.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time
from pathlib import Path

import numpy as np
import pystac

from models.bands import S1_BANDS
from tasks.errors import DataError
from tasks.stac.place import Place
from tasks.stac.providers import RTC
from tasks.stac.scenes import write_scene
from tasks.tiles import Array, Tile

_AT = {"ascending": time(17, 25), "descending": time(5, 50)}


def publish_radar(out: Path, tile: Tile, place: Place) -> Iterator[pystac.Item]:
    """Write the Sentinel-1 scenes of a tile, one pass after the other.

    Args:
        out: The catalogue's folder.
        tile: An open tile.
        place: Where it lies.

    Yields:
        One item a scene, its assets float32 with -32768 for no data.

    Raises:
        DataError: A day is no day of the year, or comes twice; or a code is negative.
    """
    for name, (codes, doys) in tile.radar.items():
        orbit = name.removeprefix("sar_")
        for index, day in enumerate(place.dates(tile, f"{name}_doy.npy", doys)):
            power = power_of(np.asarray(codes[index]), where=f"{name}.npy of tile {tile.ref.key}")
            if (power == RTC.nodata).all():
                continue
            keys = [RTC.keys[band] for band in S1_BANDS]
            yield write_scene(
                out,
                f"S1A_{place.squares[0]}_{day:%Y%m%d}_{orbit}_rtc",
                RTC.collections[0],
                datetime.combine(day, _AT[orbit], UTC),
                crs=place.crs,
                transform=place.transform,
                assets={key: power[..., band] for band, key in enumerate(keys)},
                nodata=dict.fromkeys(keys, RTC.nodata),
                properties={"platform": "sentinel-1a", RTC.orbit_property: orbit},
            )


def power_of(codes: Array, *, where: str) -> Array:
    """Return the linear power in the middle of each code's interval, so that it gives the code again.

    Args:
        codes: int16 (20 log10(power) + 50) x 200, cut to whole numbers; 0 is no data.
        where: What to name in a refusal.

    Returns:
        float32 of the same shape; -32768 where there is no data. An interval is 1.00058 wide as a
        ratio, ten thousand times what float32 rounds.

    Raises:
        DataError: A code is negative.
    """
    if codes.size and codes.min() < 0:
        raise DataError(
            "radar codes in 0..32767", found=str(codes.min()), where=where, mend="Mend the file."
        )
    power = 10 ** (((codes + 0.5) / 200 - 50) / 20)
    return np.where(codes > 0, power, RTC.nodata).astype(np.float32)
