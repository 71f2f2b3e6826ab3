"""Dates in their places: what a crash leaves, and what of it is taken up again."""

import os
from datetime import date
from pathlib import Path

import numpy as np

from tasks.stac.captures import Receipt
from tasks.stac.slots import Slots

DAYS = [date(2022, 1, day) for day in (5, 10, 15)]
SHAPES = {"bands": ((4, 2), "uint16"), "masks": ((4,), "uint8")}


def arrays(number: int) -> dict[str, np.ndarray]:
    return {
        "bands": np.full((4, 2), number, np.uint16),
        "masks": np.full(4, number % 2, np.uint8),
    }


def receipt(day: date, *, has_data: bool = True, unread: dict[str, str] | None = None) -> Receipt:
    return Receipt(day.isoformat(), has_data=has_data, unread=unread or {})


def filled(folder: Path, **changes: Receipt) -> Slots:
    slots = Slots(folder, DAYS, SHAPES)
    for number, day in enumerate(DAYS, start=1):
        slots.seal(day, arrays(number), changes.get(f"d{day.day}", receipt(day)))
    return slots


def test_dates_may_be_written_in_any_order(tmp_path: Path) -> None:
    slots = Slots(tmp_path, DAYS, SHAPES)
    for number in (2, 0, 1):
        slots.seal(DAYS[number], arrays(number), receipt(DAYS[number]))
    slots.place("bands", tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")
    assert (found.dtype, found.shape) == (np.uint16, (3, 4, 2))
    assert found[:, 0, 0].tolist() == [0, 1, 2]


def test_only_dates_with_a_receipt_are_whole_after_a_crash(tmp_path: Path) -> None:
    Slots(tmp_path, DAYS, SHAPES).seal(DAYS[1], arrays(7), receipt(DAYS[1]))
    with (tmp_path / "bands.npy").open("r+b") as file:  # killed in the middle of another date
        file.seek(-8, os.SEEK_END)
        file.write(b"torn")
    again = Slots(tmp_path, DAYS, SHAPES)
    assert [again.receipt(day) is not None for day in DAYS] == [False, True, False]
    again.seal(DAYS[0], arrays(1), receipt(DAYS[0]))
    again.seal(DAYS[2], arrays(3), receipt(DAYS[2]))
    assert again.read("bands")[:, 0, 0].tolist() == [1, 7, 3]


def test_receipts_without_their_arrays_are_worth_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "masks.npy").unlink()
    assert not Slots(tmp_path, DAYS, SHAPES).receipts()


def test_dates_on_which_nothing_was_seen_are_left_out(tmp_path: Path) -> None:
    slots = filled(tmp_path, d10=receipt(DAYS[1], has_data=False))
    slots.place("masks", tmp_path / "out.npy")
    assert slots.kept() == [DAYS[0], DAYS[2]]
    assert np.load(tmp_path / "out.npy")[:, 0].tolist() == [1, 1]


def test_a_date_that_is_tried_again_does_not_change_what_was_placed(tmp_path: Path) -> None:
    slots = filled(tmp_path, d10=receipt(DAYS[1], unread={"x": "gone"}))
    slots.place("bands", tmp_path / "out.npy")
    slots.seal(DAYS[1], arrays(9), receipt(DAYS[1]))
    assert np.load(tmp_path / "out.npy")[1, 0, 0] == 2


def test_finished_arrays_are_not_written_twice(tmp_path: Path) -> None:
    filled(tmp_path).place("bands", tmp_path / "out.npy")
    assert (tmp_path / "out.npy").samefile(tmp_path / "bands.npy")


def test_receipt_comes_back_as_it_was(tmp_path: Path) -> None:
    given = Receipt("2022-01-05", True, 3, [{"id": "a"}], {"b": "why"}, ["w"])
    slots = Slots(tmp_path, DAYS, SHAPES)
    slots.seal(DAYS[0], arrays(1), given)
    assert slots.receipt(DAYS[0]) == given
