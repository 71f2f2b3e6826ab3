from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.pretraining import split_pair
from models.replay import replay
from models.stages import whole
from tests.unit.models.pretraining_steps import (
    ALPHA,
    assert_equal,
    in_float32,
    make_model,
    make_pair,
    replayed,
    single_pass,
)

ROWS = 20


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("mixup", [0.0, 1.0])
@pytest.mark.parametrize("prefixes", [(), (6, 16)])
def test_replay_equals_the_single_pass(
    layers: int, mixup: float, prefixes: tuple[int, ...]
) -> None:
    model = make_model(layers=layers, mixup=mixup, prefixes=prefixes)
    loss, gradients = single_pass(model, make_pair(ROWS))
    for micro_batch in (4, 6, 64):
        again, found = replayed(model, make_pair(ROWS), micro_batch)
        assert_equal(again, loss)
        assert_equal(found, gradients)


def test_replay_keeps_its_digits_in_float32() -> None:
    exact = single_pass(make_model(), make_pair(256))[1]
    model = make_model().float()
    pair = in_float32(make_pair(256))
    single, found = (step[1] for step in (single_pass(model, pair), replayed(model, pair, 32)))
    assert _away(found, exact) < max(1e-5, 2 * _away(single, exact))


def test_replay_agrees_with_the_single_pass_in_bfloat16() -> None:
    exact = single_pass(make_model(), make_pair(256))[1]
    model = make_model().float()
    pair = in_float32(make_pair(256))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (loss, single), (again, found) = single_pass(model, pair), replayed(model, pair, 32)
    assert loss.dtype == again.dtype == torch.float32
    assert float(again) == pytest.approx(float(loss), rel=1e-4)
    # Two ways to add up the same rounded products differ by less than the rounding itself.
    assert 1e-4 < _away(single, exact) < 0.3
    assert _away(found, single) < 0.5 * _away(single, exact)


def test_an_encoder_that_draws_random_numbers_draws_the_same_in_both_passes() -> None:
    model = make_model()
    model.teacher.dim_reducer.insert(0, nn.Dropout(0.5))
    torch.manual_seed(0)
    _, found = replayed(model, make_pair(ROWS), 4)
    after = torch.rand(1)
    torch.manual_seed(0)
    rows = [model(batch, alpha=ALPHA) for batch in split_pair(make_pair(ROWS), 4)]
    assert torch.equal(torch.rand(1), after)
    assert not torch.allclose(rows[0], model(split_pair(make_pair(ROWS), 4)[0], alpha=ALPHA))
    expected = model(torch.cat(rows, dim=1), whole, alpha=ALPHA).loss
    truth = list(torch.autograd.grad(expected, list(model.parameters())))
    assert_equal(found, truth)


def test_rows_are_passed_once_for_each_sum_forward_and_backward_and_no_more() -> None:
    model, asked = make_model(layers=2), 0

    def run(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return model(*arguments, alpha=ALPHA)

    batches = split_pair(make_pair(ROWS), 4)
    list(replay(run, batches).terms)
    # Sums of the batch norm, of the standardisation, and products; the last ones have their slopes
    # from the result itself. One micro-batch finds that nothing more is asked for, one the result.
    encoded, forward, backward, again = 1, 3, 2, 1
    assert asked == len(batches) * (encoded + forward + backward + again) + 2


def _away(found: list[Tensor], truth: list[Tensor]) -> float:
    """Length of the difference of two gradients in lengths of the true one."""
    one = torch.cat([gradient.double().flatten() for gradient in found])
    two = torch.cat([gradient.double().flatten() for gradient in truth])
    return float((one - two).norm() / two.norm())
