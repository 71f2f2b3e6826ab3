"""Write scenes and catalogues of one's own: COGs, STAC items, a static catalogue.

The one idea: a catalogue on the disk has the form of the real ones (asset keys, raster metadata, map
projection), so what reads it is what reads an archive online. Equal input gives equal bytes, and the
whole is relative: it may be moved, or served by any web server that knows range requests.

It deliberately knows no provider and no sensor: names, numbers and properties come from the caller.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import rasterio
from rasterio.transform import Affine, array_bounds
from rasterio.warp import transform_bounds, transform_geom

from tasks.errors import DataError
from tasks.files import sha256_of

Array = npt.NDArray[Any]

_EXTENSIONS = (
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
)
_BLOCK_PX = 256
_SHA256_MULTIHASH = "1220"  # code of SHA-256 and its length of 32 bytes, before the digest
_WORLD = "EPSG:4326"
_DECIMALS = 7  # of a degree: a centimetre


def write_scene(
    folder: Path,
    item_id: str,
    collection: str,
    when: datetime,
    *,
    crs: str,
    transform: Affine,
    assets: Mapping[str, Array | tuple[Array, Affine]],
    nodata: Mapping[str, float],
    properties: Mapping[str, Any],
    scale_offset: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> pystac.Item:
    """Write a scene's rasters to ``folder/<collection>/<item_id>/<asset>.tif`` and describe them.

    Args:
        folder: The catalogue's folder, the one that ``save_catalogue`` is given.
        item_id: Identifier of the item, a plain name.
        collection: Identifier of its collection, a plain name.
        when: Time of acquisition, in UTC.
        crs: Authority code of the map projection, e.g. ``EPSG:32631``.
        transform: Pixel to map coordinates, of every asset that has none of its own.
        assets: By asset key, (H, W) values, or values with their own transform.
        nodata: By asset key, the value that means "no data"; keys left out declare none.
        properties: What else the item says.
        scale_offset: By asset key, ``raster:bands`` scale and offset; keys left out declare none.

    Returns:
        The item, with absolute asset paths until it is saved in a catalogue.

    Raises:
        DataError: The time is not in UTC, or a name is no plain name.
    """
    _check(item_id, collection, when, tuple(assets))
    place = folder / collection / item_id
    place.mkdir(parents=True, exist_ok=True)
    grids = {key: a if isinstance(a, tuple) else (a, transform) for key, a in assets.items()}
    item = pystac.Item(
        id=item_id,
        geometry=_footprint(crs, list(grids.values())),
        bbox=_bounds(crs, list(grids.values())),
        datetime=when,
        properties={**properties, "proj:code": crs},
        collection=collection,
        stac_extensions=list(_EXTENSIONS),
    )
    for key, (values, grid) in grids.items():
        path = place / f"{key}.tif"
        write_cog(path, values, crs, grid, nodata.get(key))
        band: dict[str, Any] = {"nodata": nodata[key]} if key in nodata else {}
        if key in scale_offset:
            band["scale"], band["offset"] = scale_offset[key]
        item.add_asset(key, _asset(path, values, grid, band))
    return item


def write_cog(
    path: Path, values: Array, crs: str, transform: Affine, nodata: float | None = None
) -> None:
    """Write (H, W) values as a cloud-optimised GeoTIFF: DEFLATE, blocks of 256.

    Decision: without overviews, since ingest never reads coarser than the pixels.
    """
    height, width = values.shape
    options = {"compress": "DEFLATE", "blocksize": _BLOCK_PX, "overviews": "NONE"}
    with rasterio.open(
        path, "w", driver="COG", height=height, width=width, count=1, dtype=values.dtype,
        crs=crs, transform=transform, nodata=nodata, **options,
    ) as raster:  # fmt: skip
        raster.write(values, 1)


def save_catalogue(items: Sequence[pystac.Item], out: Path) -> Path:
    """Save items as a static catalogue that holds only relative links.

    Args:
        items: Scenes of ``write_scene`` with ``folder=out``, in any order.
        out: Folder of the catalogue.

    Returns:
        Path of ``catalog.json``, which is written last.
    """
    catalogue = pystac.Catalog("tessera", "Scenes published by tasks.publish_catalogue")
    by_collection: dict[str, list[pystac.Item]] = {}
    for item in sorted(items, key=lambda item: item.id):
        by_collection.setdefault(str(item.collection_id), []).append(item)
    for name, members in sorted(by_collection.items()):
        extent = pystac.Extent.from_items(members)
        collection = pystac.Collection(name, f"Scenes of {name}", extent)
        collection.add_items(members)
        catalogue.add_child(collection)
    # The slash, because pystac takes a name with a dot in it for that of a file.
    catalogue.normalize_hrefs(f"{out.absolute()}/")
    catalogue.make_all_asset_hrefs_relative()
    catalogue.save(pystac.CatalogType.SELF_CONTAINED)
    return out / "catalog.json"


def _asset(path: Path, values: Array, transform: Affine, band: dict[str, Any]) -> pystac.Asset:
    described = {
        "eo:bands": [{"name": path.stem}],
        "file:checksum": _SHA256_MULTIHASH + sha256_of(path),
        "file:size": path.stat().st_size,
        "proj:shape": list(values.shape),
        "proj:transform": list(transform),
        "raster:bands": [{"data_type": values.dtype.name, **band}],
    }
    return pystac.Asset(
        str(path.absolute()),
        media_type=pystac.MediaType.COG,
        roles=["data"],
        extra_fields=described,
    )


def _bounds(crs: str, grids: list[tuple[Array, Affine]]) -> list[float]:
    """Return west, south, east, north of all rasters, in degrees."""
    edges = np.array(
        [
            transform_bounds(crs, _WORLD, *array_bounds(*values.shape, transform))
            for values, transform in grids
        ]
    )
    west_south, east_north = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
    return [round(float(edge), _DECIMALS) for edge in (*west_south, *east_north)]


def _footprint(crs: str, grids: list[tuple[Array, Affine]]) -> dict[str, Any]:
    """Return the corners of the first raster, in degrees; between them sides are taken as straight."""
    values, transform = grids[0]
    west, south, east, north = array_bounds(*values.shape, transform)
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    outline = {"type": "Polygon", "coordinates": [ring]}
    return dict(transform_geom(crs, _WORLD, outline, precision=_DECIMALS))


def _check(item_id: str, collection: str, when: datetime, keys: tuple[str, ...]) -> None:
    if when.utcoffset() != timedelta(0):
        raise DataError(
            "a time in UTC",
            found=when.isoformat(),
            where=f"scene {item_id}",
            mend="Give the time a time zone, and convert it with astimezone(UTC).",
        )
    for name in (item_id, collection, *keys):
        if name != Path(name).name or name in {"", ".", ".."}:
            raise DataError(
                "plain names of items, collections and assets",
                found=repr(name),
                where=f"scene {item_id}",
                mend="Leave out slashes and dots.",
            )
