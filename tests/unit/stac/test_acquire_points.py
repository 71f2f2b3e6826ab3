"""Points: the pixels that they lie in, with labels, in the order of the table."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest

from tasks import acquire_points as acquire_points_module
from tasks.acquire import Options, Request, open_archive
from tasks.acquire_points import acquire_points
from tasks.errors import DataError, ParamsError
from tasks.files import sha256_of
from tasks.points import open_points
from tasks.stac.report import Report
from tests.catalogues import CRS, GRID, SIZE, catalogue_of, optical, radar, surface

DAYS = [date(2022, 3, 1), date(2022, 3, 6)]
PIXELS = [(5, 3), (0, 0), (23, 23), (5, 3), (10, 20)]
"""Row and column; two points lie in one pixel."""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of Sentinel-2, the second cloudy in its upper half, and one of Sentinel-1."""
    out = tmp_path_factory.mktemp("made") / "catalogue"
    classes = np.where(np.arange(SIZE) < 12, 9, 4)[:, None].repeat(SIZE, axis=1)
    power = np.full((SIZE, SIZE, 2), 0.1, np.float32)
    power[:8] = -32768
    return catalogue_of(
        out,
        optical(out, DAYS[0], surface(1)),
        optical(out, DAYS[1], surface(2), classes=classes),
        radar(out, DAYS[0], "descending", power),
    )


def degrees() -> tuple[np.ndarray, np.ndarray]:
    """Return lon and lat of places within the pixels, not in their middle."""
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform
    row, column = np.array(PIXELS).T
    lon, lat = to_degrees(GRID.c + 10 * column + 3.3, GRID.f - 10 * row - 8.1)
    return np.asarray(lon), np.asarray(lat)


def points(path: Path, **columns: Any) -> Path:
    lon, lat = degrees()
    given = {"lon": lon, "lat": lat, "crop": ["a", "b", "c", "d", "e"]} | columns
    pq.write_table(pa.table({name: v for name, v in given.items() if v is not None}), path)
    return path


def acquire(catalogue: Path, table: Path, years: list[int], out: Path) -> Report:
    archive = open_archive(Request("static", str(catalogue)), Options())
    return acquire_points(archive, table, years, out, Options())


def test_points_are_the_pixels_they_lie_in(catalogue: Path, tmp_path: Path) -> None:
    report = acquire(catalogue, points(tmp_path / "fields.parquet"), [2022], tmp_path / "out")
    assert report.tables == [str(tmp_path / "out" / "points" / "fields_2022.parquet")]
    table = open_points(Path(report.tables[0]))
    ((_, dpixels),) = table.blocks()
    rows = pq.read_table(report.tables[0])
    assert rows.column("crop").to_pylist() == ["a", "b", "c", "d", "e"]
    assert rows.column("year").to_pylist() == [2022] * 5
    for index, (row, column) in enumerate(PIXELS):
        one = dpixels.take(np.array([index]))
        images = [surface(1), surface(2)] if row >= 12 else [surface(1)]
        assert np.array_equal(one.s2.values, [image[row, column] for image in images])
        assert one.s2.doy.tolist() == [60, 65][: len(images)]
        assert one.s1_desc.values.tolist() == ([[6000, 6000]] if row >= 8 else [])
        assert not len(one.s1_asc.doy)


def test_identifiers_are_kept_and_must_be_unique(catalogue: Path, tmp_path: Path) -> None:
    named = points(tmp_path / "a.parquet", pixel_id=["p", "q", "r", "s", "t"])
    (path,) = acquire(catalogue, named, [2022], tmp_path / "out").tables
    assert open_points(Path(path)).ids.to_pylist() == ["p", "q", "r", "s", "t"]
    twice = points(tmp_path / "b.parquet", pixel_id=[1, 2, 3, 4, 1])
    with pytest.raises(DataError, match="pixel_id"):
        acquire(catalogue, twice, [2022], tmp_path / "out")


def test_years_of_the_table_choose_rows(catalogue: Path, tmp_path: Path) -> None:
    table = points(tmp_path / "a.parquet", year=[2022, 2021, 2022, 2022, 2021])
    report = acquire(catalogue, table, [], tmp_path / "out")
    counts = {Path(path).name: pq.read_metadata(path).num_rows for path in report.tables}
    assert counts == {"a_2021.parquet": 2, "a_2022.parquet": 3}
    only = acquire(catalogue, table, [2022], tmp_path / "other")
    assert [Path(path).name for path in only.tables] == ["a_2022.parquet"]


def test_csv_gives_what_parquet_gives(catalogue: Path, tmp_path: Path) -> None:
    lon, lat = degrees()
    lines = [
        f"{x!r},{y!r},{c}" for x, y, c in zip(lon.tolist(), lat.tolist(), "abcde", strict=True)
    ]
    (tmp_path / "fields.csv").write_text("\n".join(["lon,lat,crop", *lines]) + "\n")
    acquire(catalogue, tmp_path / "fields.csv", [2022], tmp_path / "csv")
    acquire(catalogue, points(tmp_path / "fields.parquet"), [2022], tmp_path / "parquet")
    tables = [
        pq.read_table(tmp_path / d / "points/fields_2022.parquet") for d in ("csv", "parquet")
    ]
    assert tables[0].equals(tables[1])


def test_finished_table_is_kept_until_a_label_changes(catalogue: Path, tmp_path: Path) -> None:
    table, out = points(tmp_path / "a.parquet"), tmp_path / "out"
    acquire(catalogue, table, [2022], out)
    first = (out / "points/a_2022.parquet").read_bytes()
    assert [row.outcome for row in acquire(catalogue, table, [2022], out).rows] == ["kept"]
    points(table, crop=["z"] * 5)
    assert [row.outcome for row in acquire(catalogue, table, [2022], out).rows] == ["replaced"]
    points(table)
    acquire(catalogue, table, [2022], out)
    assert (out / "points/a_2022.parquet").read_bytes() == first
    assert not (out / ".unfinished").exists()


def test_table_that_was_changed_or_half_made_is_made_again(catalogue: Path, tmp_path: Path) -> None:
    table, out = points(tmp_path / "a.parquet"), tmp_path / "out"
    (path,) = map(Path, acquire(catalogue, table, [2022], out).tables)
    first = path.read_bytes()
    path.write_bytes(first[:-10])
    assert [row.outcome for row in acquire(catalogue, table, [2022], out).rows] == ["replaced"]
    assert path.read_bytes() == first


def test_crash_between_table_and_record_is_mended(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, out = points(tmp_path / "a.parquet"), tmp_path / "out"
    (path,) = map(Path, acquire(catalogue, table, [2022], out).tables)
    first = path.read_bytes()
    points(table, crop=["z"] * 5)
    with monkeypatch.context() as patch:
        patch.setattr(acquire_points_module, "sha256_of", _stop_after(1))
        with pytest.raises(KeyboardInterrupt):
            acquire(catalogue, table, [2022], out)
    assert path.read_bytes() != first, "the table is there, the record is not"
    points(table)
    assert [row.outcome for row in acquire(catalogue, table, [2022], out).rows] == ["replaced"]
    assert path.read_bytes() == first


def _stop_after(calls: int) -> Any:
    """Return the digest of files, which is interrupted after some calls."""
    left = [calls]

    def digest(path: Path) -> str:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return sha256_of(path)

    return digest


def test_table_of_somebody_else_is_left_alone(catalogue: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "out/points/a_2022.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"precious")
    with pytest.raises(DataError, match="another --out"):
        acquire(catalogue, points(tmp_path / "a.parquet"), [2022], tmp_path / "out")
    assert theirs.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"lon": None}, "no lon"),
        ({"lat": [51.0, np.nan, 51, 51, 51]}, "row 1"),
        ({"lat": [51.0, None, 51, 51, 51]}, "lat"),
        ({"lat": ["51"] * 5}, "lat"),
        ({"lon": [500_000.0] * 5}, "row 0"),
        ({"year": [2022.5] * 5}, "whole"),
        ({"pixel_id": [1.0, 2.0, 3.0, 4.0, 5.0]}, "pixel_id"),
        ({"s2": [1] * 5}, "s2"),
    ],
)
def test_tables_that_do_not_say_where_are_refused(
    columns: dict[str, Any], match: str, catalogue: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=match):
        acquire(catalogue, points(tmp_path / "a.parquet", **columns), [2022], tmp_path / "out")


@pytest.mark.parametrize("year", [0, 1999, 99_999])
def test_year_without_satellites_is_refused(year: int, catalogue: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="years in 2015"):
        acquire(catalogue, points(tmp_path / "a.parquet", year=[year] * 5), [], tmp_path / "out")


def test_a_year_is_needed(catalogue: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="--years"):
        acquire(catalogue, points(tmp_path / "a.parquet"), [], tmp_path / "out")
