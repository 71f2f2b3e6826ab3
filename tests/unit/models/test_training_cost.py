import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.architecture import StudentConfig, TeacherConfig
from models.cost import Observations, count_parameters
from models.losses import prefix_distillation
from models.pretraining import TeacherWithProjector
from models.stages import whole
from models.student import PrefixHeads, Student
from models.teacher import TEACHERS
from models.training_cost import (
    StepCost,
    compute_axis,
    distillation_cost,
    pretraining_axis,
    pretraining_cost,
)

TEACHER = TeacherConfig(latent=8, layers=2, heads=2, feedforward=48, repr_dim=40)
STUDENT = StudentConfig(latent=8, layers=2, heads=4, feedforward=56)
QK_NORM = StudentConfig(latent=4, layers=1, heads=2, feedforward=24, qk_norm=True)
ROWS, LENGTH = 6, 5


def inputs(lengths: Observations) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s2, s1 = lengths.num_s2, lengths.num_s1
    days2, days1 = (torch.ones(ROWS, length) for length in (s2, s1))
    return torch.randn(ROWS, s2, 10), days2, torch.randn(ROWS, s1, 2), days1


def counted() -> FlopCounterMode:
    """A counter of PyTorch's own; it sees matrix products, and attention only where it is made of
    them: what it does not know is the fused attention of the processor."""
    return FlopCounterMode(display=False)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("prefixes", [(), (8, 16)])
def test_pretraining_costs_what_pytorch_counts(
    layers: int, mixup: bool, prefixes: tuple[int, ...]
) -> None:
    model = TeacherWithProjector(
        TEACHER,
        projector=(64, layers),
        off_diagonal_weight=0.005,
        mixup_weight=float(mixup),
        prefixes=prefixes,
    )
    pair = inputs(Observations(LENGTH, LENGTH)), inputs(Observations(LENGTH, LENGTH))
    with sdpa_kernel(SDPBackend.MATH), counted() as counter:
        model(pair, whole, alpha=0.3).loss.backward()
    cost = pretraining_cost(TEACHER, (64, layers), ROWS, LENGTH, mixup=mixup, prefixes=prefixes)
    assert cost.flops == counter.get_total_flops()


@pytest.mark.parametrize("config", [STUDENT, QK_NORM])
def test_distillation_costs_what_pytorch_counts(config: StudentConfig) -> None:
    student, heads = Student(config), PrefixHeads(config.prefixes, 96)
    lengths = Observations(num_s2=7, num_s1=3)
    view, target = inputs(lengths), torch.randn(ROWS, 96)
    with sdpa_kernel(SDPBackend.MATH), counted() as counter:
        prefix_distillation(student(*view), heads, target).backward()  # type: ignore[no-untyped-call]  # torch has no types
    assert distillation_cost(config, 96, ROWS, lengths).flops == counter.get_total_flops()


def test_tokens_are_the_observations_of_both_sensors_and_all_views() -> None:
    assert pretraining_cost(TEACHER, (64, 2), 10, 8, mixup=True).tokens == 10 * 3 * 2 * 8
    assert distillation_cost(STUDENT, 96, 10, Observations(7, 3)).tokens == 100


def test_costs_of_groups_add_up() -> None:
    one = distillation_cost(STUDENT, 96, 4, Observations(7, 3))
    other = distillation_cost(STUDENT, 96, 2, Observations(7, 3))
    assert one + other == distillation_cost(STUDENT, 96, 6, Observations(7, 3))
    assert one + StepCost(0, 0, 0, 0, 0) == one


def test_compute_axis_is_equation_1() -> None:
    # 12 * 1e6 d-pixels * (7e6 * 240 + 4e6)
    assert compute_axis(1_000_000, 7_000_000, 4_000_000) == 20_208_000_000_000_000


def test_compute_axis_of_a_shape_counts_the_projector() -> None:
    encoder = count_parameters(TEACHERS["small"])
    projector = 256 * 512 + 2 * 512 * 512 + 2 * 2 * 512  # three maps, two norms
    expected = compute_axis(1000, encoder, projector)
    assert pretraining_axis(TEACHERS["small"], (512, 3), 1000) == expected


def test_compute_axis_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="num_dpixels of at least 1, got 0"):
        compute_axis(0, 1, 1)


def test_equation_1_charges_more_than_is_done() -> None:
    """Each token passes one branch of two, and the fusion reads two tokens, not a year."""
    config = TEACHERS["large"]
    done = pretraining_cost(config, (1024, 3), 1, 120, mixup=False).flops
    assert 2 < pretraining_axis(config, (1024, 3), 1) / done < 3
