"""Rows that are held out: no step reads them, and a loss on them is that of the formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError, ParamsError
from tasks.streaming.corpus import open_corpus
from tasks.streaming.windows import Source
from tasks.training.held_out import read_held_out
from tests.corpora import make_dpixels, write_corpus
from tests.streams import (
    BLOCK_ROWS,
    ROWS,
    damage_block,
    local,
    rows_of,
    run,
    settings,
    stream_of,
    write_small,
)


def test_no_step_reads_a_held_out_row_and_all_others_are_read(tmp_path: Path) -> None:
    write_small(tmp_path / "pack")
    source = local(tmp_path / "pack")
    steps = run(stream_of(source, tmp_path, held_out_blocks=3), steps=40)
    first = ROWS // BLOCK_ROWS * BLOCK_ROWS + BLOCK_ROWS - 3 * BLOCK_ROWS
    held = read_held_out(source, settings(held_out_blocks=3))
    assert held is not None
    np.testing.assert_array_equal(held.part.rows, np.arange(first, ROWS))
    seen = np.unique(np.concatenate([rows_of(parts) for parts in steps]))
    np.testing.assert_array_equal(seen, np.arange(first))


def test_the_rows_are_the_last_ones_and_their_draws_are_always_the_same(tmp_path: Path) -> None:
    dpixels = write_small(tmp_path / "pack")
    params = settings(held_out_blocks=2)
    held, again = (read_held_out(local(tmp_path / "pack"), params) for _ in range(2))
    assert held is not None
    assert again is not None
    np.testing.assert_array_equal(held.dpixels.pixel_id, dpixels.pixel_id[held.part.rows])
    np.testing.assert_array_equal(held.part.seeds, again.part.seeds)
    assert read_held_out(local(tmp_path / "pack"), settings(held_out_blocks=0)) is None


def test_a_damaged_block_is_never_replaced_by_held_out_rows(tmp_path: Path) -> None:
    write_corpus(tmp_path / "pack", make_dpixels(64, seed=1), block_rows=8, shard_blocks=2)
    for block in range(3):
        damage_block(tmp_path / "pack", block)
    changes: dict[str, Any] = {"held_out_blocks": 4, "on_damage": "skip", "max_damaged_share": 1.0}
    stream = stream_of(local(tmp_path / "pack"), tmp_path, **changes, batch_size=8)
    held = open_corpus(str(tmp_path / "pack"), "dpixels").dpixels(4)
    for parts in run(stream, steps=12):
        for part in parts:
            assert part.held.s2.values.shape[1] == held.s2.values.shape[1]
            assert part.rows.max() < 32
            # What stands in for blocks 0 to 2 is block 3, the only good one that is not held out.
            good = open_corpus(str(tmp_path / "pack"), "dpixels").dpixels(3).s2.values
            assert set(part.held.s2.values[:, 0].tolist()) <= set(good[:, 0].tolist())


def test_holding_out_everything_and_too_much_are_refused_by_name(tmp_path: Path) -> None:
    write_small(tmp_path / "pack")
    source = Source(open_corpus(str(tmp_path / "pack"), "dpixels"))
    with pytest.raises(ParamsError, match=r"fewer held-out blocks than the corpus has, 21"):
        read_held_out(source, settings(held_out_blocks=21))
    with pytest.raises(DataError, match=r"found 16 in the shards, without 20 blocks held out"):
        stream_of(source, tmp_path, held_out_blocks=20)
