import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from typer.testing import CliRunner

from models.bands import S2_BANDS
from models.dpixel import DPixels
from tasks.checkpoints import open_checkpoint
from tasks.cli import app
from tasks.embed import embed_tiles
from tasks.embedding.report import Options
from tasks.errors import DataError, DigestMismatch, ParamsError
from tasks.files import write_json
from tasks.import_archive import import_archive
from tasks.inspect_object import draw_object, inspect_object
from tasks.inspection.finding import Finding
from tasks.inspection.shards import MOST_BLOCKS
from tasks.inspection.tally import SENSORS
from tasks.manifest import MANIFEST, Manifest, describe_files
from tasks.shards.index import write_index
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels, encode_targets, target_schema
from tasks.shards.writer import ShardWriter
from tasks.tiles import dpixels_of, find_tiles, read_tile
from tests.embedding import tile_arrays, write_arrays, write_student

HEIGHT, WIDTH = 6, 7
BLOCK_ROWS = 8
OBSERVED, NUMBERS = "Observations (usable ones)", "Numbers as stored (usable observations)"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of one tile whose first row is outside its region."""
    folder = tmp_path / "archive" / "tiles" / "2021" / f"0_0_{WIDTH}_{HEIGHT}"
    write_arrays(folder, tile_arrays(HEIGHT, WIDTH))
    region = np.ones((HEIGHT, WIDTH), np.uint8)
    region[0] = 0
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8"}
    transform = rasterio.transform.from_origin(500000, 5700000, 10, 10)
    with rasterio.open(
        folder / "roi.tiff", "w", **profile, crs="EPSG:32631", transform=transform
    ) as sink:
        sink.write(region, 1)
    return tmp_path / "archive"


def tile_of(archive: Path) -> Path:
    return find_tiles(archive)[0].folder


def dpixels_in(archive: Path) -> DPixels:
    tile = read_tile(find_tiles(archive)[0])
    return dpixels_of(tile, np.arange(HEIGHT * WIDTH), 3 << 32)


def write_corpus(folder: Path, dpixels: DPixels, *, block_rows: int = BLOCK_ROWS) -> Path:
    """Write two shards of d-pixels and their index."""
    folder.mkdir()
    half, done = len(dpixels) // 2 // block_rows * block_rows, []
    for number, rows in enumerate((np.arange(half), np.arange(half, len(dpixels)))):
        with ShardWriter(folder / f"shard-{number}.arrow", DPIXEL_SCHEMA) as writer:
            for start in range(0, len(rows), block_rows):
                writer.add(encode_dpixels(dpixels.take(rows[start : start + block_rows])))
            done.append((writer.finish(), writer.blocks))
    facts = {"sources": [{"key": name} for name in ("a", "b", "x", "points/fields")]}
    write_index(folder, "dpixels", block_rows, done, facts)
    return folder


def look(path: Path, **options: bool) -> Finding:
    (found,) = inspect_object(str(path), **options)
    return found


def row_of(finding: Finding, table: str, **where: str) -> dict[str, Any]:
    (row,) = [
        row for row in finding.tables[table] if all(row[name] == v for name, v in where.items())
    ]
    return row


def test_a_tile_is_measured_within_its_region(archive: Path) -> None:
    found = look(tile_of(archive))
    arrays = tile_arrays(HEIGHT, WIDTH)
    clear = arrays["masks"][:, 1:] != 0
    counts = np.sort(clear.sum(axis=0).ravel())
    row = row_of(found, OBSERVED, series="optical")
    assert row["observations"] == clear.sum()
    assert (row["fewest per pixel"], row["most"]) == (counts[0], counts[-1])
    assert row["median"] == counts[(len(counts) - 1) // 2]
    assert found.facts["clear share"] == pytest.approx(clear.mean())
    for at, band in enumerate(S2_BANDS):
        values = arrays["bands"][:, 1:][clear][:, at]
        line = row_of(found, NUMBERS, series="optical", band=band)
        assert (line["lowest"], line["highest"]) == (values.min(), values.max())
        assert line["mean"] == pytest.approx(values.mean())
    codes = arrays["sar_descending"][:, 1:]
    seen = (codes != 0).any(axis=-1)
    assert row_of(found, OBSERVED, series="descending")["observations"] == seen.sum()
    assert (found.kind, found.facts["year"]) == ("tile folder", 2021)
    assert found.facts["crs"] == "EPSG:32631"


def test_tile_table_and_shards_of_the_same_pixels_agree(archive: Path, tmp_path: Path) -> None:
    (tile_of(archive) / "roi.tiff").unlink()
    corpus = write_corpus(tmp_path / "corpus", dpixels_in(archive))
    tile, shards = look(tile_of(archive)), look(corpus)
    assert tile.tables[OBSERVED] == shards.tables[OBSERVED]
    for one, other in zip(tile.tables[NUMBERS], shards.tables[NUMBERS], strict=True):
        assert one == pytest.approx(other)


def test_a_faulty_tile_is_shown_with_its_fault(archive: Path) -> None:
    np.save(tile_of(archive) / "masks.npy", np.zeros((3, HEIGHT, WIDTH), np.uint8))
    (tile_of(archive) / "sar_ascending_doy.npy").unlink()
    files = {row["file"]: row for row in look(tile_of(archive)).tables["Files"]}
    assert [name for name, row in files.items() if row["fault"]] == [
        "masks.npy",
        "sar_ascending_doy.npy",
    ]
    assert "(3, 6, 7)" in files["masks.npy"]["what"]


def test_a_missing_orbit_is_named(archive: Path) -> None:
    for path in tile_of(archive).glob("sar_descending*"):
        path.unlink()
    assert look(tile_of(archive)).facts["orbits missing"] == ["descending"]


def test_an_archive_lists_tiles_tables_and_what_cannot_be_read(
    archive: Path, shared_data: Path
) -> None:
    import_archive(shared_data / "data" / "korea_parcels.parquet", archive)
    broken = shutil.copytree(tile_of(archive), archive / "tiles" / "2022" / "broken")
    (broken / "doys.npy").write_bytes(b"")
    found = look(archive)
    assert (found.kind, found.facts["years"]) == ("archive", [2021, 2022])
    assert (found.facts["tiles"], found.facts["tiles that cannot be read"]) == (2, 1)
    assert (found.facts["point tables"], found.facts["rows of tables"]) == (1, 800)
    assert "doys.npy" in row_of(found, "Tiles", tile="2022/broken")["fault"]
    tile = row_of(found, "Tiles", tile=f"2021/0_0_{WIDTH}_{HEIGHT}")
    assert (tile["height"], tile["width"], tile["optical"], tile["ascending"]) == (6, 7, 8, 5)


def test_a_point_table_is_measured_to_its_end(shared_data: Path) -> None:
    path = shared_data / "data" / "korea_parcels.parquet"
    counts = [len(days) for days in pq.read_table(path, columns=["s2_doy"]).column(0).to_pylist()]
    found = look(path)
    row = row_of(found, OBSERVED, series="optical")
    assert found.facts["rows"] == len(counts)
    assert (row["observations"], row["fewest per pixel"], row["most"]) == (
        sum(counts),
        min(counts),
        max(counts),
    )
    assert found.facts["sha256"] == sha256(path.read_bytes()).hexdigest()


def test_a_corpus_names_the_sources_of_its_rows(archive: Path, tmp_path: Path) -> None:
    found = look(write_corpus(tmp_path / "corpus", dpixels_in(archive)))
    assert (found.kind, found.facts["rows"]) == ("folder of shards", HEIGHT * WIDTH)
    assert found.tables["Sources"] == [
        {"source": "points/fields", "rows looked at": HEIGHT * WIDTH}  # number 3: behind the tiles
    ]


def test_of_many_blocks_an_even_part_is_read_and_said(archive: Path, tmp_path: Path) -> None:
    many = DPixels.concatenate([dpixels_in(archive)] * 4)
    found = look(write_corpus(tmp_path / "corpus", many, block_rows=1))
    assert found.facts["blocks"] == len(many) > MOST_BLOCKS
    assert found.facts["blocks looked at"] == found.facts["rows looked at"] == MOST_BLOCKS


def test_a_shard_is_known_by_its_content_whatever_its_name(archive: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", dpixels_in(archive))
    found = look((corpus / "shard-1.arrow").rename(tmp_path / "something.bin"))
    assert (found.kind, found.facts["rows looked at"]) == ("d-pixel shard", HEIGHT * WIDTH - 16)


def test_an_offset_that_points_outside_its_block_is_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "shard.arrow"
    with ShardWriter(path, DPIXEL_SCHEMA) as writer:
        writer.add(encode_dpixels(dpixels_in(archive)))
        writer.finish()
    counts = dpixels_in(archive).s2.offsets.astype("<i4").tobytes()
    content = path.read_bytes()
    assert content.count(counts) == 1
    wrong = np.frombuffer(counts, "<i4").copy()
    wrong[1:] += 1_000_000
    path.write_bytes(content.replace(counts, wrong.tobytes()))
    with pytest.raises(DataError, match="a whole block 0"):
        look(path)


def test_targets_are_measured_without_the_rows_that_have_none(tmp_path: Path) -> None:
    targets = np.arange(12, dtype=np.float16).reshape(4, 3)
    targets[1] = np.nan
    with ShardWriter(tmp_path / "targets.arrow", target_schema(3)) as writer:
        writer.add(encode_targets(np.arange(4, dtype=np.uint64), targets, target_schema(3)))
        writer.finish()
    found = look(tmp_path / "targets.arrow")
    assert (found.kind, found.facts["coordinates"]) == ("target shard", 3)
    assert (found.facts["without an embedding"], found.facts["mean"]) == (
        1,
        6.0,
    )  # of 0 1 2, 6 to 11


def test_a_changed_shard_is_found_when_asked(archive: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", dpixels_in(archive))
    path = corpus / "shard-1.arrow"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    assert look(corpus, verify=True).facts["verified"] is True
    path.write_bytes(content)
    for place in (corpus, path):
        with pytest.raises((DigestMismatch, DataError), match=r"shard-1\.arrow"):
            look(place, verify=True)


def test_a_released_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    found = look(write_student(tmp_path / "student.pt"))
    opened = open_checkpoint(tmp_path / "student.pt")
    assert (found.kind, found.facts["parameters"]) == ("checkpoint", opened.num_parameters)
    assert found.facts["checkpoint"] == opened.digest
    with pytest.raises(ParamsError, match="neither time series nor an image"):
        draw_object(str(tmp_path / "student.pt"), tmp_path / "plot.png")


def test_a_stage_output_is_read_and_verified_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "pack"
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(b"content")
    manifest = Manifest(
        "pack", "k", {"seed": 3}, {"ingest": "p"}, "c", "l", {"d": 2}, describe_files(folder)
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    for path in (folder, folder / MANIFEST):
        found = look(path, verify=True)
        assert (found.kind, found.facts["stage"]) == ("stage output", "pack")
        assert found.facts["parents"] == {"ingest": "p"}
    (folder / "data.bin").write_bytes(b"contenu")
    assert look(folder).facts["verified"] is not True
    with pytest.raises(DigestMismatch, match=r"data\.bin"):
        look(folder, verify=True)


def test_an_object_may_be_two_things(archive: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "pack", dpixels_in(archive))
    files = describe_files(corpus)
    manifest = Manifest("pack", "k", {}, {}, "c", "l", {}, files)
    (corpus / MANIFEST).write_bytes(manifest.to_bytes())
    kinds = [found.kind for found in inspect_object(str(corpus))]
    assert kinds == ["stage output", "folder of shards"]


@pytest.mark.parametrize("as_codes", [False, True])
def test_an_embedding_is_measured_verified_and_drawn(
    as_codes: bool, archive: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_student(tmp_path / "student.pt"))
    options = Options(128, as_codes=as_codes, force=True)
    embed_tiles(checkpoint, archive, tmp_path / "maps", options)
    record = next((tmp_path / "maps").rglob("*.json"))
    for path in (record, record.with_suffix(".npy")):
        found = look(path, verify=True)
        assert (found.kind, found.facts["pixels"]) == ("embeddings of a tile", HEIGHT * WIDTH)
        assert found.facts["without an embedding"] == WIDTH  # the row outside the region
    length = row_of(found, "Numbers", what="mean length of a vector")["value"]
    assert length == pytest.approx(np.sqrt(128), rel=0.02)  # the output of a LayerNorm
    assert look(tmp_path / "maps").kind == "embeddings of tiles"
    draw_object(str(record), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    np.save(record.with_suffix(".npy"), np.zeros((HEIGHT, WIDTH, 128), np.float32))
    with pytest.raises(DigestMismatch):
        look(record, verify=True)


def test_a_verdict_shows_its_failures(tmp_path: Path) -> None:
    failure = dict.fromkeys(("tile", "sensor", "band", "expectation", "found", "expected"), "x")
    content = {"success": False, "checks": [{"judged": 3}], "failures": [failure], "suite": "s"}
    write_json(tmp_path / "any.json", content)
    found = look(tmp_path / "any.json")
    assert (found.kind, found.facts["passed"]) == ("validation verdict", False)
    assert len(found.tables["Failures"]) == 1


def test_a_record_of_origin_shows_what_an_import_changed(archive: Path, tmp_path: Path) -> None:
    np.save(tile_of(archive) / "masks.npy", np.load(tile_of(archive) / "masks.npy").astype(bool))
    import_archive(archive, tmp_path / "imported", force=True)
    found = look(tile_of(tmp_path / "imported") / "source.json")
    assert found.facts["imported"]["changes"] == ["masks.npy: bool to uint8"]
    assert "bands.npy" in [row["file"] for row in found.tables["imported.files"]]
    inside = look(tile_of(tmp_path / "imported")).facts["source"]["imported"]["changes"]
    assert inside == ["masks.npy: bool to uint8"]


def test_a_record_of_dates_becomes_tables(tmp_path: Path) -> None:
    dates = {
        "optical": [{"date": "2024-01-03", "clear_px": 7, "items": [{"id": "a"}, {"id": "b"}]}]
    }
    write_json(tmp_path / "source.json", {"source": "mpc", "dates": dates})
    found = look(tmp_path / "source.json")
    assert found.facts == {"source": "mpc", "dates": {"optical": 1}}
    row = {"date": "2024-01-03", "clear_px": 7, "items": 2}
    assert found.tables == {"dates.optical": [row]}


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"success": True, "checks": [1], "failures": [], "suite": "s"})
    with pytest.raises(DataError, match=r"v\.json: expected a whole validation verdict"):
        look(tmp_path / "v.json")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"ARROW1\0\0", b"[1]", b"{}"])
@pytest.mark.parametrize("name", ["a", "a.json", "a.npy"])
def test_what_is_unknown_gets_a_list_of_what_is_known(
    content: bytes, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"one of: .*tile folder.*archive.*checkpoint"):
        look(tmp_path / name)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="nothing there"):
        look(tmp_path / "nowhere")


def test_json_holds_the_same_findings(archive: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(tile_of(archive)), "--json"])
    (found,) = json.loads(result.stdout)
    assert found["tables"][OBSERVED][0]["series"] == next(iter(SENSORS))
    text = CliRunner().invoke(app, ["inspect", str(tile_of(archive))])
    assert "orbits missing" in text.stdout
    assert result.exit_code == text.exit_code == 0


def test_json_has_null_for_what_is_no_number(archive: Path) -> None:
    bands = np.load(tile_of(archive) / "bands.npy").astype(np.float32)
    bands[:] = np.nan
    np.save(tile_of(archive) / "bands.npy", bands)
    done = CliRunner().invoke(app, ["inspect", str(tile_of(archive)), "--json"])
    (found,) = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["tables"][NUMBERS][0]["lowest"] is None


@pytest.mark.parametrize("header", [b"{'descr': (", b"{'descr': '<u2' 5"])
def test_an_array_with_a_damaged_header_is_a_fault_not_a_crash(
    header: bytes, archive: Path
) -> None:
    path = tile_of(archive) / "bands.npy"
    content = path.read_bytes()
    path.write_bytes(content[:10] + header + content[10 + len(header) :])
    assert row_of(look(tile_of(archive)), "Files", file="bands.npy")["fault"]


def test_json_nested_beyond_measure_is_no_object(tmp_path: Path) -> None:
    for name in ("manifest.json", "index.json"):
        (tmp_path / name).write_text("[" * 100_000)
        with pytest.raises(DataError, match="one of"):
            inspect_object(str(tmp_path / name))
