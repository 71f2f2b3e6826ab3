from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.architecture import TeacherConfig
from models.pretraining import Pair, TeacherWithProjector, split_pair
from models.stages import whole
from tests.unit.models.pretraining_steps import (
    ALPHA,
    assert_equal,
    make_model,
    make_pair,
    replayed,
    rows_of,
    single_pass,
    textbook,
)
from tests.unit.models.processes import on_processes

ROWS = 20
NEIGHBOURS = [row ^ 1 for row in range(ROWS)]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("mixup", "prefixes"), [(0.0, ()), (0.7, ()), (1.0, (6, 16))])
def test_losses_and_gradients_are_those_of_a_textbook(
    layers: int, mixup: float, prefixes: tuple[int, ...]
) -> None:
    model = make_model(layers=layers, mixup=mixup, prefixes=prefixes)
    loss, gradients = single_pass(model, make_pair(ROWS))
    expected = textbook(model, make_pair(ROWS), NEIGHBOURS)
    assert_equal(loss, expected.detach())
    truth = torch.autograd.grad(expected, list(model.parameters()))
    for gradient, right in zip(gradients, truth, strict=True):
        assert_equal(gradient, right, to=1e-10)


def test_parts_of_the_loss_add_up_and_are_told_apart() -> None:
    losses = make_model(mixup=0.5, prefixes=(6, 16))(make_pair(ROWS), whole, alpha=ALPHA)
    assert set(losses.prefixes) == {6, 16}
    parts = losses.twins.loss + 0.5 * losses.twins.mixup
    parts = parts + losses.prefixes[6].loss + losses.prefixes[16].loss
    torch.testing.assert_close(losses.loss, parts)


def test_without_mixup_no_mixed_view_is_encoded() -> None:
    assert make_model(mixup=1.0)(make_pair(ROWS), alpha=ALPHA).shape == (3, ROWS, 24)
    assert make_model(mixup=0.0)(make_pair(ROWS), alpha=ALPHA).shape == (2, ROWS, 24)


@pytest.mark.parametrize("rows_at_once", [1, 7, 20, 64])
def test_encoding_in_pieces_changes_nothing(rows_at_once: int) -> None:
    model = make_model()
    loss, gradients = single_pass(model, make_pair(ROWS))
    model.rows_at_once = rows_at_once
    again, in_pieces = single_pass(model, make_pair(ROWS))
    assert_equal(again, loss)
    assert_equal(in_pieces, gradients)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_processes_take_the_step_of_one_with_the_whole_batch(number: int, tmp_path: Path) -> None:
    expected = _steps(make_pair(ROWS))
    ranks = on_processes(number, _steps_of_rank, tmp_path, number)
    for step, (loss, gradients) in enumerate(expected):
        for found in ranks:
            assert_equal(found[step][0], loss)
        for index, gradient in enumerate(gradients):
            average = torch.stack([found[step][1][index] for found in ranks]).mean(0)
            assert_equal(average, gradient)


def _steps_of_rank(rank: int, number: int) -> list[tuple[Tensor, list[Tensor]]]:
    # Ranks need not hold equally many rows, as long as no pair is parted.
    bounds = {1: (0, 20), 2: (0, 12, 20), 4: (0, 6, 10, 14, 20)}[number]
    return _steps(rows_of(make_pair(ROWS), bounds[rank], bounds[rank + 1]))


def _steps(pair: Pair) -> list[tuple[Tensor, list[Tensor]]]:
    """The whole objective in both modes, plain and with all that can be added."""
    plain, rich = make_model(layers=2, mixup=0.0), make_model(prefixes=(6, 16))
    half = 2 * (len(pair[0][0]) // 4)  # two micro-batches, or three
    return [
        *(single_pass(model, pair) for model in (plain, rich)),
        *(replayed(model, pair, half) for model in (plain, rich)),
    ]


def test_micro_batches_that_part_pairs_and_prefixes_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="even number of rows, got 5"):
        split_pair(make_pair(ROWS), 5)
    assert [len(view_a[0]) for view_a, _ in split_pair(make_pair(ROWS), 8)] == [8, 8, 4]
    config = TeacherConfig(latent=4, layers=1, heads=2, feedforward=16, repr_dim=24)
    with pytest.raises(ValueError, match="prefixes between 1 and 23"):
        TeacherWithProjector(
            config, projector=(8, 2), off_diagonal_weight=1.0, mixup_weight=0.0, prefixes=(24,)
        )
