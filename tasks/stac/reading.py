"""Read the pixels of one scene onto a window: the only place where rasters are opened.

The one idea: an error that time can heal is tried again, with growing pauses; one that it cannot is
reported at once. Which is which is told by what GDAL says.

It deliberately knows no bands, and nothing of how a raster is brought onto the grid.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import CRSError, RasterioError

from tasks.errors import DataError
from tasks.stac.items import without_query, without_secrets
from tasks.stac.resampling import on_window

Array = npt.NDArray[Any]

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of a bucket for each file
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # header and index of a COG in one request
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",  # a connection that hangs is an error, not a wait
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}
# No CPL_VSIL_CURL_ALLOWED_EXTENSIONS: a signed address does not end with .tif.

_PERMANENT = re.compile(
    r"HTTP response code: 4(?!08|29)\d\d|not recognized as|No such file|Permission denied"
    r"|AccessDenied|NoSuchKey|InvalidAccessKeyId"
)

_FAILURES: Counter[str] = Counter()  # how often an address failed in this process
_EXPIRED = re.compile("HTTP response code: 403")


@dataclass(frozen=True, slots=True)
class Layer:
    """One raster to read, and as what."""

    href: str
    dtype: str
    nodata: float
    """What means "no data" if the file does not say."""
    is_classes: bool = False
    """Nearest pixel; else bilinear."""


@dataclass(frozen=True, slots=True)
class Access:
    """How rasters are reached."""

    sign: Callable[[str], str] = str
    """Makes an address one that may be read; asked anew for each try, since signatures expire."""
    retries: int = 4
    pause_s: float = 0.5
    """Before the first repetition; twice as long before each further one."""


def read_layers(layers: Mapping[str, Layer], window: GeoBox, access: Access) -> dict[str, Array]:
    """Read rasters onto a window.

    Args:
        layers: What to read, by name.
        window: Box of the 10 m grid.
        access: How.

    Returns:
        (H, W) by name, of each layer's type; 0 where there is no data.

    Raises:
        DataError: A raster cannot be read, now or ever.
    """
    buckets = any(layer.href.startswith("s3://") for layer in layers.values())
    options = GDAL_OPTIONS | ({"GDAL_HTTP_MAX_RETRY": str(access.retries)} if buckets else {})
    with rasterio.Env(**options):
        return {name: _read(layer, window, access) for name, layer in layers.items()}


def _read(layer: Layer, window: GeoBox, access: Access) -> Array:
    # No other format is opened: some hold addresses of their own, which nobody has looked at.
    driver = "JP2OpenJPEG" if without_query(layer.href).lower().endswith(".jp2") else "GTiff"
    is_http = layer.href.startswith("http")  # of buckets, GDAL repeats the reads itself
    for attempt in range(access.retries + 1):
        try:
            address = _address(access.sign(layer.href))
            with rasterio.open(address, driver=driver, sharing=False) as raster:
                return on_window(
                    raster,
                    window,
                    dtype=layer.dtype,
                    nodata=layer.nodata,
                    is_classes=layer.is_classes,
                )
        except (RasterioError, CRSError, OSError) as error:
            _FAILURES[without_query(layer.href)] += 1
            reason = _reason(error)
            heals = is_http and _can_heal(reason, access)
            if not heals or attempt == access.retries:
                raise DataError(
                    "a raster that can be read",
                    found=f"{reason} ({attempt + 1} tries)" if attempt else reason,
                    where=without_query(layer.href),
                    mend="Run the command again later; it reads only what is missing.",
                ) from error
        time.sleep(access.pause_s * 2**attempt * random.uniform(0.8, 1.2))  # noqa: S311 (no secret)
    raise AssertionError("the last attempt returns or raises")


def _can_heal(reason: str, access: Access) -> bool:
    if access.sign is not str and _EXPIRED.search(reason):
        return True
    return not _PERMANENT.search(reason)


def _address(href: str) -> str:
    """Return the address to open.

    GDAL remembers for the life of the process that an address did not answer. A fragment, which is
    never sent, makes it another address.
    """
    times = _FAILURES[without_query(href)]
    return f"/vsicurl/{href}#{times}" if times and href.startswith("http") else href


def _reason(error: BaseException) -> str:
    """Return what an error and its causes say, without what an address may hold in secret."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    lines = dict.fromkeys(line.rstrip(".") for line in said if line)
    return without_secrets("; ".join(lines))
