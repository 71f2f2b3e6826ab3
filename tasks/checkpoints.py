"""Open a checkpoint for inference, wherever it comes from.

    artifacts/distill/S            a folder of ours
    student_small.pt               a released file, student or teacher
    models:/tessera-student@staging   a model of the registry

The one idea: the checkpoint brings its own statistics, band order and ladder, never a setting of
the caller, so whoever opens it gets the same numbers.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from models.checkpoint import (
    build,
    checkpoint_digest,
    ladder_of,
    normalisation_of,
    read_checkpoint,
    usable_prefixes,
)
from models.encode import Encoder
from models.precision import Precision
from models.released import RELEASED_LADDER, read_released, released_normalisation
from models.student import Student
from tasks.errors import DigestMismatch, LineageError, ParamsError
from tasks.files import sha256_of
from tasks.workspace import find_workspace

_REGISTRY = re.compile(r"^models:/(?P<name>[\w.-]+)(?P<at>[@/][\w.-]+)$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A frozen model, ready to encode, and what is known about it."""

    encoder: Encoder
    digest: str
    """``checkpoint_digest`` of a folder, SHA-256 of a released file."""

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Lengths at which an embedding may be cut; a teacher's full length only."""
        return usable_prefixes(self.encoder.model.config)

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.encoder.model.parameters())

    def facts(self) -> dict[str, Any]:
        """Return what every product says about its model."""
        normalisation = self.encoder.normalisation
        return {
            "kind": "student" if isinstance(self.encoder.model, Student) else "teacher",
            "checkpoint": self.digest,
            "normalisation": normalisation.name,
            "normalisation_digest": normalisation.digest,
            "ladder": list(self.encoder.ladder),
            "full_dim": self.encoder.dim,
            "prefixes": list(self.prefixes),
        }


def open_checkpoint(
    source: str | Path,
    *,
    precision: str = "float32",
    max_tokens: int | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load a student or teacher for inference.

    Args:
        source: Checkpoint folder, released ``.pt`` file, or ``models:/name@alias``.
        precision: Number format of the linear maps.
        max_tokens: Tokens computed together; ``None`` for the device's usual.
        device: ``cpu`` or ``cuda``.

    Raises:
        ParamsError: There is no such checkpoint, or the device lacks the precision.
        LineageError: The registry has no such model.
        DigestMismatch: The files changed while they were read, or since they were registered.
        ValueError: The checkpoint is incomplete or does not fit its own configuration.
    """
    if str(source).startswith("models:"):
        with tempfile.TemporaryDirectory(prefix="tessera-model-") as folder:
            fetched = _fetch(str(source), Path(folder))
            return open_checkpoint(
                fetched, precision=precision, max_tokens=max_tokens, device=device
            )
    path, place = Path(source), _device(device)
    if path.is_dir():
        digest = checkpoint_digest(path)
        state, config = read_checkpoint(path)
        model = build(config, state)
        normalisation, ladder = normalisation_of(config), ladder_of(config)
    elif path.is_file():
        digest = sha256_of(path)
        model = read_released(path)
        normalisation, ladder = released_normalisation(model), RELEASED_LADDER
    else:
        raise ParamsError(
            "a checkpoint folder, a released .pt file, or models:/name@alias",
            found="nothing there",
            where=str(source),
            mend="Name one, e.g. artifacts/distill/S.",
        )
    _require_unchanged(path, digest)
    try:
        encoder = Encoder(
            model.to(place),
            normalisation,
            ladder,
            precision=cast(Precision, precision),  # an unknown one is refused there
            max_tokens=max_tokens,
        )
    except ValueError as error:
        raise ParamsError(
            f"a precision that {device} computes in",
            found=str(error),
            where=f"precision {precision}",
            mend="float32 always works.",
        ) from error
    return Checkpoint(encoder, digest)


def _require_unchanged(path: Path, digest: str) -> None:
    """Refuse a checkpoint that was replaced while it was read: its digest would name another."""
    if (checkpoint_digest(path) if path.is_dir() else sha256_of(path)) != digest:
        raise DigestMismatch(
            f"the checkpoint {digest[:12]} to stay as it is while it is read",
            found="another",
            where=str(path),
            mend="Start again when it is complete.",
        )


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ParamsError(
            "cpu, or cuda where torch sees a GPU",
            found=f"{name}, and no GPU" if name == "cuda" else name,
            where="--device",
            mend="Leave it out to compute on the CPU.",
        )
    return torch.device(name)


def _fetch(uri: str, folder: Path) -> Path:
    """Download a registered model and hold it against its digest; return its folder.

    Raises:
        ParamsError: Not an address of a registered model.
        LineageError: The registry has no such model, or no digest of it.
        DigestMismatch: The files are not those that were registered.
    """
    from tasks.tracked_models import CHECKPOINT_TAG, download_model

    parts = _REGISTRY.match(uri)
    if not parts:
        raise ParamsError(
            "models:/name@alias or models:/name/version",
            found=uri,
            where="checkpoint",
            mend="See the names with: tessera registry",
        )
    files, tags = download_model(find_workspace(), parts["name"], parts["at"], folder)
    if CHECKPOINT_TAG not in tags:
        raise LineageError(
            f"a version with the tag {CHECKPOINT_TAG}",
            found="none",
            where=uri,
            mend="Register the model again: tessera promote",
        )
    found = checkpoint_digest(files)
    if found != tags[CHECKPOINT_TAG]:
        raise DigestMismatch(
            f"the registered checkpoint {tags[CHECKPOINT_TAG][:12]}",
            found=found[:12],
            where=uri,
            mend="The store's files were changed: restore them, or register the model again.",
        )
    return files
