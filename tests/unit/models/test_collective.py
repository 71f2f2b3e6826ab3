from pathlib import Path

import torch

from models.collective import all_reduce_sum, world_size
from tests.unit.models.processes import on_processes


def test_without_processes_the_sum_is_the_tensor_itself() -> None:
    x = torch.ones(3)
    assert world_size() == 1
    assert all_reduce_sum(x) is x


def test_sum_over_processes_and_its_gradient(tmp_path: Path) -> None:
    for world, total, slope in on_processes(2, _square_of_sum, tmp_path):
        assert world == 2
        assert total == 3.0
        # Every rank's loss is (1 + 2)^2; backward adds the slopes 2 * 3 of both.
        assert slope == 12.0


def _square_of_sum(rank: int) -> tuple[int, float, float]:
    x = torch.tensor(float(rank + 1), requires_grad=True)
    total = all_reduce_sum(x)
    (slope,) = torch.autograd.grad(total.square(), x)
    return world_size(), float(total.detach()), float(slope)
