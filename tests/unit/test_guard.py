import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.settings.training import GuardParams
from tasks.training.guard import Guard


def guard(window: int = 16, sigmas: float = 4.0, patience: int = 3, rollbacks: int = 2) -> Guard:
    return Guard(GuardParams(window=window, sigmas=sigmas, patience=patience, rollbacks=rollbacks))


def fed(judge: Guard, losses: list[float]) -> Guard:
    for loss in losses:
        assert judge.judge(loss, 1.0) is None
    return judge


ORDINARY = [9.0, 11.0] * 8  # mean 10, standard deviation 1


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_skipped_from_the_first_step_on(loss: float) -> None:
    assert guard().judge(loss, 1.0) == f"loss {loss}"
    assert guard().judge(1.0, loss) == f"gradient norm {loss}"


@pytest.mark.parametrize(("loss", "skipped"), [(13.9, False), (14.1, True), (-50.0, False)])
def test_a_loss_is_skipped_above_so_many_deviations_and_never_below(
    loss: float, skipped: bool
) -> None:
    fault = fed(guard(), ORDINARY).judge(loss, 1.0)
    assert fault == ("loss 14.1, above 14" if skipped else None)


def test_a_gradient_that_grows_while_the_loss_falls_is_no_ground_to_skip() -> None:
    judge = guard()
    for step in range(40):
        assert judge.judge(10.0 - 0.2 * step, 1.3**step) is None


def test_the_first_steps_are_compared_with_nothing() -> None:
    judge = fed(guard(window=64), [10.0, 10.1] * 7 + [10.0, 1e6])
    assert judge.judge(1e9, 1.0) is not None


def test_skipped_steps_do_not_move_what_is_compared_with() -> None:
    judge = fed(guard(), ORDINARY)
    before = list(judge.accepted)
    for loss in (20.0, 19.0, math.nan):
        assert judge.judge(loss, 1.0)
    assert list(judge.accepted) == before
    assert judge.judge(14.1, 1.0)


def test_old_steps_leave_the_window() -> None:
    judge = fed(guard(), ORDINARY)
    # A slow rise is followed; at once, the same level would have been a spike.
    assert fed(judge, [10 + 0.2 * step for step in range(40)]).judge(18.5, 1.0) is None
    assert fed(guard(), ORDINARY).judge(18.5, 1.0)


def test_losses_that_hardly_differ_do_not_make_the_next_a_spike() -> None:
    judge = fed(guard(), [5.0] * 16)
    assert judge.judge(5.04, 1.0) is None
    assert judge.judge(5.2, 1.0)


def test_so_many_skips_in_a_row_are_the_end_and_an_accepted_step_begins_anew() -> None:
    judge = fed(guard(), ORDINARY)
    for loss, at_its_end in [(99, False), (99, False), (10, False), (99, False), (99, False)]:
        judge.judge(loss, 1.0)
        assert judge.is_at_its_end is at_its_end
    judge.judge(99, 1.0)
    assert judge.is_at_its_end


def test_going_back_remembers_what_was_passed_over() -> None:
    at_checkpoint = fed(guard(), ORDINARY)
    failed = Guard.restored(at_checkpoint.params, at_checkpoint.state())
    for _ in range(3):
        failed.judge(math.nan, 1.0)
    once = failed.gone_back(at_checkpoint, 5)
    assert (once.in_a_row, once.rollbacks, once.offset) == (0, 1, 5)
    assert once.accepted == at_checkpoint.accepted
    # The checkpoint knows nothing of the first time; the guard does.
    twice = once.gone_back(at_checkpoint, 4)
    assert (twice.rollbacks, twice.offset) == (2, 9)


@given(
    st.lists(st.floats(0.1, 100) | st.just(math.nan), min_size=1, max_size=60),
    st.integers(0, 59),
)
def test_a_guard_restored_anywhere_decides_as_the_one_that_went_on(
    losses: list[float], at: int
) -> None:
    through, until = guard(sigmas=1.0), guard(sigmas=1.0)
    decisions = [through.judge(loss, loss) for loss in losses]
    first = [until.judge(loss, loss) for loss in losses[:at]]
    restored = Guard.restored(until.params, until.state())
    assert first + [restored.judge(loss, loss) for loss in losses[at:]] == decisions
    assert restored == through
