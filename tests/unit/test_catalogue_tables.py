import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import DataError, DigestMismatch
from tasks.files import sha256_of
from tasks.ingest import Catalogue, make_catalogue, make_tables
from tasks.params import read_params
from tasks.points import open_points, read_numbers
from tasks.validate import judge_archive
from tasks.validation.point_tables import measure_points

LIMITS = read_params(Path(__file__).parents[2] / "params.yaml").validate_
LISTS = {
    "s2": pa.uint16(),
    "s2_doy": pa.int16(),
    **{name: pa.int16() for name in ("s1_asc", "s1_asc_doy", "s1_desc", "s1_desc_doy")},
}


def write_points(
    path: Path, *, years: list[int], days: int = 100, radar: dict[str, list[int]] | None = None
) -> None:
    """Write a table of d-pixels of one optical observation each, and the same radar ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {"s2": [1000] * 10, "s2_doy": [days], **(radar or {})}
    columns = {
        name: pa.array([lists.get(name, [])] * len(years), pa.list_(kind))
        for name, kind in LISTS.items()
    }
    ids = pa.array([f"p{i}" for i in range(len(years))])
    pq.write_table(pa.table({"pixel_id": ids, "year": pa.array(years), **columns}), path)


def catalogue_of(archive: Path) -> Catalogue:
    return Catalogue(archive, tuple(make_catalogue(archive)), tables=tuple(make_tables(archive)))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_points(tmp_path / "points" / "b.parquet", years=[2021, 2021, 2021])
    write_points(tmp_path / "points" / "a.parquet", years=[2021, 2022])
    return tmp_path


def test_an_archive_of_tables_alone_is_catalogued(archive: Path) -> None:
    found = catalogue_of(archive)
    assert [(table.name, table.year, table.rows) for table in found.tables] == [
        ("a", 0, 2),
        ("b", 2021, 3),
    ]
    assert (len(found), found.num_sources) == (0, 2)
    assert found.table(1) == archive / "points" / "b.parquet"
    assert found.tables[1].sha256 == sha256_of(found.table(1))


def test_tables_are_numbered_behind_the_tiles(archive: Path, shared_data: Path) -> None:
    shutil.copytree(shared_data / "data" / "be2018" / "tiles", archive / "tiles")
    found = catalogue_of(archive)
    assert (len(found), found.num_sources) == (1, 3)
    assert [found.first_pixel_id(len(found) + k) for k in range(2)] == [1 << 32, 2 << 32]


def test_a_table_that_changed_is_named(archive: Path) -> None:
    found = catalogue_of(archive)
    write_points(archive / "points" / "a.parquet", years=[2021])
    with pytest.raises(DigestMismatch, match=r"a\.parquet"):
        found.table(0)


def test_what_is_no_table_is_refused(archive: Path) -> None:
    (archive / "points" / "c.parquet").write_text("text")
    with pytest.raises(DataError, match=r"c\.parquet"):
        make_tables(archive)


def test_tables_alone_are_judged_and_counted(archive: Path) -> None:
    verdict, tables = judge_archive(catalogue_of(archive), LIMITS)
    assert verdict.success
    assert tables["files"]["text"].tolist() == ["a.parquet: 2 d-pixels", "b.parquet: 3 d-pixels"]


def test_a_fault_of_a_table_is_in_the_verdict_with_its_place(archive: Path) -> None:
    write_points(archive / "points" / "a.parquet", years=[2021], days=367)
    verdict, _ = judge_archive(catalogue_of(archive), LIMITS)
    (failure,) = verdict.failures
    assert (failure.tile, failure.expectation) == ("points/a.parquet", "layout")
    assert "1..366" in failure.found
    assert str(archive) not in failure.found


def test_observations_of_a_table_are_checked_and_the_first_bad_one_is_named(archive: Path) -> None:
    radar = {"s1_asc": [4000, 3000, 4100, 3100], "s1_asc_doy": [200, 10]}
    write_points(archive / "points" / "a.parquet", years=[2021] * 5000, radar=radar)
    verdict, tables = judge_archive(catalogue_of(archive), LIMITS)
    (failure,) = verdict.failures
    assert (failure.tile, failure.expectation) == ("points/a.parquet", "no_unordered")
    assert failure.found == "5000 (s1_asc row 0 observation 1)"
    assert tables["points"]["unordered"].tolist() == [5000, 0]


def test_bytes_damaged_inside_a_table_are_its_fault_not_a_crash(archive: Path) -> None:
    path = archive / "points" / "b.parquet"
    place = pq.ParquetFile(path).metadata.row_group(0).column(2)
    content = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    content[start : start + place.total_compressed_size] = b"x" * place.total_compressed_size
    path.write_bytes(content)
    files, points = measure_points(catalogue_of(archive))
    assert files["fault"].tolist() == [0, 1]
    assert "readable rows from 0 on" in files["text"][1]
    assert points["tile"].tolist() == ["points/a.parquet"]


def test_a_column_that_is_there_twice_is_refused(archive: Path) -> None:
    path = archive / "points" / "a.parquet"
    table = pq.read_table(path)
    for name in ("pixel_id", "s2"):
        names = [*table.column_names, name]
        pq.write_table(pa.table([*table.columns, table.column(name)], names=names), path)
        with pytest.raises(DataError, match=f"two or more of {name}"):
            open_points(path)
    numbers = pa.table([pa.array([1]), pa.array([2])], names=["year", "year"])
    pq.write_table(numbers, path)
    with pytest.raises(DataError, match="two or more of year"):
        read_numbers(path, ["year"])


def test_a_changed_number_is_found_where_the_writer_left_checksums(archive: Path) -> None:
    path = archive / "points" / "a.parquet"
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(pq.read_table(path), path, **options)
    assert len(list(open_points(path).blocks())) == 1
    content = path.read_bytes()
    at = content.index((1000).to_bytes(4, "little") * 20)  # two rows of ten bands
    path.write_bytes(content[:at] + (1001).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(DataError, match="readable rows"):
        list(open_points(path).blocks())
