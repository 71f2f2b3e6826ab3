from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.dpixel import DPixels, Series
from models.initialisation import initialise
from models.released import write_released
from models.student import Student
from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.embed_points import embed_points
from tasks.embedding.blocks import BLOCK_DPIXELS
from tasks.embedding.report import Options
from tasks.errors import DataError, ParamsError
from tasks.points import open_points
from tests.embedding import TINY, encode, write_student

Rows = list[dict[str, Any]]
WIDTHS = {"s2": 10, "s1_asc": 2, "s1_desc": 2}
KINDS = {"s2": pa.uint16(), "s1_asc": pa.int16(), "s1_desc": pa.int16()}


def make_rows(counts: dict[str, list[int]]) -> Rows:
    """Make rows of random observations; ``counts`` names a number a stream for each row."""
    random = np.random.default_rng(2)
    rows: Rows = []
    for i in range(len(counts["s2"])):
        row: dict[str, Any] = {"pixel_id": f"p{i}"}
        for name, width in WIDTHS.items():
            count = counts[name][i]
            row[name] = random.integers(300, 7000, count * width).tolist()
            row[f"{name}_doy"] = sorted(random.integers(1, 367, count).tolist())
        rows.append(row)
    return rows


def few_rows() -> Rows:
    """Make five rows; the second has no radar, the fourth nothing at all."""
    return make_rows({"s2": [5, 9, 0, 0, 1], "s1_asc": [3, 0, 2, 0, 0], "s1_desc": [0, 0, 4, 0, 7]})


def write_rows(path: Path, rows: Rows) -> Path:
    kinds = {name: pa.list_(kind) for name, kind in KINDS.items()}
    kinds |= {f"{name}_doy": pa.list_(pa.int16()) for name in KINDS}
    columns = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]}
    pq.write_table(pa.table(columns), path)
    return path


def dpixels_by_hand(rows: Rows) -> DPixels:
    """Put d-pixels together observation by observation, in plain lists."""
    streams = []
    for name, width in WIDTHS.items():
        values, days, offsets = [], [], [0]
        for row in rows:
            for at, day in enumerate(row[f"{name}_doy"]):
                values.append([int(row[name][at * width + band]) for band in range(width)])
                days.append(int(day))
            offsets.append(len(days))
        raw = np.array(values, np.uint16 if name == "s2" else np.int16).reshape(-1, width)
        streams.append(Series(raw, np.array(days, np.int16), np.array(offsets, np.int64)))
    return DPixels(np.arange(len(rows), dtype=np.uint64), *streams)


def vectors_of(column: Any) -> np.ndarray:
    return np.array(column.to_pylist())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_student(tmp_path_factory.mktemp("student") / "s.pt"))


def test_rows_are_embedded_in_their_order(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = few_rows()
    report = embed_points(
        checkpoint, write_rows(tmp_path / "p.parquet", rows), tmp_path / "out.parquet", Options(128)
    )
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["pixel_id", "embedding"]
    assert found["pixel_id"].to_pylist() == ["p0", "p1", "p2", "p3", "p4"]
    expected = encode(checkpoint.encoder, dpixels_by_hand(rows))
    np.testing.assert_array_equal(vectors_of(found["embedding"]), expected)
    assert np.isnan(expected[3]).all()
    assert (report.dpixels, report.unobserved, report.tokens) == (5, 1, 31)


def test_codes_are_a_prefix_with_a_nan_scale_for_no_data(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "p.parquet", few_rows())
    found = {}
    for dim in (16, 128):
        embed_points(checkpoint, source, tmp_path / f"{dim}", Options(dim, as_codes=True))
        found[dim] = pq.read_table(tmp_path / f"{dim}")
    codes = vectors_of(found[128]["codes"])
    assert vectors_of(found[16]["codes"]).tolist() == codes[:, :16].tolist()
    scales = np.array(found[16]["scale"].to_pylist())
    np.testing.assert_array_equal(scales, np.array(found[128]["scale"].to_pylist()))
    assert np.isnan(scales).tolist() == [False, False, False, True, False]
    assert not codes[3].any()
    assert np.abs(codes[[0, 1, 2, 4]]).max(axis=1).tolist() == [127] * 4


def test_table_of_several_blocks_keeps_its_order(checkpoint: Checkpoint, tmp_path: Path) -> None:
    count = BLOCK_DPIXELS + 37
    rows = make_rows(
        {name: [1 + (i * k) % 3 for i in range(count)] for k, name in enumerate(WIDTHS)}
    )
    source = write_rows(tmp_path / "p.parquet", rows)
    embed_points(checkpoint, source, tmp_path / "out", Options(128, workers=3))
    found = pq.read_table(tmp_path / "out")
    assert found["pixel_id"].to_pylist() == [row["pixel_id"] for row in rows]
    expected = encode(checkpoint.encoder, dpixels_by_hand(rows))
    np.testing.assert_array_equal(vectors_of(found["embedding"]), expected)


def test_radar_columns_without_a_type_are_legal(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = make_rows({"s2": [4, 2], "s1_asc": [0, 0], "s1_desc": [0, 0]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")  # list<null>, list<int64>
    embed_points(checkpoint, tmp_path / "p.parquet", tmp_path / "out", Options(128))
    expected = encode(checkpoint.encoder, dpixels_by_hand(rows))
    found = vectors_of(pq.read_table(tmp_path / "out")["embedding"])
    np.testing.assert_array_equal(found, expected)


def test_whole_number_ids_are_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = few_rows()
    for row, number in zip(rows, (7, 2**40, 5, -1, 0), strict=True):
        row["pixel_id"] = number
    embed_points(
        checkpoint, write_rows(tmp_path / "p.parquet", rows), tmp_path / "out", Options(16)
    )
    assert pq.read_table(tmp_path / "out")["pixel_id"].to_pylist() == [7, 2**40, 5, -1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1_desc_doy": None}, "a null"),
        ({"s2": None}, "a null"),
        ({"s2": list(range(51))}, "10 values in s2 for each day in s2_doy; found others in row 2"),
        ({"s1_asc": [1, 2, 3]}, "2 values in s1_asc for each day in s1_asc_doy"),
        ({"s2_doy": [0], "s2": [1] * 10}, "days of year in 1..366, got 0"),
        ({"s2_doy": [400], "s2": [1] * 10}, "days of year in 1..366"),
        ({"s1_asc_doy": [5, None]}, "int16 values in s1_asc_doy"),
        ({"s2": [1] * 9 + [None], "s2_doy": [4]}, "uint16 values in s2"),
    ],
)
def test_row_that_breaks_the_contract_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = few_rows()
    rows[2] |= change
    table = open_points(write_rows(tmp_path / "p.parquet", rows))
    with pytest.raises(DataError, match=rf"p\.parquet: .*{message}"):
        list(table.blocks())


@pytest.mark.parametrize(
    ("name", "value"),
    [("s2_doy", 65536 + 100), ("s2_doy", 100.5), ("s2", 70000), ("s2", -1), ("s2", 0.5)],
)
def test_number_that_its_type_cannot_hold_is_refused(
    name: str, value: float, tmp_path: Path
) -> None:
    rows = few_rows()
    rows[0][name][0] = value
    for row in rows:
        row[name] = [type(value)(number) for number in row[name]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=rf"int16 values in {name}"):
        list(open_points(tmp_path / "p.parquet").blocks())


@pytest.mark.parametrize("code", [-5, 32767])
def test_radar_code_that_is_none_is_refused_by_row(
    code: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    rows = few_rows()
    rows[2]["s1_desc"][3] = code
    path = write_rows(tmp_path / "in.parquet", rows)
    with pytest.raises(DataError, match=rf"s1_desc in row 2 of .*radar codes.*{code}"):
        embed_points(checkpoint, path, tmp_path / "out.parquet", Options(128))
    assert not (tmp_path / "out.parquet").exists()
    forced = Options(128, force=True)
    assert embed_points(checkpoint, path, tmp_path / "out.parquet", forced).dpixels == 5


def test_radar_observation_of_no_data_is_refused_by_row(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    rows = few_rows()
    rows[4]["s1_desc"][4:6] = [0, 0]
    path = write_rows(tmp_path / "in.parquet", rows)
    with pytest.raises(DataError, match=r"s1_desc in row 4 of .*not both 0; found VV VH \[0, 0\]"):
        embed_points(checkpoint, path, tmp_path / "out.parquet", Options(128))


def test_model_that_gives_no_embedding_is_refused_by_row(tmp_path: Path) -> None:
    student = Student(TINY)
    initialise(student, seed=1)
    with torch.no_grad():
        next(iter(student.parameters())).fill_(np.nan)
    write_released(tmp_path / "nan.pt", student)
    path = write_rows(tmp_path / "in.parquet", few_rows())
    with pytest.raises(DataError, match=r"row 0 of .*in\.parquet: .*where there is an embedding"):
        embed_points(
            open_checkpoint(tmp_path / "nan.pt"), path, tmp_path / "out.parquet", Options(128)
        )


def test_missing_column_is_refused_by_name(tmp_path: Path) -> None:
    rows = few_rows()
    for row in rows:
        del row["s1_desc_doy"]
    with pytest.raises(DataError, match=r"p\.parquet: .*no s1_desc_doy"):
        open_points(write_rows(tmp_path / "p.parquet", rows))


@pytest.mark.parametrize("second", ["p0", None])
def test_repeated_or_null_id_is_refused(second: str | None, tmp_path: Path) -> None:
    rows = few_rows()
    rows[1]["pixel_id"] = second
    with pytest.raises(DataError, match=r"p\.parquet: .*a pixel_id of its own in each row"):
        open_points(write_rows(tmp_path / "p.parquet", rows))


@pytest.mark.parametrize("column", [[1] * 5, ["a"] * 5, [["a"]] * 5])
def test_column_that_holds_no_lists_of_numbers_is_refused(column: Any, tmp_path: Path) -> None:
    rows = few_rows()
    for row, value in zip(rows, column, strict=True):
        row["s2"] = value
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"lists of numbers; found other types in s2\."):
        open_points(tmp_path / "p.parquet")


def test_table_without_rows_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "p.parquet", few_rows())
    pq.write_table(pq.read_table(tmp_path / "p.parquet")[:0], tmp_path / "p.parquet")
    with pytest.raises(DataError, match="at least one d-pixel"):
        open_points(tmp_path / "p.parquet")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PAR1 cut PAR1"])
def test_file_that_is_no_parquet_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"p\.parquet: expected a readable Parquet file"):
        open_points(tmp_path / "p.parquet")


def test_absent_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.parquet: expected a readable Parquet file"):
        open_points(tmp_path / "p.parquet")


def test_refused_table_leaves_no_output(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = few_rows()
    rows[4]["s2_doy"] = [400]
    source = write_rows(tmp_path / "p.parquet", rows)
    with pytest.raises(DataError):
        embed_points(checkpoint, source, tmp_path / "out", Options(128))
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_folder_as_output_is_refused_before_the_work(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "p.parquet", few_rows())
    (tmp_path / "out").mkdir()
    with pytest.raises(ParamsError, match=r"--out .*out: expected a file to write; found a folder"):
        embed_points(checkpoint, source, tmp_path / "out", Options(128))


@pytest.mark.parametrize("name", ["korea_parcels", "fuel_moisture"])
def test_real_table_is_embedded_as_by_hand(
    name: str, checkpoint: Checkpoint, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "data" / f"{name}.parquet"
    embed_points(checkpoint, source, tmp_path / "out", Options(128))
    found, given = pq.read_table(tmp_path / "out"), pq.read_table(source)
    assert found["pixel_id"].to_pylist() == given["pixel_id"].to_pylist()
    expected = encode(checkpoint.encoder, dpixels_by_hand(given.to_pylist()))
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(vectors_of(found["embedding"]), expected)
