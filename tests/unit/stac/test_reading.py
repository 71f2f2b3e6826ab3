"""Rasters that cannot be read, or must not be."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError
from rasterio.transform import from_origin

from tasks.errors import DataError
from tasks.stac.reading import Access, Layer, read_layers
from tasks.stac.scenes import write_cog

GRID = from_origin(600_000, 5_652_000, 10, 10)
WINDOW = GeoBox((4, 4), GRID, "EPSG:32631")
SIGNED = "https://example.org/x.tif?sig=SECRET"


def read(path: object, access: Access | None = None) -> None:
    read_layers({"x": Layer(str(path), "uint16", 0)}, WINDOW, access or Access())


def test_file_of_another_format_under_a_false_name_is_not_opened(tmp_path: Path) -> None:
    """A virtual raster would have whatever it names copied into a tile."""
    write_cog(tmp_path / "private.tif", np.ones((4, 4), np.uint16), "EPSG:32631", GRID)
    with rasterio.open(tmp_path / "private.tif") as raster:
        rasterio.shutil.copy(raster, tmp_path / "x.vrt", driver="VRT")
    posing = (tmp_path / "x.vrt").rename(tmp_path / "posing.tif")
    with rasterio.open(posing) as raster:
        assert raster.driver == "VRT", "GDAL would"
    with pytest.raises(DataError, match="not recognized"):
        read(posing)


def test_raster_that_lies_nowhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=1, dtype="uint16", transform=GRID
    ) as raster:
        raster.write(np.ones((1, 4, 4), np.uint16))
    with pytest.raises(DataError, match="projection"):
        read(path)


@pytest.mark.parametrize(("dtype", "count"), [("float32", 1), ("uint8", 3)])
def test_raster_of_another_kind_is_refused(dtype: str, count: int, tmp_path: Path) -> None:
    """Reflectance of 0..1 would be cut to 0, which means no data; a picture has no numbers."""
    form = {"height": 4, "width": 4, "count": count, "dtype": dtype, "crs": "EPSG:32631"}
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", transform=GRID, **form) as raster:
        raster.write(np.full((count, 4, 4), 0.5, dtype))
    with pytest.raises(DataError, match=f"{count} bands of {dtype}"):
        read(tmp_path / "x.tif")


def test_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file") as error:
        read(tmp_path / "x.tif", Access(pause_s=3600))
    assert error.value.where == str(tmp_path / "x.tif")


def test_failing_signature_is_tried_again_and_its_address_is_not_told() -> None:
    asked = []

    def sign(href: str) -> str:
        asked.append(href)
        raise RasterioIOError(f"no signature for {SIGNED} today")

    with pytest.raises(DataError, match="3 tries") as error:
        read(SIGNED, Access(sign, retries=2, pause_s=0.001))
    assert asked == [SIGNED] * 3
    assert "SECRET" not in str(error.value)
