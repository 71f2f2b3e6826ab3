"""The address of a target shard: a digest of everything that its bytes follow from.

The one idea: targets of another teacher, of other d-pixels, of other preprocessing or in another
number format have another address. So there is nothing to invalidate, and what lies at an address
can be stale in no way.

It deliberately does not know where targets lie, nor reads any.
"""

import ast
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from models.bands import S1_BANDS, S2_BANDS
from models.encode import Encoder
from tasks.files import canonical_json
from tasks.shards.rows import TargetDtype

FORMAT = "tessera-targets/1"
"""Layout of an entry; another one would not be found under the addresses of this one."""

SOURCES = (
    *("models.architecture", "models.bands", "models.buckets", "models.checkpoint"),
    *("models.collective", "models.dpixel", "models.encode", "models.encoder", "models.frozen"),
    *("models.linears", "models.packing", "models.precision", "models.released"),
    *("models.stages", "models.student", "models.teacher", "models.diagnostics"),
    *("tasks.shards.reader", "tasks.shards.rows", "tasks.embedding.blocks"),
    *("tasks.targets.checks", "tasks.targets.making"),
)
"""Modules that take part between the bytes of a d-pixel shard and an entry, its embeddings and what
is recorded of them; a test holds the list against their imports."""


@dataclass(frozen=True, slots=True)
class Address:
    """What the targets of one shard follow from; each a SHA-256 but the last."""

    teacher: str
    """Of the checkpoint, as ``Checkpoint.digest``."""
    preprocessing: str
    """From ``preprocessing_digest``."""
    dpixels: str
    """Of the d-pixel shard's file."""
    dtype: TargetDtype
    """Number format of the targets."""

    @property
    def digest(self) -> str:
        """The address itself."""
        facts = asdict(self) | {"format": FORMAT}
        return sha256(canonical_json(facts).encode()).hexdigest()


def preprocessing_facts(teacher: Encoder, group_rows: int) -> dict[str, Any]:
    """Return all beside weights and observations that the embeddings follow from.

    Decision: that includes what changes their last bits alone (how tokens are computed together, the
    device, the version of torch), because equal manifests promise equal bytes. The kind of processor
    does so too and is left out: machines that share a store share what one of them made.

    Args:
        teacher: Ready to encode.
        group_rows: Rows that it is given at once.
    """
    return {
        "normalisation": teacher.normalisation.digest,
        "ladder": list(teacher.ladder),
        "s2_bands": list(S2_BANDS),
        "s1_bands": list(S1_BANDS),
        "precision": teacher.precision,
        "device": teacher.device.type,
        "max_tokens": teacher.max_tokens,
        "group_rows": group_rows,
        "torch": torch.__version__,
        "code": code_digest(SOURCES),
    }


def preprocessing_digest(facts: dict[str, Any]) -> str:
    """Return the digest of ``preprocessing_facts``."""
    return sha256(canonical_json(facts).encode()).hexdigest()


@cache
def code_digest(modules: tuple[str, ...]) -> str:
    """Return the digest of what modules do.

    Decision: of their syntax trees without docstrings, so that a reworded comment does not send the
    teacher over the archive again. A version number that somebody must remember to raise would cost
    less and be wrong one day.
    """
    trees = {name: tree_of(Path(str(import_module(name).__file__))) for name in modules}
    return sha256(canonical_json(trees).encode()).hexdigest()


def tree_of(source: Path) -> str:
    """Return what a source file does, without remarks and layout."""
    tree = ast.parse(source.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]  # as just read
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    """Tell a string that stands alone: a docstring of a module, class, function or field."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
