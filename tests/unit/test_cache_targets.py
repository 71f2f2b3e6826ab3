"""Targets: each row has its embedding, nothing stale is read, what is there already costs nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bands import NORMALISATIONS
from models.buckets import ladder
from models.dpixel import DPixels
from models.encode import Encoder
from models.teacher import Teacher
from tasks.errors import ShardDamaged, TargetsUnfit
from tasks.streaming.windows import Source
from tests.corpora import make_dpixels
from tests.streams import damage_block
from tests.targets import (
    BLOCK_ROWS,
    ROWS,
    SHARD_ROWS,
    Bench,
    all_targets,
    bytes_below,
    make_teacher,
    small_dpixels,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that a teacher has encoded, one number a call; nothing is replaced, only counted."""
    seen: list[int] = []
    encode: Callable[[Encoder, DPixels], np.ndarray] = Encoder.encode

    def counted(self: Encoder, dpixels: DPixels) -> np.ndarray:
        seen.append(len(dpixels))
        return encode(self, dpixels)

    monkeypatch.setattr(Encoder, "encode", counted)
    return seen


def embed(teacher: Teacher, dpixels: DPixels) -> np.ndarray:
    """Return embeddings straight from the encoder, all rows at once."""
    return Encoder(teacher, NORMALISATIONS["tessera-v2-teacher"], ladder(8, 64)).encode(dpixels)


@pytest.mark.parametrize("together", [1, 3, 100])
def test_each_row_has_its_embedding_in_the_block_of_its_dpixel(
    together: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.targets.making.BLOCK_DPIXELS", together * BLOCK_ROWS)
    targets = bench.cache(threads=2)
    source = Source(bench.dpixels(), targets)  # refuses another number of rows, or other blocks
    for number in range(targets.num_blocks):
        source.read(number)  # refuses other pixels
    expected = embed(make_teacher(), small_dpixels())
    np.testing.assert_allclose(all_targets(targets), expected, atol=2e-3)


def test_a_rerun_takes_all_from_the_store_and_gives_the_same_bytes(
    bench: Bench, passes: list[int]
) -> None:
    bench.cache()
    first = bytes_below(bench.output)
    assert (sum(passes), bench.made) == (ROWS, (3, 0))
    passes.clear()
    bench.cache()
    assert (passes, bench.made) == ([], (0, 3))
    assert bytes_below(bench.output) == first


def test_a_fresh_store_is_filled_with_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    bench.cache()
    first = bytes_below(bench.output) | bytes_below(bench.store)
    bench.store.rename(tmp_path / "gone")
    bench.cache()
    assert bytes_below(bench.output) | bytes_below(bench.store) == first


def test_another_teacher_finds_nothing_of_the_first_one(bench: Bench, passes: list[int]) -> None:
    bench.cache()
    passes.clear()
    bench.pretrain(make_teacher(seed=2))
    targets = bench.cache()
    assert sum(passes) == ROWS
    expected = embed(make_teacher(seed=2), small_dpixels())
    np.testing.assert_allclose(all_targets(targets), expected, atol=2e-3)
    passes.clear()
    bench.pretrain(make_teacher())  # the first one again: its targets are still there
    bench.cache()
    assert passes == []


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"max_tokens": 512}])
def test_a_setting_that_changes_a_byte_changes_the_address(
    change: dict[str, object], bench: Bench, passes: list[int]
) -> None:
    bench.cache()
    passes.clear()
    bench.cache(**change)
    assert sum(passes) == ROWS
    assert len(bench.entries()) == 6


def test_other_statistics_are_other_targets(bench: Bench, passes: list[int]) -> None:
    bench.cache()
    passes.clear()
    bench.pretrain(make_teacher(), normalisation="tessera-v2-student")
    bench.cache()
    assert sum(passes) == ROWS


def test_threads_change_no_byte_and_no_address(bench: Bench, passes: list[int]) -> None:
    bench.cache(threads=1)
    first = bytes_below(bench.output)
    passes.clear()
    bench.cache(threads=3)
    assert passes == []
    assert bytes_below(bench.output) == first


def test_one_changed_shard_is_the_only_one_made(bench: Bench, passes: list[int]) -> None:
    before = all_targets(bench.cache())
    passes.clear()
    kept, other = small_dpixels(), make_dpixels(ROWS, seed=6, least=1)
    middle = other.slice(SHARD_ROWS, 2 * SHARD_ROWS)
    parts = [kept.slice(0, SHARD_ROWS), middle, kept.slice(2 * SHARD_ROWS, ROWS)]
    bench.pack(DPixels.concatenate(parts))
    after = all_targets(bench.cache())
    assert (sum(passes), bench.made) == (SHARD_ROWS, (1, 2))
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.tolist() == list(range(SHARD_ROWS, 2 * SHARD_ROWS))


def test_single_precision_is_the_embedding_itself(bench: Bench) -> None:
    targets = bench.cache(dtype="float32")
    found = targets.targets(0)[1]
    assert found.dtype == np.float32
    expected = embed(make_teacher(), small_dpixels())
    np.testing.assert_allclose(all_targets(targets), expected, atol=1e-5)
    assert not np.array_equal(found, found.astype(np.float16))
    assert bench.content["rounding"]["max_abs_error"] == 0.0
    assert bench.content["rounding"]["cosine_min"] == pytest.approx(1.0, abs=1e-12)


def test_what_half_precision_costs_is_measured(bench: Bench) -> None:
    half = all_targets(bench.cache()).astype(np.float64)
    content = bench.content
    exact = all_targets(bench.cache(dtype="float32")).astype(np.float64)
    cosine = (half * exact).sum(1) / np.sqrt((half**2).sum(1) * (exact**2).sum(1))
    assert 0.99999 < cosine.min() < 1.0
    expected = {
        "cosine_min": cosine.min(),
        "cosine_mean": cosine.mean(),
        "max_abs_error": np.abs(half - exact).max(),
    }
    for name, value in expected.items():
        assert content["rounding"][name] == pytest.approx(value, abs=1e-14)
        assert content["counts"][name] == content["rounding"][name]
    least = [shard["rounding"]["cosine_min"] for shard in content["shards"]]
    parts = np.split(cosine, [SHARD_ROWS, 2 * SHARD_ROWS])
    assert least == pytest.approx([part.min() for part in parts], abs=1e-14)


def test_spread_is_that_of_the_rows_as_stored(bench: Bench) -> None:
    stored = all_targets(bench.cache()).astype(np.float64)
    found = bench.content["spread"]
    singular = np.linalg.svd(stored - stored.mean(0), compute_uv=False)
    share = singular[singular > 1e-9] / singular.sum()
    rank = np.exp(-(share * np.log(share)).sum())
    assert found["effective_rank"] == pytest.approx(rank, rel=1e-4)
    held = np.cumsum(singular**2) / (singular**2).sum()
    directions = {f"{part:.0%}": int((held < part).sum()) + 1 for part in (0.5, 0.9, 0.99)}
    assert found["directions"] == directions
    assert found["largest_share"] == pytest.approx(held[0], rel=1e-5)
    assert found["variance_min"] == pytest.approx(stored.var(0).min(), rel=1e-5)


def test_a_target_that_is_no_number_is_named(bench: Bench) -> None:
    teacher = make_teacher()
    with torch.no_grad():
        first = teacher.dim_reducer[0]
        assert isinstance(first, torch.nn.Linear)
        first.bias[0] = torch.nan
    bench.pretrain(teacher)
    with pytest.raises(TargetsUnfit, match=r"24 of 24 coordinates .*\(80 such rows") as caught:
        bench.cache()
    assert "dpixels-00000.arrow, block 0, row 0, pixel id 1000:" in str(caught.value)
    assert bench.entries() == {}
    assert not list(bench.output.iterdir())


def test_a_dpixel_without_observations_is_named(bench: Bench) -> None:
    kept, at = small_dpixels(), 150  # of the second shard: block 9, row 6
    empty = make_dpixels(1, seed=1, least=0, most=1)
    bench.pack(DPixels.concatenate([kept.slice(0, at), empty, kept.slice(at + 1, ROWS)]))
    with pytest.raises(TargetsUnfit, match=r"dpixels-00001\.arrow, block 9, row 6, ") as caught:
        bench.cache()
    assert "set pack.min_s2 or pack.min_s1 to 1 or more" in str(caught.value)
    assert len(bench.entries()) == 1  # the first shard was fine and is kept


def test_a_teacher_that_says_the_same_of_all_is_refused(bench: Bench) -> None:
    teacher = make_teacher()
    with torch.no_grad():  # nothing of the observations gets past the first map of the head
        first = teacher.dim_reducer[0]
        assert isinstance(first, torch.nn.Linear)
        first.weight.zero_()
        first.bias.copy_(torch.linspace(-1.0, 1.0, len(first.bias)))
    bench.pretrain(teacher)
    with pytest.raises(TargetsUnfit, match="at least 4 of 24 directions; found an effective rank"):
        bench.cache()
    assert not (bench.output / "index.json").exists()


def test_a_teacher_whose_last_map_is_silent_is_refused(bench: Bench) -> None:
    teacher = make_teacher()
    with torch.no_grad():  # far below what the layer norm's own 1e-5 lets through
        last = teacher.dim_reducer[4]
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(1e-5)
        last.bias.zero_()
    bench.pretrain(teacher)
    with pytest.raises(TargetsUnfit, match=r"norm 4\.899 within 1%.*; found mean .*, norm 0\.0"):
        bench.cache()


def test_the_limit_of_the_rank_is_a_setting(bench: Bench, passes: list[int]) -> None:
    with pytest.raises(TargetsUnfit, match=r"cache_targets\.min_effective_rank"):
        bench.cache(min_effective_rank=20.0)
    passes.clear()
    bench.cache(min_effective_rank=2.0)
    assert passes == []  # each shard was fine by itself and is kept


def test_a_coordinate_that_never_changes_is_named(bench: Bench) -> None:
    teacher = make_teacher()
    with torch.no_grad():  # coordinate 5 is the mean of the others, so the layer norm makes it 0
        last = teacher.dim_reducer[4]
        assert isinstance(last, torch.nn.Linear)
        others = [at for at in range(len(last.bias)) if at != 5]
        last.weight[5] = last.weight[others].mean(0)
        last.bias[5] = last.bias[others].mean()
    bench.pretrain(teacher)
    with pytest.raises(TargetsUnfit, match=r"found 4\.2% of 24, e\.g\. coordinate 5 with variance"):
        bench.cache()
    bench.cache(max_dead_share=0.05)
    assert bench.content["spread"]["dead_share"] == pytest.approx(1 / 24, rel=1e-5)


def test_a_shard_that_cannot_be_read_leaves_no_entry(bench: Bench) -> None:
    shard = damage_block(bench.root / "pack", 7)
    with pytest.raises(ShardDamaged, match=f"{shard}, block 7"):
        bench.cache()
    assert len(bench.entries()) == 1
    assert not list((bench.output).glob("targets-00001*"))


def test_targets_are_linked_and_not_copied_where_the_disk_can(bench: Bench) -> None:
    bench.cache()
    sizes = [path.stat().st_nlink for path in bench.output.glob("*.arrow")]
    assert sorted(sizes) == [1, 2, 2, 2]  # blocks.arrow is the output's own
