"""Held-out labels: planted overlaps are all found, and told apart; clean data have none."""

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DataError, ParamsError
from tasks.tiles import Tile, TileRef
from tasks.validation.held_out import HeldOut, Years
from tasks.validation.label_places import Places, read_labels, read_points
from tasks.validation.leaks import KINDS, Raster, collect, find_leaks, leak_verdict
from tasks.validation.places import GEOGRAPHIC, Grid, moved
from tests.ground import grid_file, place_of, write_labels

SIZE = 8
NORTH = 5_500_000


def tile_at(folder: Path, year: int, crs: str, west: float, north: float = NORTH) -> Tile:
    """A tile without observations: only where it lies matters here."""
    grid_file(folder / "roi.tiff", crs, west, north, SIZE)
    none = np.zeros((0, SIZE, SIZE), np.uint8)
    region = np.ones((SIZE, SIZE), bool)
    return Tile(TileRef(f"{year}/{folder.name}", folder), none, none, none[:, 0, 0], {}, region)


def raster_of(tile: Tile) -> Raster:
    return Raster(tile.ref.key, tile.ref.year, Grid(tile.ref.folder / "roi.tiff"), tile.shape)


def kinds_of(
    tiles: list[Tile], packed: list[list[int]], labels: Path, block_m: int = 100
) -> dict[str, int]:
    ids = [np.array(rows, np.uint64) + np.uint64(n << 32) for n, rows in enumerate(packed)]
    mixed = np.random.default_rng(1).permutation(np.concatenate(ids))
    trained = collect([raster_of(tile) for tile in tiles], np.array_split(mixed, 3))
    table = find_leaks(trained, read_labels(labels), block_m)
    return {kind: int(table[kind].sum()) for kind in KINDS}


def test_each_planted_kind_is_found_and_told_apart(tmp_path: Path) -> None:
    # A tile of 80 m lies in one block of 100 m; the label's row and column are (2, 3).
    crs, west = "EPSG:32631", 500_000
    one, other = tile_at(tmp_path / "a", 2021, crs, west), tile_at(tmp_path / "b", 2022, crs, west)
    there = place_of(crs, west + 34, NORTH - 27)
    far = place_of(crs, west + 234, NORTH - 27)
    labels = [(*there, 2021), (*there, 2022), (*there, 2023), (*far, 2021)]
    path = write_labels(tmp_path / "labels.parquet", labels)
    found = kinds_of([one, other], [[2 * SIZE + 3], [2 * SIZE + 4]], path)
    assert found == {"same_pixel": 1, "same_block": 1, "other_year": 1}


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32632"])
def test_overlap_across_zones_is_found_from_either_side(crs: str, tmp_path: Path) -> None:
    # Six degrees east is the edge of two zones; tiles of both lie on both sides of it.
    x, y = (float(v[0]) for v in moved(GEOGRAPHIC, np.array([6.0]), np.array([50.0]), crs))
    west, north = 10 * round(x / 10) - 40, 10 * round(y / 10) + 40
    tile = tile_at(tmp_path / "t", 2021, crs, west, north)
    rows, columns = np.divmod(np.arange(SIZE * SIZE), SIZE)
    x_all, y_all = raster_of(tile).grid.centres(rows, columns)
    places = np.stack(moved(crs, x_all, y_all, GEOGRAPHIC), axis=-1)
    assert (places[:, 0] < 6).any()
    assert (places[:, 0] > 6).any()
    path = write_labels(tmp_path / "labels.parquet", [(*p, 2021) for p in places.tolist()])
    whole = kinds_of([tile], [list(range(64))], path)
    assert whole == {"same_pixel": 64, "same_block": 0, "other_year": 0}
    assert HeldOut.open(path, 100, "same").covers(tile).all()


def test_random_labels_are_classed_as_by_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    crs, block_m = "EPSG:32631", 50
    tiles = [
        tile_at(tmp_path / f"t{n}", year, crs, 500_000 + 100 * n)
        for n, year in enumerate((2021, 2021, 2022, 0))
    ]
    packed = [sorted(rng.choice(64, 12, replace=False).tolist()) for _ in tiles]
    spots = [
        (500_000 + int(x), NORTH - int(y), int(year))
        for x, y, year in zip(
            rng.integers(0, 450, 300), rng.integers(0, 80, 300), rng.choice([0, 2021, 2023], 300),
            strict=True,
        )
    ]  # fmt: skip
    expected = dict.fromkeys(KINDS, 0)
    for x, y, year in spots:
        kinds = set()
        for n, (tile, rows) in enumerate(zip(tiles, packed, strict=True)):
            same = 0 in (year, tile.ref.year) or year == tile.ref.year
            for row in rows:
                px, py = 500_000 + 100 * n + 10 * (row % 8), NORTH - 10 * (row // 8)
                if same and px <= x < px + 10 and py - 10 <= y < py:
                    kinds.add("same_pixel")
                if x // block_m == (px + 5) // block_m and y // block_m == (py - 5) // block_m:
                    kinds.add("same_block" if same else "other_year")
        expected |= {
            kind: expected[kind] + 1 for kind in KINDS if kind in sorted(kinds, key=KINDS.index)[:1]
        }
    places = [(*place_of(crs, x + 0.5, y + 0.5), year) for x, y, year in spots]
    path = write_labels(tmp_path / "labels.parquet", places)
    assert kinds_of(tiles, packed, path, block_m) == expected
    assert min(expected.values()) > 0


@pytest.mark.parametrize("years", ["same", "any"])
def test_what_is_not_held_out_never_leaks(years: Years, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    tiles = [
        tile_at(tmp_path / f"t{n}", year, "EPSG:32631", 500_000 + 80 * (n % 4))
        for n, year in enumerate((2021, 2021, 2021, 0, 2022, 2022, 2022, 2022))
    ]
    labels = [
        (*place_of("EPSG:32631", 500_000 + x, NORTH - y), int(year))
        for x, y, year in zip(
            *rng.uniform(0, 240, (2, 6)), rng.choice([2021, 2022], 6), strict=True
        )
    ]
    path = write_labels(tmp_path / "labels.parquet", labels)
    held = HeldOut.open(path, 30, years)
    packed = [np.flatnonzero(~held.covers(tile)).tolist() for tile in tiles]
    assert sum(map(len, packed)) < 64 * len(tiles)
    found = kinds_of(tiles, packed, path, 30)
    assert found["same_pixel"] == found["same_block"] == 0
    assert (found["other_year"] == 0) is (years == "any")


def test_a_label_of_unknown_year_is_held_out_in_all(tmp_path: Path) -> None:
    tile = tile_at(tmp_path / "t", 2021, "EPSG:32631", 500_000)
    spot = place_of("EPSG:32631", 500_004, NORTH - 4)
    path = write_labels(tmp_path / "labels.parquet", [(*spot, 0)])
    assert HeldOut.open(path, 10, "same").covers(tile).sum() == 1
    assert kinds_of([tile], [[0]], path, 10)["same_pixel"] == 1


def test_rows_of_point_tables_are_trained_on_and_held_out_alike(tmp_path: Path) -> None:
    here, near = (place_of("EPSG:32631", 500_000 + d, NORTH - 5) for d in (5, 25))
    table = write_labels(tmp_path / "table.parquet", [(*here, 2021), (*near, 2021), (*near, 2022)])
    labels = write_labels(tmp_path / "labels.parquet", [(*here, 2021)])
    held = HeldOut.open(labels, 100, "same")
    assert held.covers_table(table).tolist() == [True, True, False]
    trained = collect([list(read_points(table))], [np.array([1, 2], np.uint64)])
    found = find_leaks(trained, read_labels(labels), 100)
    assert found[["same_pixel", "same_block", "other_year"]].values.tolist() == [[0, 1, 0]]
    trained = collect([list(read_points(table))], [np.array([0], np.uint64)])
    assert find_leaks(trained, read_labels(labels), 100)["same_pixel"].tolist() == [1]


def test_verdict_names_the_source_and_counts_other_years_only_if_asked(tmp_path: Path) -> None:
    tile = tile_at(tmp_path / "t", 2022, "EPSG:32631", 500_000)
    spot = place_of("EPSG:32631", 500_004, NORTH - 4)
    path = write_labels(tmp_path / "labels.parquet", [(*spot, 2021)])
    trained = collect([raster_of(tile)], [np.array([0], np.uint64)])
    table = find_leaks(trained, read_labels(path), 10)
    assert leak_verdict(table, "same").success
    (failure,) = leak_verdict(table, "any").failures
    assert (failure.tile, failure.expectation) == ("labels.parquet", "no_other_year")
    assert failure.found == "1 (row 0, trained on in 2022/t 2022)"


def test_the_digest_follows_what_is_held_out(tmp_path: Path) -> None:
    one = write_labels(tmp_path / "a.parquet", [(3.0, 50.0, 2021), (3.1, 50.0, 2021)])
    moved_by_a_metre = write_labels(
        tmp_path / "b.parquet", [(3.1, 50.0, 2021), (3.00001, 50.0, 2021)]
    )
    other = write_labels(tmp_path / "c.parquet", [(3.2, 50.0, 2021)])
    digests = [HeldOut.open(p, 1000, "same").digest for p in (one, moved_by_a_metre, other)]
    digests += [HeldOut.open(one, 1000, "any").digest, HeldOut.open(one, 500, "same").digest]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ((np.nan, 50.0, 2021), "lon"),
        ((3.0, 91.0, 2021), "lat"),
        ((3.0, 50.0, -1), "years"),
    ],
)
def test_labels_without_place_or_year_are_refused(
    place: tuple[float, float, int], named: str, tmp_path: Path
) -> None:
    path = write_labels(tmp_path / "labels.parquet", [(3.0, 50.0, 2021), place])
    with pytest.raises(DataError, match=named) as caught:
        HeldOut.open(path, 1000, "any")
    assert "row 1" in str(caught.value)


def test_no_label_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one label"):
        HeldOut.open(write_labels(tmp_path / "none.parquet", []), 1000, "any")
    with pytest.raises(ParamsError, match="no such path"):
        HeldOut.open(tmp_path / "absent", 1000, "any")
    labels = write_labels(tmp_path / "one.parquet", [(3.0, 50.0, 2021)])
    with pytest.raises(ParamsError, match="at least 10 m"):
        HeldOut.open(labels, 5, "any")


def test_a_tile_that_is_nowhere_is_refused_not_passed(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.parquet", [(3.0, 50.0, 2021)])
    tile = tile_at(tmp_path / "t", 2021, "EPSG:32631", 500_000)
    (tmp_path / "t" / "roi.tiff").unlink()
    with pytest.raises(DataError, match="coordinate reference system"):
        HeldOut.open(labels, 1000, "any").covers(tile)


def test_labels_of_an_archive_are_its_rasters_without_parcels(shared_data: Path) -> None:
    parts = list(read_labels(shared_data / "data" / "be2018"))
    assert [part.source.split()[-1] for part in parts] == ["crop_type", "land_cover"]
    assert isinstance(parts[0], Places)
    assert all(part.x.min() > 501_360 and part.y.max() < 5_629_680 for part in parts)


def test_each_year_of_a_table_has_its_own_words(tmp_path: Path) -> None:
    tile = tile_at(tmp_path / "a", 2021, "EPSG:32631", 500_000)
    other = tile_at(tmp_path / "b", 2022, "EPSG:32631", 500_000)
    there = place_of("EPSG:32631", 500_034, NORTH - 27)
    labels = [(*there, 2021), (*there, 2021), (*there, 2022), (3.0, 10.0, 2023)]
    path = write_labels(tmp_path / "labels.parquet", labels)
    ids = [np.array([n << 32 | (2 * SIZE + 3)], np.uint64) for n in (0, 1)]
    table = find_leaks(collect([raster_of(tile), raster_of(other)], ids), read_labels(path), 100)
    found = [failure.found for failure in leak_verdict(table, "any").failures]
    assert found == [
        "1 (row 2, trained on in 2022/b 2022)",
        "2 (row 0, trained on in 2021/a 2021)",
    ]


def test_a_pixel_that_no_source_has_is_refused_not_forgotten(tmp_path: Path) -> None:
    tile = raster_of(tile_at(tmp_path / "a", 2021, "EPSG:32631", 500_000))
    points = list(read_points(write_labels(tmp_path / "p.parquet", [(3.0, 50.0, 2021)])))
    sources: list[Raster | list[Places]] = [tile, points, []]
    collect(sources, [np.array([SIZE * SIZE - 1, 1 << 32], np.uint64)])
    for wrong in (SIZE * SIZE, (1 << 32) + 1, 2 << 32, 3 << 32):
        with pytest.raises(DataError, match=f"of source {wrong >> 32}"):
            collect(sources, [np.array([0, wrong], np.uint64)])
