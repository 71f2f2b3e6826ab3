"""A checkpoint: what model it is, what it was trained for, and what it costs.

It is opened as every user of a model opens it (``tasks.checkpoints``); nothing is unpickled here.
"""

from dataclasses import asdict
from pathlib import Path

from tasks.inspection.finding import Finding, Row, size_text

KIND = "checkpoint"
_FILES = ("config.json", "model.safetensors")
_ZIP_MAGIC = b"PK\x03\x04"


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder holds weights and their configuration, or a file is a released one."""
    if path.is_dir():
        return all((path / name).is_file() for name in _FILES)
    if not path.is_file() or path.suffix not in (".pt", ".pth"):
        return False
    with path.open("rb") as stream:
        return stream.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def describe_checkpoint(path: Path | str) -> Finding:
    """Open a checkpoint; ``models:/name@alias`` is fetched from the registry.

    Raises:
        ValueError: It is incomplete, or not one of this family.
    """
    from tasks.checkpoints import open_checkpoint  # torch is loaded for this kind alone

    opened = open_checkpoint(path)
    facts: Row = opened.facts() | {"parameters": opened.num_parameters}
    local = Path(path)
    if local.exists():
        files = [local] if local.is_file() else [local / name for name in _FILES]
        facts["size"] = size_text(sum(file.stat().st_size for file in files))
    normalisation = opened.encoder.normalisation
    tables = {"Statistics": _statistics(normalisation.numbers())}
    shape = asdict(opened.encoder.model.config)
    return Finding(KIND, str(path), facts | {"architecture": shape}, tables)


def _statistics(numbers: dict[str, tuple[float, ...]]) -> list[Row]:
    return [{"statistic": name, "numbers": list(values)} for name, values in numbers.items()]
