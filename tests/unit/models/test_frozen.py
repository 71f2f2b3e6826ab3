"""The frozen branch by the kernels of a GPU, run on a CPU: shapes and numbers, not speed."""

import pytest
import torch

from models.architecture import StudentConfig
from models.buckets import ladder
from models.dpixel import offsets_of
from models.frozen import FrozenBranch
from models.initialisation import initialise
from models.linears import TorchLinear
from models.packing import pack
from models.student import Student

COUNTS = [1, 3, 9, 9, 17, 30]


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_torch_kernels_give_the_network_of_the_filled_bucket(
    dtype: torch.dtype, tolerance: float, qk_norm: bool
) -> None:
    student = Student(StudentConfig(latent=8, layers=2, heads=4, feedforward=64, qk_norm=qk_norm))
    initialise(student, seed=1)
    branch = student.s2_backbone
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(sum(COUNTS), 10, generator=generator)
    doy = torch.randint(1, 367, (sum(COUNTS),), generator=generator)
    offsets = offsets_of(torch.tensor(COUNTS).numpy())
    with torch.inference_mode():
        frozen = FrozenBranch(branch, lambda weight, bias: TorchLinear(weight, bias, dtype), 1024)
        (chunk,) = pack(offsets, ladder(1, 64), 1024)  # no repeated observation
        index = torch.from_numpy(chunk.index)
        pooled = frozen(values[index], doy[index], chunk.runs)
        assert pooled.shape == (len(COUNTS), 32)
        assert pooled.dtype == torch.float32
        for place, row in enumerate(chunk.rows):
            own = slice(int(offsets[row]), int(offsets[row + 1]))
            expected = branch(values[own][None], doy[own][None].float())[0]
            torch.testing.assert_close(pooled[place], expected, atol=tolerance, rtol=tolerance)
