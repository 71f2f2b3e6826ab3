"""Eight-bit and half precision: exact sums, admitted formats, and fidelity on a published size."""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import models.frozen as frozen_module
import models.precision as precision_module
from models.bands import NORMALISATIONS
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.linears import (
    Int8Linear,
    PackedLinear,
    TorchLinear,
    quantize_activation,
    quantize_weight,
)
from models.precision import (
    NARROW_CODE,
    WIDE_CODE,
    Precision,
    check_precision,
    has_bfloat16,
    int8_sum,
    largest_weight_code,
)
from models.released import RELEASED_LADDER, read_released
from models.student import STUDENTS, Student
from tests.unit.models.arrays import random_dpixels, tile_dpixels

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parents[3]


def on_processor_without_vnni(code: str) -> str:
    """Run code where oneDNN is told that the processor has AVX2 and nothing newer."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_int8_sums_with_the_chosen_codes_are_exact() -> None:
    code = largest_weight_code()
    assert code in (WIDE_CODE, NARROW_CODE)
    assert int8_sum(code) == 255 * code * 64


def test_saturating_kernel_is_found_out_and_given_narrow_weights() -> None:
    found = on_processor_without_vnni(
        "from models.precision import *; from models.precision import int8_sum\n"
        "print(largest_weight_code(), int8_sum(64), int8_sum(127))"
    )
    code, narrow, wide = (float(word) for word in found.split())
    assert narrow == 255 * 64 * 64
    assert code == (WIDE_CODE if wide == 255 * 127 * 64 else NARROW_CODE)


def test_kernel_that_is_wrong_with_narrow_codes_too_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision_module, "int8_sum", lambda code: 255.0 * code * 63)
    with pytest.raises(ValueError, match="use float32"):
        largest_weight_code()


_FIDELITY = """
import torch
from tests.unit.models.test_precision import cosines
print(*cosines("{size}", "int8"))
"""


def cosines(size: str, precision: Precision) -> tuple[float, float]:
    """Return mean and worst cosine to float32 of a published size with made-up weights."""
    student = Student(STUDENTS[size])
    initialise(student, seed=1)
    dpixels = random_dpixels(200, seed=5, max_s2=70, max_asc=60, max_desc=60)
    cosine = cosine_to_float32(student, precision, dpixels)
    return float(cosine.mean()), float(cosine.min())


def real_dpixels(archive: Path) -> DPixels:
    """Return every fourth pixel of every fourth row of the archive's first tile."""
    folder = min(path.parent for path in archive.rglob("bands.npy"))
    read = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    few = {name: a[:, ::4, ::4] if a.ndim > 1 else a for name, a in read.items()}
    asc, desc = (
        (few[f"sar_{orbit}"], few[f"sar_{orbit}_doy"]) for orbit in ("ascending", "descending")
    )
    return tile_dpixels((few["bands"], few["masks"], few["doys"]), asc, desc)


def cosine_to_float32(model: Student, precision: Precision, dpixels: DPixels) -> np.ndarray:
    """Return each pixel's cosine between float32 and another precision."""
    torch.set_num_threads(1)
    arguments = (model, NORMALISATIONS["tessera-v2-student"], RELEASED_LADDER)
    exact = Encoder(*arguments).encode(dpixels)
    coarse = Encoder(*arguments, precision=precision).encode(dpixels)
    observed = ~np.isnan(exact[:, 0])
    assert np.array_equal(observed, ~np.isnan(coarse[:, 0]))
    exact, coarse = exact[observed].astype(float), coarse[observed].astype(float)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(coarse, axis=1)
    return np.asarray((exact * coarse).sum(axis=1) / norms)


@pytest.mark.parametrize("size", ["N", "S"])
def test_int8_is_as_near_to_float32_as_promised(size: str) -> None:
    mean, worst = cosines(size, "int8")
    assert mean >= 0.9999
    assert worst >= 0.9997


@pytest.mark.parametrize("name", ["student_nano", "student_qknorm"])
def test_int8_is_as_near_on_released_layouts(name: str, shared_data: Path) -> None:
    model = read_released(shared_data / "golden" / f"{name}.pt")
    assert isinstance(model, Student)
    cosine = cosine_to_float32(model, "int8", real_dpixels(shared_data / "data" / "be2018"))
    assert cosine.mean() >= 0.9999
    assert cosine.min() >= 0.9997


def test_saturated_observation_costs_no_other_pixel_its_accuracy(shared_data: Path) -> None:
    model = read_released(shared_data / "golden" / "student_nano.pt")
    assert isinstance(model, Student)
    dpixels = random_dpixels(60, seed=7)
    dpixels.s2.values[dpixels.s2.offsets[30]] = 65535
    cosine = cosine_to_float32(model, "int8", dpixels)
    assert np.delete(cosine, 30).min() >= 0.9997
    assert cosine[30] >= 0.999


def test_int8_is_as_near_without_vnni() -> None:
    mean, worst = map(float, on_processor_without_vnni(_FIDELITY.format(size="N")).split())
    assert mean >= 0.9999
    assert worst >= 0.9997


def test_emulated_bfloat16_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(ValueError, match="emulated on this cpu"):
        check_precision("bfloat16", CPU)


def test_int8_away_from_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="CPU only"):
        check_precision("int8", torch.device("cuda"))


def test_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"only emulate it.*overflow"):
        check_precision(cast(Precision, "float16"), CPU)


def test_unknown_precision_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="got 'int4'"):
        check_precision("int4", CPU)  # type: ignore[arg-type] # as a user might write it


@pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor only emulates bfloat16")
def test_bfloat16_is_near_to_float32_where_the_processor_has_it() -> None:
    mean, _ = cosines("N", "bfloat16")
    assert mean >= 0.9999


def made_up_map(rows: int = 33) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows, 24), (40, 24), (40,), (rows, 40))
    x, weight, bias, add = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias, add


@pytest.mark.parametrize("kind", ["packed", "torch"])
def test_float32_map_is_matrix_product_bias_relu_and_sum(kind: str) -> None:
    x, weight, bias, add = made_up_map()
    linear = (
        PackedLinear(weight, bias, 33)
        if kind == "packed"
        else TorchLinear(weight, bias, torch.float32)
    )
    expected = (x.double() @ weight.double().T + bias.double()).float()
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear(x, relu=True), expected.clamp_min(0))
    torch.testing.assert_close(linear(x, add=add), expected + add)


def test_int8_map_is_the_product_of_its_codes() -> None:
    x, weight, bias, add = made_up_map()
    code = largest_weight_code()
    linear = Int8Linear(weight, bias, 33, code)
    codes, scale, zero = quantize_activation(x)
    weights, scales = quantize_weight(weight, code)
    whole = (codes.double() - zero) * scale @ (weights.double() * scales.double()[:, None]).T
    expected = (whole + bias.double()).float()
    torch.testing.assert_close(linear(x), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(linear(x, relu=True), expected.clamp_min(0), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(linear(x, add=add), expected + add, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("offset", [-10.0, 0.0, 10.0])
def test_activation_comes_back_within_half_a_step(offset: float) -> None:
    x = torch.randn(50, 30, generator=torch.Generator().manual_seed(2)) + offset
    codes, scale, zero = quantize_activation(x)
    back = (codes.float() - zero) * scale
    assert ((back - x).abs() <= scale / 2 * 1.01).all()
    assert zero == (0 if offset == 10 else 128)
    assert scale.shape == (50, 1)


def test_activation_of_zeros_is_zero() -> None:
    codes, scale, zero = quantize_activation(torch.zeros(4, 8))
    assert ((codes.float() - zero) * scale == 0).all()


def test_weight_of_zeros_is_zero() -> None:
    codes, scale = quantize_weight(torch.zeros(3, 4), 127)
    assert (codes == 0).all()
    assert torch.isfinite(scale).all()


def test_build_of_torch_without_onednn_gives_the_same_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = Student(STUDENTS["N"])
    initialise(student, seed=1)
    arguments = (student, NORMALISATIONS["tessera-v2-student"], RELEASED_LADDER)
    dpixels = random_dpixels(20, seed=3)
    expected = Encoder(*arguments).encode(dpixels)
    monkeypatch.setattr(precision_module, "has_onednn", lambda: False)
    monkeypatch.setattr(frozen_module, "has_onednn", lambda: False)
    np.testing.assert_allclose(Encoder(*arguments).encode(dpixels), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="int8 needs oneDNN"):
        Encoder(*arguments, precision="int8")
