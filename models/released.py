"""Checkpoints in the layout of the released TESSERA v2 `.pt` files, read and written.

The one idea: the released files carry architecture and tensors but no band order, statistics or
ladder; those are facts of the release, given here by name: `RELEASED_LADDER`, and the
normalisations "tessera-v2-student" and "tessera-v2-teacher".

It deliberately unpickles tensors and plain values only, never code.

    student   {"args": {...}, "model": state dict}
    teacher   {"arch": {...}, "encoder_state_dict": state dict}
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
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


def read_released(path: Path) -> Student | Teacher:
    """Rebuild the student or teacher of a released `.pt` file, strictly, on the CPU.

    Raises:
        ValueError: if the file holds anything but tensors and plain values, is in neither layout,
            has architecture arguments unknown here, or tensors that do not fit them.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:  # the latter two: cut short
        reason = str(error).partition("\n")[0] or "an empty file"
        raise ValueError(
            f"{path}: expected tensors and plain values only, got: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict, got {type(content).__name__}")
    if content.keys() <= {"model", "args"} and "model" in content:
        architecture: StudentConfig | TeacherConfig = _student_config(
            content.get("args", _DEFAULT_ARGS)
        )
        return _build(path, architecture, content["model"])
    if content.keys() == {"encoder_state_dict", "arch"}:
        return _build(path, _teacher_config(content["arch"]), content["encoder_state_dict"])
    raise ValueError(
        f"{path}: expected keys (model, args) or (encoder_state_dict, arch), "
        f"got {sorted(map(str, content))}"
    )


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


def _student_config(args: Mapping[str, Any]) -> StudentConfig:
    _refuse_unknown(args, _DEFAULT_ARGS.keys() | {"max_seq_len"}, {"max_seq_len"})
    prefixes = tuple(int(k) for k in str(args["matryoshka_dims"]).split(","))
    sizes = {ours: args[theirs] for theirs, ours in _SIZES.items()}
    return StudentConfig(**sizes, prefixes=prefixes, qk_norm=args["enable_qk_norm"])


def _teacher_config(arch: Mapping[str, Any]) -> TeacherConfig:
    _refuse_unknown(arch, _SIZES.keys() | {"final_layernorm"}, set())
    if arch["final_layernorm"] is not True:
        raise ValueError(f"final_layernorm: expected True, got {arch['final_layernorm']}")
    return TeacherConfig(**{ours: arch[theirs] for theirs, ours in _SIZES.items()})


def _refuse_unknown(args: Mapping[str, Any], known: set[str], optional: set[str]) -> None:
    unknown, missing = sorted(args.keys() - known), sorted(known - optional - args.keys())
    if unknown or missing:
        raise ValueError(f"architecture arguments: unknown {unknown}, missing {missing}")


def _build(
    path: Path, architecture: StudentConfig | TeacherConfig, tensors: Mapping[str, torch.Tensor]
) -> Student | Teacher:
    kind = "student" if isinstance(architecture, StudentConfig) else "teacher"
    config = checkpoint_config(
        architecture,
        NORMALISATIONS[f"tessera-v2-{kind}"],
        ladder_step=RELEASED_LADDER_STEP,
        ladder_largest=RELEASED_LADDER_LARGEST,
        provenance={},
    )
    try:
        return build(config, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
