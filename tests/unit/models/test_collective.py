import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models.collective import GlobalBatchNorm, all_reduce_sum
from models.initialisation import initialise
from models.losses import barlow_twins, mixup_consistency
from models.teacher import Projector

ROWS_OF_RANK = ((0, 10), (10, 20))
NUM_RANKS = len(ROWS_OF_RANK)


def test_without_processes_the_sum_is_the_tensor_itself() -> None:
    x = torch.ones(3)
    assert all_reduce_sum(x) is x


def test_global_batch_norm_equals_that_of_torch_in_one_process() -> None:
    ours, truth = GlobalBatchNorm(4), torch.nn.BatchNorm1d(4)
    truth.load_state_dict(ours.state_dict(), strict=False)
    x = 5 + 3 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(one), truth(two), atol=1e-6, rtol=1e-5)
    (ours(one) * weight).sum().backward()
    (truth(two) * weight).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-4)


def test_global_batch_norm_keeps_its_digits_far_from_zero() -> None:
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)).double()
    expected = (x - x.mean()) / x.std(unbiased=False)
    actual = GlobalBatchNorm(1, eps=0.0)((x + 3000).float())
    torch.testing.assert_close(actual.detach().double(), expected, atol=1e-3, rtol=0)


def test_wrong_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(batch, 4\)"):
        GlobalBatchNorm(4)(torch.zeros(2, 3))


def test_two_processes_take_the_step_of_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    expected_loss, expected = _loss_and_gradients(slice(0, 20))
    _run_ranks(tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(NUM_RANKS)]
    for loss, _ in ranks:
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-12)
    for index, gradient in enumerate(expected):
        average = torch.stack([gradients[index] for _, gradients in ranks]).mean(0)
        torch.testing.assert_close(average, gradient, atol=1e-12, rtol=1e-12)


def _run_ranks(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, folder)) for rank in range(NUM_RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0] * NUM_RANKS


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=NUM_RANKS
    )
    torch.save(_loss_and_gradients(slice(*ROWS_OF_RANK[rank])), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _loss_and_gradients(rows: slice) -> tuple[Tensor, list[Tensor]]:
    """Return the whole objective and its gradient with respect to encoder and projector."""
    encoder, projector = torch.nn.Linear(5, 6), Projector(6, 8, 3)
    initialise(encoder, seed=1)
    initialise(projector, seed=2)
    encoder.double()
    projector.double()
    generator = torch.Generator().manual_seed(3)
    a, b, m = (torch.randn(20, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    za, zb, zm = (projector(encoder(x[rows])) for x in (a, b, m))
    # Each row is mixed with its neighbour in pairs, which never straddle two ranks.
    partners = torch.arange(len(za)).view(-1, 2).flip(1).flatten()
    loss = barlow_twins(za, zb, 5e-3)
    loss = loss + mixup_consistency(
        zm, za, zb, partners=partners, alpha=0.4, off_diagonal_weight=5e-3
    )
    parameters = [*encoder.parameters(), *projector.parameters()]
    return loss.detach(), list(torch.autograd.grad(loss, parameters))
