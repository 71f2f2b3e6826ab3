"""Checkpoints in the layout of the released TESSERA v2 `.pt` files, read and written.

The one idea: the released files carry architecture and tensors but no band order, statistics or
ladder; those are facts of the release, given here by name: `RELEASED_LADDER`, and the
normalisations "tessera-v2-student" and "tessera-v2-teacher".

It deliberately unpickles tensors and plain values only, never code.

    student   {"args": {...}, "model": state dict}
    teacher   {"arch": {...}, "encoder_state_dict": state dict}
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.architecture import StudentConfig, TeacherConfig
from models.bands import NORMALISATIONS, Normalisation
from models.buckets import ladder
from models.checkpoint import build, checkpoint_config
from models.student import Student
from models.teacher import Teacher

RELEASED_LADDER_STEP = 8
RELEASED_LADDER_LARGEST = 256
RELEASED_LADDER = ladder(RELEASED_LADDER_STEP, RELEASED_LADDER_LARGEST)
"""Bucket lengths of the released inference code; the released weights are used with these."""

_SIZES = {
    "latent_dim": "latent",
    "num_layers": "layers",
    "nhead": "heads",
    "dim_feedforward": "feedforward",
    "repr_dim": "repr_dim",
}
# What the released loader assumes for a student file without `args`.
_DEFAULT_ARGS = {
    **{"latent_dim": 64, "num_layers": 4, "nhead": 4, "dim_feedforward": 1024},
    **{"repr_dim": 128, "matryoshka_dims": "16,32,64,128", "enable_qk_norm": False},
}
_MAX_SEQ_LEN = 256
_LARGEST = {**dict.fromkeys(_SIZES, 1 << 16), "num_layers": 256}
"""Above any model: a damaged number is refused as such, and not by a list of missing tensors."""


def read_released(path: Path) -> Student | Teacher:
    """Rebuild the student or teacher of a released `.pt` file, strictly, on the CPU.

    Raises:
        OSError: if the file cannot be read.
        ValueError: with the path, if the file holds anything but tensors and plain values, is in
            neither layout, has architecture arguments that are unknown or of another type, or
            tensors that do not fit them.
    """
    content = _unpickle(path)
    try:
        match sorted(map(str, _mapping("the file", content))):
            case ["model"]:
                return _build(_student_config(_DEFAULT_ARGS), content["model"])
            case ["args", "model"]:
                return _build(_student_config(content["args"]), content["model"])
            case ["arch", "encoder_state_dict"]:
                return _build(_teacher_config(content["arch"]), content["encoder_state_dict"])
            case keys:
                raise ValueError(
                    f"expected keys (model, args) or (encoder_state_dict, arch), got {keys}"
                )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _unpickle(path: Path) -> Any:
    """Return the content of a file, refusing all that is not a tensor or a plain value."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes the reader raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: expected tensors and plain values only, got: {reason}"
        ) from error


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a dict, got {type(value).__name__}")
    return value


def write_released(path: Path, model: Student | Teacher) -> None:
    """Write a model in the released layout, for use with the released inference code.

    That code has no place for a normalisation set or a ladder: it always uses its own.

    Raises:
        ValueError: for a teacher whose fusion layers differ from the released ones, which the
            layout cannot express.
    """
    config = model.config
    sizes = {theirs: getattr(config, ours) for theirs, ours in _SIZES.items()}
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if isinstance(config, StudentConfig):
        args = {
            **sizes,
            "max_seq_len": _MAX_SEQ_LEN,
            "matryoshka_dims": ",".join(map(str, config.prefixes)),
            "enable_qk_norm": config.qk_norm,
        }
        torch.save({"args": args, "model": tensors}, path)
        return
    if (config.fusion_layers, config.fusion_heads) != (2, 4):
        raise ValueError(
            "expected 2 fusion layers of 4 heads for the released layout, "
            f"got {config.fusion_layers} of {config.fusion_heads}"
        )
    arch = {**sizes, "final_layernorm": True}
    torch.save({"arch": arch, "encoder_state_dict": tensors}, path)


def released_normalisation(model: Student | Teacher) -> Normalisation:
    """Return the statistics that released weights of this kind were trained with."""
    kind = "student" if isinstance(model, Student) else "teacher"
    return NORMALISATIONS[f"tessera-v2-{kind}"]


def _student_config(args: object) -> StudentConfig:
    known = _arguments(args, _DEFAULT_ARGS.keys() | {"max_seq_len"}, {"max_seq_len"})
    qk_norm, dims = known["enable_qk_norm"], known["matryoshka_dims"]
    if not isinstance(qk_norm, bool):
        raise ValueError(f"enable_qk_norm: expected True or False, got {qk_norm!r}")
    if not isinstance(dims, str) or not re.fullmatch(r"\s*\d{1,6}\s*(,\s*\d{1,6}\s*)*", dims):
        raise ValueError(f"matryoshka_dims: expected numbers as in '16,32', got {dims!r}")
    prefixes = tuple(map(int, dims.split(",")))
    return StudentConfig(**_sizes(known), prefixes=prefixes, qk_norm=qk_norm)


def _teacher_config(arch: object) -> TeacherConfig:
    known = _arguments(arch, _SIZES.keys() | {"final_layernorm"}, set())
    if known["final_layernorm"] is not True:
        raise ValueError(f"final_layernorm: expected True, got {known['final_layernorm']!r}")
    return TeacherConfig(**_sizes(known))


def _arguments(args: object, known: set[str], optional: set[str]) -> Mapping[str, Any]:
    given = _mapping("architecture arguments", args)
    unknown = sorted(map(str, given.keys() - known))
    missing = sorted(known - optional - given.keys())
    if unknown or missing:
        raise ValueError(f"architecture arguments: unknown {unknown}, missing {missing}")
    return given


def _sizes(args: Mapping[str, Any]) -> dict[str, int]:
    for name, largest in _LARGEST.items():
        if type(args[name]) is not int or not 0 < args[name] <= largest:
            raise ValueError(
                f"{name}: expected a whole number of 1 to {largest}, got {args[name]!r}"
            )
    return {ours: args[theirs] for theirs, ours in _SIZES.items()}


def _build(architecture: StudentConfig | TeacherConfig, state: object) -> Student | Teacher:
    tensors = _mapping("weights", state)
    others = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"weights: expected tensors, got others: {', '.join(sorted(others))}")
    kind = "student" if isinstance(architecture, StudentConfig) else "teacher"
    config = checkpoint_config(
        architecture,
        NORMALISATIONS[f"tessera-v2-{kind}"],
        ladder_step=RELEASED_LADDER_STEP,
        ladder_largest=RELEASED_LADDER_LARGEST,
        provenance={},
    )
    return build(config, tensors)
