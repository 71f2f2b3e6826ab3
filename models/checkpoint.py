"""Checkpoints: a folder of `model.safetensors` and `config.json`, strict in both directions.

The one idea: a checkpoint says everything needed to use it (architecture, band order, statistics
with their digest, bucket ladder), and whatever does not match exactly is refused by name: an
unknown key, a missing tensor, another band order, changed statistics. Nothing has a default on
reading, and nothing is unpickled.

It deliberately knows no object store and no registry, and does not write atomically: the stage that
calls it builds its folder aside. Checkpoints in the released `.pt` layout are `models.released`.
safetensors is imported where a folder is read or written: a released student needs torch and numpy.

    config.json
      format        "tessera-checkpoint/1"
      kind          "student" or "teacher"
      architecture  the fields of StudentConfig or TeacherConfig
      s2_bands, s1_bands   band order, equal to models.bands or refused
      normalisation name, the six tuples of numbers, digest
      ladder        {"step": ..., "largest": ...}
      prefixes      usable prefix lengths; for a teacher its full length only
      provenance    free: digests of data and code, seed, scores
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.architecture import StudentConfig, TeacherConfig
from models.bands import S1_BANDS, S2_BANDS, Normalisation
from models.buckets import ladder
from models.student import Student
from models.teacher import Teacher

FORMAT = "tessera-checkpoint/1"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_KEYS = {
    *("format", "kind", "architecture", "s2_bands", "s1_bands"),
    *("normalisation", "ladder", "prefixes", "provenance"),
}
_CONFIGS: dict[str, type[StudentConfig] | type[TeacherConfig]] = {
    "student": StudentConfig,
    "teacher": TeacherConfig,
}


def checkpoint_config(
    architecture: StudentConfig | TeacherConfig,
    normalisation: Normalisation,
    *,
    ladder_step: int,
    ladder_largest: int,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a complete `config.json` for a model of this architecture."""
    config = {
        "format": FORMAT,
        "kind": "student" if isinstance(architecture, StudentConfig) else "teacher",
        "architecture": asdict(architecture),
        "s2_bands": S2_BANDS,
        "s1_bands": S1_BANDS,
        "normalisation": {**asdict(normalisation), "digest": normalisation.digest},
        "ladder": {"step": ladder_step, "largest": ladder_largest},
        "prefixes": usable_prefixes(architecture),
        "provenance": dict(provenance),
    }
    plain: dict[str, Any] = json.loads(json.dumps(config))  # as it will be read back
    return plain


def write_checkpoint(
    folder: Path, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]
) -> str:
    """Write a checkpoint into a folder that holds none, config last; return its digest.

    Args:
        folder: made if absent.
        state_dict: tensors of the encoder alone, on any device.
        config: as from `checkpoint_config`.

    Returns:
        `checkpoint_digest(folder)`. Equal tensors and config give equal bytes.

    Raises:
        ValueError: if the folder holds a checkpoint already, the config is incomplete, or the
            tensors are not exactly those of the architecture.
    """
    from safetensors.torch import save_file

    if (folder / WEIGHTS_FILE).exists() or (folder / CONFIG_FILE).exists():
        raise ValueError(f"expected a folder without a checkpoint, got {folder}")
    check_config(config)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    build(config, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE)
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="ascii")
    return checkpoint_digest(folder)


def read_checkpoint(
    folder: Path, expect_digest: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (state dict, config) of a checkpoint folder, on the CPU.

    Args:
        folder: a checkpoint folder.
        expect_digest: refuse the folder unless this is its `checkpoint_digest`; None to skip.

    Raises:
        ValueError: if a file is missing or damaged, the digest differs, or the config is not
            exactly as written by this version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_complete(folder)
    if expect_digest is not None and (found := checkpoint_digest(folder)) != expect_digest:
        raise ValueError(f"{folder}: expected digest {expect_digest}, got {found}")
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="ascii"))
    check_config(config)
    try:
        return load_file(folder / WEIGHTS_FILE), config
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE}: expected safetensors, got: {error}") from error


def checkpoint_digest(folder: Path) -> str:
    """Return the hex sha256 over the sha256 of the weights, then that of the config.

    Raises:
        ValueError: if a file is missing.
    """
    _require_complete(folder)
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_model(folder: Path, expect_digest: str | None = None) -> Student | Teacher:
    """Rebuild the model of a checkpoint folder, strictly, on the CPU.

    Raises:
        ValueError: as `read_checkpoint` and `build`.
    """
    state_dict, config = read_checkpoint(folder, expect_digest)
    return build(config, state_dict)


def load_student(folder: Path, expect_digest: str | None = None) -> Student:
    """Rebuild a student, refusing a teacher. Raises as `load_model`."""
    model = load_model(folder, expect_digest)
    if not isinstance(model, Student):
        raise ValueError(f"{folder}: expected a student, got a teacher")
    return model


def load_teacher(folder: Path, expect_digest: str | None = None) -> Teacher:
    """Rebuild a teacher, refusing a student. Raises as `load_model`."""
    model = load_model(folder, expect_digest)
    if not isinstance(model, Teacher):
        raise ValueError(f"{folder}: expected a teacher, got a student")
    return model


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Student | Teacher:
    """Return the model that a checked config describes, holding exactly these tensors.

    Raises:
        ValueError: naming every tensor that is missing, unknown, of another shape, or not float32.
    """
    architecture = architecture_of(config)
    with torch.device("meta"):  # no memory and no random numbers for weights about to be replaced
        model = (
            Student(architecture)
            if isinstance(architecture, StudentConfig)
            else Teacher(architecture)
        )
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    faults = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [f"unknown {name}" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"{name}: expected float32 {expected[name]}, got {state_dict[name].dtype} {found[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name] or state_dict[name].dtype != torch.float32
    ]
    if faults:
        raise ValueError("expected the tensors of the architecture, got: " + "; ".join(faults))
    model.load_state_dict(dict(state_dict), strict=True, assign=True)
    return model


def architecture_of(config: Mapping[str, Any]) -> StudentConfig | TeacherConfig:
    """Return the architecture of a config.

    Raises:
        ValueError: for an unknown kind, or fields that are not exactly those of the architecture.
    """
    if config["kind"] not in _CONFIGS:
        raise ValueError(f"kind: expected student or teacher, got {config['kind']!r}")
    kind = _CONFIGS[config["kind"]]
    given = config["architecture"]
    _expect_keys("architecture", given, {field.name for field in fields(kind)})
    return kind(**{name: _tuple_if_list(value) for name, value in given.items()})


def usable_prefixes(architecture: StudentConfig | TeacherConfig) -> tuple[int, ...]:
    """Return the prefix lengths that are embeddings; a teacher's coordinates have no order."""
    if isinstance(architecture, StudentConfig):
        return architecture.prefixes
    return (architecture.repr_dim,)


def normalisation_of(config: Mapping[str, Any]) -> Normalisation:
    """Return the normalisation statistics of a config.

    Raises:
        ValueError: if the numbers do not have the digest that stands beside them.
    """
    given = config["normalisation"]
    _expect_keys("normalisation", given, {*(f.name for f in fields(Normalisation)), "digest"})
    numbers = {name: _tuple_if_list(value) for name, value in given.items() if name != "digest"}
    normalisation = Normalisation(**numbers)
    if normalisation.digest != given["digest"]:
        raise ValueError(
            f"normalisation {normalisation.name}: expected digest {given['digest']}, "
            f"got {normalisation.digest}"
        )
    return normalisation


def ladder_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the bucket lengths of a config."""
    _expect_keys("ladder", config["ladder"], {"step", "largest"})
    return ladder(config["ladder"]["step"], config["ladder"]["largest"])


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a config that is not complete and consistent.

    Raises:
        ValueError: naming the field, what was expected and what was found.
    """
    _expect_keys("config", config, _KEYS)
    _expect("format", config["format"], FORMAT)
    _expect("s2_bands", list(config["s2_bands"]), list(S2_BANDS))
    _expect("s1_bands", list(config["s1_bands"]), list(S1_BANDS))
    architecture = architecture_of(config)
    _expect("prefixes", list(config["prefixes"]), list(usable_prefixes(architecture)))
    normalisation_of(config)
    ladder_of(config)


def _require_complete(folder: Path) -> None:
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"expected a checkpoint folder with {name}, got {folder}")


def _expect(field: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{field}: expected {expected}, got {found}")


def _expect_keys(where: str, found: Mapping[str, Any], expected: set[str]) -> None:
    missing, unknown = sorted(expected - found.keys()), sorted(found.keys() - expected)
    if missing or unknown:
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}")


def _tuple_if_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
