"""Where a raster lies on the Earth, in words that any GIS understands.

It deliberately only reads: product tiles are arrays, and their georeference stands beside them.
"""

from pathlib import Path
from typing import Any

import rasterio


def read_georeference(path: Path) -> dict[str, Any]:
    """Return the grid of a GeoTIFF.

    Returns:
        ``crs`` (authority code such as ``EPSG:32631``, else WKT), ``transform`` (a, b, c, d, e, f:
        x = a column + b row + c, y = d column + e row + f, pixel corners), and ``bounds`` (west,
        south, east, north) in units of the CRS; ``crs`` is ``None`` where the file has none.
    """
    with rasterio.open(path) as source:
        authority = source.crs.to_authority() if source.crs else None
        wkt = source.crs.to_wkt() if source.crs else None
        return {
            "crs": ":".join(authority) if authority else wkt,
            "transform": list(source.transform)[:6],
            "bounds": list(source.bounds),
        }
