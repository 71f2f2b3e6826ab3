import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from models.architecture import StudentConfig, TeacherConfig
from models.cost import (
    TYPICAL,
    ModelConfig,
    Observations,
    activation_bytes,
    count_flops,
    count_parameters,
    embedding_bytes,
    global_pass_h100_years,
    weight_bytes,
)
from models.frozen import FrozenBranch, linear_maker
from models.packing import Run
from models.quantize import quantize
from models.student import STUDENTS, Student
from models.teacher import TEACHERS, Teacher

QK_NORM = StudentConfig(latent=16, layers=3, heads=4, feedforward=96, qk_norm=True)
NO_FUSION = TeacherConfig(latent=8, layers=1, heads=2, feedforward=40, repr_dim=24, fusion_layers=0)
CONFIGS = [*STUDENTS.values(), *TEACHERS.values(), QK_NORM, NO_FUSION]


def _build(config: ModelConfig) -> Student | Teacher:
    return Student(config) if isinstance(config, StudentConfig) else Teacher(config)


@pytest.mark.parametrize(
    ("preset", "num_parameters"),
    [("N", 1_066_402), ("S", 7_112_322), ("M", 21_028_930), ("L", 43_831_170)],
)
def test_students_have_the_published_numbers_of_parameters(
    preset: str, num_parameters: int
) -> None:
    assert num_parameters == count_parameters(STUDENTS[preset])


def test_the_largest_teacher_is_the_released_one() -> None:
    assert count_parameters(TEACHERS["2b"]) == 2_064_266_242


def test_teachers_of_the_scaling_study_rise_evenly_within_the_range_of_the_paper() -> None:
    sizes = [count_parameters(TEACHERS[name]) for name in ("small", "medium", "base", "large")]
    assert min(sizes) >= 7_000_000
    assert max(sizes) <= 278_000_000
    for smaller, larger in pairwise(sizes):
        assert 3 < larger / smaller < 3.5


@pytest.mark.parametrize("observations", [TYPICAL, Observations(1, 3), Observations(0, 30)])
@pytest.mark.parametrize("config", CONFIGS)
def test_flops_are_those_that_torch_counts_in_the_real_module(
    config: ModelConfig, observations: Observations
) -> None:
    s2, s1 = max(observations.num_s2, 1), max(observations.num_s1, 1)
    # Without memory, attention is taken apart into matrix products, so none of it goes uncounted.
    with torch.device("meta"), torch.no_grad():
        model = _build(config)
        inputs = (
            torch.zeros(1, s2, 10),
            torch.zeros(1, s2),
            torch.zeros(1, s1, 2),
            torch.zeros(1, s1),
        )
        with FlopCounterMode(display=False) as counter:
            model(*inputs)
    by_operator = {str(name): n for name, n in counter.get_flop_counts()["Global"].items()}
    assert min(by_operator["aten.addmm"], by_operator["aten.bmm"]) > 0
    assert counter.get_total_flops() == count_flops(config, observations)


def test_attention_is_counted_by_its_formula_worked_by_hand() -> None:
    config = StudentConfig(latent=1, layers=1, heads=1, feedforward=8, repr_dim=2, prefixes=(2,))
    branches = 3 * (40 + 16 + 64 + 64 + 4) + 2 * 9 * 4 + 2 * (8 + 16 + 64 + 64 + 4) + 2 * 4 * 4
    assert 2 * (branches + 8 * 16 + 16 * 2) == count_flops(config, Observations(3, 2))


def test_weights_in_bfloat16_take_half_the_bytes() -> None:
    assert weight_bytes(7_112_322, torch.float32) == 28_449_288
    assert weight_bytes(7_112_322, torch.bfloat16) == 14_224_644


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """The most bytes that tensors made under this mode hold at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {_storage(x)._cdata for x in tree_leaves((args, kwargs)) if _is_dense(x)}
        out = func(*args, **(kwargs or {}))
        for storage in (_storage(x) for x in tree_leaves(out) if _is_dense(x)):
            if storage._cdata not in self.seen | given:
                self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, num_bytes: int) -> None:
        self.seen.discard(key)
        self.now -= num_bytes


def _is_dense(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


def _storage(x: torch.Tensor) -> torch.UntypedStorage:
    return x.untyped_storage()


@pytest.mark.parametrize(
    "config", [STUDENTS["N"], STUDENTS["M"], TEACHERS["demo"], TEACHERS["small"], QK_NORM]
)
def test_activations_are_those_that_live_while_a_chunk_is_encoded(config: ModelConfig) -> None:
    length, num_tokens = 32, 1024
    num_rows = num_tokens // length
    log_copies = np.zeros(length, dtype=np.float32)
    run = Run(slice(0, num_rows), slice(0, num_tokens), length, log_copies)
    with torch.inference_mode():
        make = linear_maker("float32", torch.device("cpu"), num_tokens)
        branch = FrozenBranch(_build(config).s2_backbone, make, num_tokens)
        values, doy = torch.zeros(num_tokens, 10), torch.ones(num_tokens, dtype=torch.int64)
        with LiveBytes() as live:
            branch(values, doy, (run,))
    # The observations themselves are the little that is missing.
    assert 1 <= live.peak / activation_bytes(config, num_tokens) < 1.04


@pytest.mark.parametrize("config", CONFIGS)
def test_an_embedding_takes_the_bytes_of_its_codes_and_scale(config: ModelConfig) -> None:
    codes, scale = quantize(np.ones((1, config.repr_dim), dtype=np.float32))
    for k, num_bytes in embedding_bytes(config).items():
        assert codes[:, :k].nbytes + scale.nbytes == num_bytes


def test_only_students_can_be_cut_to_a_prefix() -> None:
    assert embedding_bytes(STUDENTS["M"]) == {16: 20, 32: 36, 64: 68, 128: 132}
    assert embedding_bytes(TEACHERS["1b"]) == {768: 772}


@pytest.mark.parametrize(
    ("num_parameters", "published"),
    [(1_000_000_000, 50), (43_831_170, 2), (1_066_402, 0.04)],
)
def test_a_global_pass_takes_the_h100_years_of_the_paper(
    num_parameters: int, published: float
) -> None:
    assert published == pytest.approx(global_pass_h100_years(num_parameters), rel=0.1)


def test_the_law_is_its_factor_at_a_million_parameters() -> None:
    assert global_pass_h100_years(1_000_000) == pytest.approx(0.041)


@pytest.mark.parametrize(("num_s2", "num_s1"), [(-1, 5), (5, -1), (0, 0)])
def test_impossible_numbers_of_observations_are_refused(num_s2: int, num_s1: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_s2} Sentinel-2 and {num_s1} Sentinel-1"):
        Observations(num_s2, num_s1)


def test_costs_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="num_parameters of at least 1, got 0"):
        weight_bytes(0, torch.float32)
    with pytest.raises(ValueError, match="num_parameters of at least 1, got -1"):
        global_pass_h100_years(-1)
    with pytest.raises(ValueError, match="num_tokens of at least 1, got 0"):
        activation_bytes(STUDENTS["N"], 0)


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 or bfloat16, got torch\.int8"):
        weight_bytes(1, torch.int8)
