"""Addresses follow from everything that bytes follow from; single rows and their spread are judged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pytest
import torch

from models.diagnostics import Moments
from tasks.checkpoints import open_checkpoint
from tasks.embedding.blocks import Embedded
from tasks.errors import TargetsUnfit
from tasks.targets.address import (
    SOURCES,
    Address,
    code_digest,
    preprocessing_digest,
    preprocessing_facts,
    tree_of,
)
from tasks.targets.checks import TOLERANCE, Rounding, require_targets, rounded
from tasks.targets.spread import require_spread
from tests.targets import make_teacher, save_teacher

WIDTH, BLOCK = 16, 4


def on_sphere(rows: int, seed: int = 0) -> np.ndarray:
    """Return rows of mean 0 and variance 1, as a layer norm makes them."""
    values = np.random.default_rng(seed).standard_normal((rows, WIDTH))
    values -= values.mean(axis=1, keepdims=True)
    scaled: np.ndarray = values / values.std(axis=1, keepdims=True)
    return scaled.astype(np.float32)


def group(embedding: np.ndarray) -> Embedded:
    ids = np.arange(len(embedding), dtype=np.uint64) + np.uint64(2**63 + 7)  # needs all 64 bits
    return Embedded(ids.view(np.int64), embedding, np.ones((len(ids), 3), np.uint16))


def judge(embedding: np.ndarray) -> None:
    require_targets(group(embedding), shard="s.arrow", first_block=10, block_rows=BLOCK)


@pytest.mark.parametrize("change", ["teacher", "preprocessing", "dpixels", "dtype"])
def test_each_part_of_an_address_changes_it(change: str) -> None:
    address = Address("a" * 64, "b" * 64, "c" * 64, "float16")
    changed: dict[str, Any] = {change: "float32" if change == "dtype" else "d" * 64}
    other = replace(address, **changed)
    assert other.digest != address.digest
    assert replace(address).digest == address.digest


def test_parts_of_an_address_are_not_interchangeable() -> None:
    one, two = Address("a", "b", "c", "float16"), Address("b", "a", "c", "float16")
    assert one.digest != two.digest


def test_preprocessing_is_more_than_the_code(tmp_path: Path) -> None:
    save_teacher(tmp_path / "one", make_teacher())
    save_teacher(tmp_path / "two", make_teacher(), normalisation="tessera-v2-student")
    found = [
        preprocessing_facts(open_checkpoint(tmp_path / name, max_tokens=tokens).encoder, rows)
        for name, tokens, rows in (
            ("one", 64, 32),
            ("one", 64, 32),
            ("two", 64, 32),
            ("one", 65, 32),
            ("one", 64, 48),
        )
    ]
    digests = [preprocessing_digest(facts) for facts in found]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_sources_are_all_that_reads_a_shard_and_makes_its_entry() -> None:
    graph = grimp.build_graph("tasks", "models")
    roots = {"models.encode", "models.checkpoint", "models.released", "tasks.shards.reader"}
    closure = roots.union(*(graph.find_upstream_modules(root) for root in roots))
    # What else these import (the corpus, the writer, the meter) chooses nothing in an entry.
    closure |= {"models.diagnostics", "tasks.embedding.blocks"}
    closure |= {"tasks.targets.checks", "tasks.targets.making"}
    assert set(SOURCES) == closure - {"tasks.errors", "models", "tasks", "tasks.shards"}


def test_what_code_does_counts_and_no_remark(tmp_path: Path) -> None:
    written = {
        "plain": "X = 1\n\n\ndef double(x):\n    return 2 * x\n",
        "remarked": '"""Says more."""\nX = 1  # one\n"""A field."""\n\ndef double(x):\n'
        '    """Twice."""\n    # of x\n    return (2 * x)\n',
        "changed": "X = 1\n\n\ndef double(x):\n    return 3 * x\n",
    }
    for name, source in written.items():
        (tmp_path / name).write_text(source)
    plain, remarked, changed = (tree_of(tmp_path / name) for name in written)
    assert plain == remarked
    assert plain != changed


def test_names_of_modules_take_part_in_the_digest() -> None:
    assert code_digest(("models.bands",)) != code_digest(("models.dpixel",))


def test_good_rows_pass() -> None:
    judge(on_sphere(9))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda row: np.where(np.arange(WIDTH) == 3, np.nan, row), "1 of 16 coordinates"),
        (lambda row: np.where(np.arange(WIDTH) < 2, np.inf, row), "2 of 16 coordinates"),
        (np.zeros_like, "mean 0, norm 0"),
        (lambda row: row * (1 + 2 * TOLERANCE), "norm 4.08"),
        (lambda row: row * (1 - 2 * TOLERANCE), "norm 3.92"),
        (lambda row: row + 2 * TOLERANCE, "mean 0.02, norm 4.001"),
        (lambda row: np.full_like(row, 3e38), "mean 3e+38, norm"),
    ],
)
def test_a_row_off_the_sphere_is_named_by_its_place(spoil: object, found: str) -> None:
    embedding = on_sphere(9)
    embedding[6] = spoil(embedding[6])  # type: ignore[operator]  # one of the functions above
    with pytest.raises(TargetsUnfit) as caught:
        judge(embedding)
    said = str(caught.value)
    assert f"s.arrow, block 11, row 2, pixel id {2**63 + 13}:" in said
    assert found in said
    assert "(1 such rows of the 9 looked at)" in said


def test_rounding_of_parts_is_that_of_the_whole() -> None:
    exact = on_sphere(40)
    whole, parts = Rounding(), Rounding()
    whole.add(exact, rounded(exact, "float16"))
    for part in np.split(exact, [3, 17]):
        parts.add(part, rounded(part, "float16"))
    for name, value in whole.facts().items():
        assert parts.facts()[name] == pytest.approx(value, rel=1e-15)
    assert whole.norm_min <= np.sqrt(WIDTH) <= whole.norm_max + 1e-6


def moments_of(rows: np.ndarray) -> Moments:
    moments = Moments(rows.shape[1])
    moments.add(torch.from_numpy(rows))
    return moments


def test_targets_along_few_directions_are_refused_by_their_rank() -> None:
    random = np.random.default_rng(1)
    flat = random.standard_normal((500, 3)) @ random.standard_normal((3, WIDTH))
    require_spread(moments_of(flat), min_effective_rank=2.0, max_dead_share=0.0, where="here")
    with pytest.raises(TargetsUnfit, match=r"here: expected .* at least 3\.5 of 16 directions"):
        require_spread(moments_of(flat), min_effective_rank=3.5, max_dead_share=0.0, where="here")


def test_equal_targets_are_refused() -> None:
    same = np.repeat(on_sphere(1), 50, axis=0)
    with pytest.raises(TargetsUnfit, match="an effective rank of 0 over 50 rows"):
        require_spread(moments_of(same), min_effective_rank=1.0, max_dead_share=0.0, where="here")


def test_a_dead_coordinate_is_refused_by_its_number() -> None:
    rows = np.random.default_rng(2).standard_normal((500, WIDTH))
    rows[:, 11] = 0.25
    with pytest.raises(TargetsUnfit, match=r"found 6\.2% of 16, e\.g\. coordinate 11 with"):
        require_spread(moments_of(rows), min_effective_rank=2.0, max_dead_share=0.06, where="here")
    require_spread(moments_of(rows), min_effective_rank=2.0, max_dead_share=0.07, where="here")
