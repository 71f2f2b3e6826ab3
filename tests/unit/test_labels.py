"""Labels, groups and draws: what becomes a task, and which d-pixels stand for it."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from tasks.archive import Archive
from tasks.errors import DataError
from tasks.evaluation.ground import place_of, survey_ground
from tasks.evaluation.labels import Task, TaskTooSmall, read_tasks
from tasks.evaluation.probes import folds_of
from tasks.ingest import Catalogue, make_catalogue
from tasks.settings.products import EvaluateParams
from tasks.tiles import Array, read_tile
from tests.builders import SECTION

Kind = Literal["classification", "regression"]

Labels = dict[tuple[int, str], Array]


def write_archive(
    root: Path,
    labels: Labels,
    years: tuple[int, ...] = (2018, 2019),
    *,
    nodata_of: dict[str, float] | None = None,
    unseen: tuple[slice, slice] | None = None,
) -> Archive:
    """Write a crude archive with one place; ``labels`` maps (year, name) to an array.

    ``unseen`` is ground that no sensor ever observed.
    """
    size = 12
    rng = np.random.default_rng(0)
    for year in years:
        folder = root / "tiles" / str(year) / "0_0_12_12"
        folder.mkdir(parents=True)
        np.save(folder / "bands.npy", rng.integers(1, 999, (4, size, size, 10)).astype(np.uint16))
        valid = np.ones((4, size, size), np.uint8)
        if unseen:
            valid[:, unseen[0], unseen[1]] = 0
        np.save(folder / "masks.npy", valid)
        np.save(folder / "doys.npy", np.array([10, 100, 200, 300], np.uint16))
    (root / "labels").mkdir()
    for (year, name), array in labels.items():
        path = root / "labels" / str(year) / f"0_0_12_12_{name}.tif"
        path.parent.mkdir(exist_ok=True)
        profile = {"driver": "GTiff", "width": size, "height": size, "count": 1}
        grid = rasterio.Affine(10, 0, 0, 0, -10, 0)
        nodata = (nodata_of or {}).get(name)
        with rasterio.open(
            path, "w", dtype=array.dtype, transform=grid, nodata=nodata, **profile
        ) as out:
            out.write(array, 1)
    catalogue = Catalogue(root, tuple(make_catalogue(root)))
    return Archive(catalogue, tuple(read_tile(catalogue.tile(i)) for i in range(len(catalogue))))


def parcels_of(side: int) -> NDArray[np.uint16]:
    """Number parcels of ``side`` pixels on a 12 x 12 tile, from 1."""
    down, along = np.divmod(np.arange(144), 12)
    number = 1 + down // side * 12 // side + along // side
    return np.asarray(number.reshape(12, 12), np.uint16)


def tasks_of(archive: Archive) -> list[Task | TaskTooSmall]:
    return read_tasks(survey_ground(archive, SECTION.block_px), SECTION)


def only_task(archive: Archive, section: EvaluateParams) -> Task:
    """Return the one task of an archive with one label."""
    (task,) = read_tasks(survey_ground(archive, section.block_px), section)
    assert isinstance(task, Task)
    return task


def test_ground_that_two_years_share_is_one_group_even_where_parcels_are_renumbered(
    tmp_path: Path,
) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint16)
    labels = {(year, "crop"): crop for year in (2018, 2019)}
    labels |= {(2018, "parcel"): parcels_of(3), (2019, "parcel"): parcels_of(3) + 100}
    task = only_task(write_archive(tmp_path, labels), SECTION)
    groups_at = {row: set(task.group[task.row == row]) for row in np.unique(task.row)}
    assert all(len(groups) == 1 for groups in groups_at.values())
    assert len(np.unique(task.group)) == 16
    assert set(task.tile) == {0, 1}


def test_pixels_without_parcels_are_grouped_by_blocks(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint16)
    task = only_task(write_archive(tmp_path, {(2018, "crop"): crop}), SECTION)
    assert len(np.unique(task.group)) == 9


def test_rare_classes_and_classes_in_few_groups_are_left_out_and_named(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint16)
    crop[0, 0], crop[3:6, 3:6] = 7, 8
    labels = {(2018, "crop"): crop, (2018, "parcel"): parcels_of(3)}
    task = only_task(write_archive(tmp_path, labels), SECTION)
    assert task.classes == (1, 2)
    assert task.left_out == {"7": "1 d-pixels in 1 groups", "8": "9 d-pixels in 1 groups"}


def test_few_groups_take_fewer_folds_and_one_group_is_not_scored(tmp_path: Path) -> None:
    two = np.where(parcels_of(6) > 0, 1 + parcels_of(6) % 2, 0).astype(np.uint16)
    flat = np.ones((12, 12), np.float32)
    labels: Labels = {(2018, "crop"): two, (2018, "height"): flat, (2018, "parcel"): parcels_of(6)}
    crop, height = tasks_of(write_archive(tmp_path, labels))
    assert isinstance(crop, Task)
    assert crop.folds == 2
    assert isinstance(height, TaskTooSmall)
    assert "target that varies" in height.reason


def test_the_draw_is_even_over_groups_and_the_same_every_time(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint16)
    labels = {(2018, "crop"): crop, (2018, "parcel"): parcels_of(3)}
    archive = write_archive(tmp_path, labels)
    section = SECTION.model_copy(update={"max_dpixels": 64})
    task, again = only_task(archive, section), only_task(archive, section)
    assert set(np.bincount(task.group)) == {4}
    assert task.digest() == again.digest()


def test_no_label_means_no_task_and_nan_is_no_label(tmp_path: Path) -> None:
    height = np.arange(144, dtype=np.float32).reshape(12, 12)
    height[:2] = np.nan
    labels: Labels = {(2018, "height"): height, (2018, "parcel"): parcels_of(3)}
    task = only_task(write_archive(tmp_path, labels), SECTION)
    assert task.kind == "regression"
    assert task.row.min() == 24
    assert np.isfinite(task.value).all()


@pytest.mark.parametrize("hidden", [255, 9])
def test_declared_nodata_of_a_classification_is_no_class(tmp_path: Path, hidden: int) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint8)
    crop[:3] = hidden
    labels: Labels = {(2018, "crop"): crop, (2018, "parcel"): parcels_of(3)}
    task = only_task(write_archive(tmp_path, labels, nodata_of={"crop": hidden}), SECTION)
    assert (task.classes, task.left_out) == ((1, 2), {})
    assert task.row.min() == 36


def test_declared_nodata_of_a_regression_is_no_target(tmp_path: Path) -> None:
    height = np.arange(144, dtype=np.float32).reshape(12, 12)
    height[:3] = -9999
    labels: Labels = {(2018, "height"): height, (2018, "parcel"): parcels_of(3)}
    task = only_task(write_archive(tmp_path, labels, nodata_of={"height": -9999}), SECTION)
    assert task.value.min() == 36


def test_declared_nodata_of_the_parcels_is_no_parcel(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint16)
    parcel = np.full((12, 12), 65535, np.uint16)
    labels: Labels = {(2018, "crop"): crop, (2018, "parcel"): parcel}
    task = only_task(write_archive(tmp_path, labels, nodata_of={"parcel": 65535}), SECTION)
    assert len(np.unique(task.group)) == 9  # blocks of 4 px


def test_negative_class_code_is_refused_by_name_unless_it_is_nodata(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.int16)
    crop[0, 0] = -1
    labels: Labels = {(2018, "crop"): crop}
    with pytest.raises(DataError, match=r"_crop\.tif: expected class codes.*found -1"):
        tasks_of(write_archive(tmp_path / "bare", labels))
    declared = write_archive(tmp_path / "declared", labels, nodata_of={"crop": -1})
    assert only_task(declared, SECTION).classes == (1, 2)


def test_label_of_classes_in_one_year_and_a_quantity_in_the_other_is_refused(
    tmp_path: Path,
) -> None:
    codes = np.ones((12, 12), np.uint8)
    labels: Labels = {(2018, "crop"): codes, (2019, "crop"): codes.astype(np.float32)}
    with pytest.raises(DataError, match=r"label crop: expected integers .* found both"):
        tasks_of(write_archive(tmp_path, labels))


def test_groups_have_the_same_numbers_in_every_task(tmp_path: Path) -> None:
    parcel = parcels_of(3)
    crop = np.where(parcel > 4, 1 + parcel % 2, 0).astype(np.uint16)
    height = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    labels: Labels = {(2018, "crop"): crop, (2019, "height"): height}
    labels |= {(2018, "parcel"): parcel, (2019, "parcel"): parcel + 100}
    one, other = tasks_of(write_archive(tmp_path, labels))
    assert isinstance(one, Task)
    assert isinstance(other, Task)
    known = dict(zip(other.row.tolist(), other.group.tolist(), strict=True))
    assert len(np.unique(one.group)) == 12
    assert [known[row] for row in one.row.tolist()] == one.group.tolist()


def test_a_class_keeps_its_minimum_when_few_dpixels_are_drawn(tmp_path: Path) -> None:
    crop = np.ones((12, 12), np.uint16)
    crop[:2, :2] = crop[3:5, 3:5] = crop[6:8, 6:8] = 2  # 12 of 144 d-pixels, in 3 of 16 parcels
    labels: Labels = {(2018, "crop"): crop, (2018, "parcel"): parcels_of(3)}
    section = SECTION.model_copy(update={"max_dpixels": 24, "min_dpixels": 12})
    task = only_task(write_archive(tmp_path, labels), section)
    assert np.unique(task.value, return_counts=True)[1].tolist() == [12, 12]


def test_classes_without_room_in_the_draw_are_left_out_and_named(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 3).astype(np.uint16)  # class 2 has 6 parcels, 1 and 3 have 5
    labels: Labels = {(2018, "crop"): crop, (2018, "parcel"): parcels_of(3)}
    section = SECTION.model_copy(update={"max_dpixels": 40, "min_dpixels": 20})
    task = only_task(write_archive(tmp_path, labels), section)
    assert task.classes == (1, 2)
    assert task.left_out == {"3": "max_dpixels has room for 2 classes"}
    assert np.bincount(task.value).tolist() == [0, 20, 20]


def test_class_that_nobody_observed_is_left_out_before_the_draw(tmp_path: Path) -> None:
    crop = (1 + parcels_of(3) % 2).astype(np.uint16)
    crop[6:] = 5
    labels: Labels = {(2018, "crop"): crop, (2018, "parcel"): parcels_of(3)}
    below = (slice(6, 12), slice(None))
    task = only_task(write_archive(tmp_path / "two", labels, unseen=below), SECTION)
    assert task.classes == (1, 2)
    crop[:6] = 1
    (skipped,) = tasks_of(write_archive(tmp_path / "one", labels, unseen=below))
    assert isinstance(skipped, TaskTooSmall)
    assert "72 labelled and observed d-pixels" in skipped.reason


def test_a_tile_that_is_named_like_a_year_is_a_place_of_its_own() -> None:
    assert place_of("2018/region/2019") == place_of("2020/region/2019") == "region/2019"
    assert place_of("2018/1234") != place_of("2018/4321")


def test_real_tile_with_nineteen_parcels_can_be_split(shared_data: Path) -> None:
    root = shared_data / "data" / "be2018"
    catalogue = Catalogue(root, tuple(make_catalogue(root)))
    archive = Archive(catalogue, (read_tile(catalogue.tile(0)),))
    section = SECTION.model_copy(update={"min_dpixels": 50, "block_px": 8})
    crop, cover = read_tasks(survey_ground(archive, section.block_px), section)
    assert isinstance(crop, Task)
    assert isinstance(cover, Task)
    assert crop.classes == (1200, 7900, 9120)
    assert set(crop.left_out) == {"2130", "5100"}
    assert len(np.unique(crop.group)) == 17
    for task in (crop, cover):
        fold = folds_of(task, 1)
        for number in range(task.folds):
            assert set(task.value[fold != number]) == set(task.classes)
