"""Which number formats a device really computes in; an emulated one is refused with the reason.

The one idea: bfloat16 runs on any processor, but without the units for it more slowly than float32
and less exactly, and int8 products added in pairs of 16 bits overflow without a word. So formats
are admitted by what the processor says it has, and int8 by a sum whose result is known.

It deliberately offers no float16: embeddings of models trained in bfloat16 overflow in it.
"""

from typing import Literal, get_args

import torch

Precision = Literal["float32", "int8", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

WIDE_CODE = 127
"""Largest int8 weight code where products are added in 32 bits."""
NARROW_CODE = 64
"""Largest one where pairs of products are added in 16 bits: 2 * 255 * 64 < 2**15."""


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that the device does not have or only emulates.

    Raises:
        ValueError: with the reason and what to use instead.
    """
    if str(precision) == "float16":
        raise ValueError(
            "float16 is not offered: most processors only emulate it, and activations of models "
            "trained in bfloat16 overflow in it. Use float32, int8, or bfloat16 on a GPU"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "int8" and device.type != "cpu":
        raise ValueError(f"int8 runs on a CPU only, got {device}: use bfloat16 there")
    if precision == "int8" and not has_onednn():
        raise ValueError("int8 needs oneDNN, which this build of torch lacks: use float32")
    if precision == "bfloat16" and not has_bfloat16(device):
        raise ValueError(
            f"bfloat16 is only emulated on this {device.type} (no AVX512-BF16 or AMX units): "
            "slower than float32 and less exact. Use float32 or int8"
        )


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def has_onednn() -> bool:
    """Tell whether this build of torch brings oneDNN, whose kernels the CPU engine uses."""
    return bool(torch._C._has_mkldnn)


def largest_weight_code() -> int:
    """Return the largest int8 weight code whose products this processor's kernel adds exactly.

    Processors without VNNI add pairs of 8-bit products in 16 bits and saturate, silently; there
    weights keep 7 bits.

    Raises:
        ValueError: if the kernel is wrong with narrow codes too.
    """
    for code in (WIDE_CODE, NARROW_CODE):
        if int8_sum(code) == int8_sum_by_hand(code):
            return code
    raise ValueError("int8 sums are wrong on this processor: use float32")


_LENGTH = 64


def int8_sum(code: int) -> float:
    """Return 64 products of the largest activation and a weight code, added by the int8 kernel."""
    weight = torch.full((16, _LENGTH), code, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [16, _LENGTH])
    ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int32)
    x = torch.full((16, _LENGTH), 255, dtype=torch.uint8)
    sums = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return float(sums[0, 0])


def int8_sum_by_hand(code: int) -> float:
    """Return what `int8_sum` is in exact arithmetic."""
    return float(255 * code * _LENGTH)
