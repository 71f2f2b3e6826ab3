"""Look into any object of this project; the door is ``tessera inspect``.

The one idea: what an object is, is read off its content, and an object may be several things at
once: the output of ``distill`` is a stage's output and a checkpoint. Each kind says what it finds.

It deliberately changes nothing and judges nothing: ``tessera validate`` does that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.errors import DataError, ParamsError
from tasks.inspection import (
    archive,
    checkpoint,
    embedding,
    record,
    shard_files,
    shards,
    stage,
    table,
    tile,
)
from tasks.inspection.finding import Finding


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    name: str
    holds: Callable[[Path], bool]
    """Whether a path is of this kind, by its content."""
    describe: Callable[[Path, bool], Finding]
    """Looks into it; the flag asks to hash what is recorded."""


def _plain(describe: Callable[[Path], Finding]) -> Callable[[Path, bool], Finding]:
    return lambda path, _: describe(path)


def _verified(describe: Callable[..., Finding]) -> Callable[[Path, bool], Finding]:
    return lambda path, verify: describe(path, verify=verify)


KINDS = (
    Kind(stage.KIND, stage.is_stage, _verified(stage.describe_stage)),
    Kind(tile.KIND, tile.is_tile, _plain(tile.describe_tile)),
    Kind(archive.KIND, archive.is_archive, _plain(archive.describe_archive)),
    Kind(table.POINTS, table.is_points, _plain(table.describe_table)),
    Kind(table.EMBEDDINGS, table.is_embeddings, _plain(table.describe_embeddings)),
    *(
        Kind(kind, partial(shard_files.is_shard, kind=kind), _verified(shards.describe_shard))
        for kind in shard_files.KINDS.values()
    ),
    Kind(shards.CORPUS, shard_files.is_corpus, _verified(shards.describe_corpus)),
    Kind(checkpoint.KIND, checkpoint.is_checkpoint, _plain(checkpoint.describe_checkpoint)),
    Kind(embedding.TILE, embedding.is_embedding, _verified(embedding.describe_embedding)),
    Kind(embedding.FOLDER, embedding.is_embedding_folder, _plain(embedding.describe_folder)),
    Kind(
        record.VERDICT,
        partial(record.is_record, kind=record.VERDICT),
        _plain(record.describe_verdict),
    ),
    Kind(
        record.CATALOGUE,
        partial(record.is_record, kind=record.CATALOGUE),
        _plain(record.describe_catalogue),
    ),
    Kind(
        record.ORIGIN, partial(record.is_record, kind=record.ORIGIN), _plain(record.describe_origin)
    ),
)


_JSON = {
    *(stage.KIND, embedding.TILE, embedding.FOLDER),
    *(record.VERDICT, record.CATALOGUE, record.ORIGIN),
}
"""Kinds that are told by JSON, which anybody may have written."""


def inspect_object(path: str, *, verify: bool = False) -> list[Finding]:
    """Look into an object.

    Args:
        path: File or folder, or ``models:/name@alias`` for a registered model.
        verify: Hash what a manifest, an index or a record lists, and compare.

    Returns:
        What it is found to be, at least one thing.

    Raises:
        ParamsError: There is nothing.
        DataError: It is nothing that is known, or is damaged.
        DigestMismatch: With ``verify``: bytes are not those that were recorded.
    """
    if path.startswith("models:"):
        return [checkpoint.describe_checkpoint(path)]
    return [_describe(kind, Path(path), verify) for kind in kinds_of(Path(path))]


def _describe(kind: Kind, path: Path, verify: bool) -> Finding:
    """Look into an object as one kind; a JSON record that lacks something is named."""
    try:
        return kind.describe(path, verify)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        if kind.name not in _JSON:
            raise
        raise DataError(
            f"a whole {kind.name}",
            found=f"{type(error).__name__}: {error}",
            where=str(path),
            mend="It is damaged, or of another version: make it again.",
        ) from error


def kinds_of(path: Path) -> list[Kind]:
    """Find what an object is.

    Raises:
        ParamsError: There is nothing.
        DataError: It is nothing that is known.
    """
    if not path.exists():
        raise ParamsError(
            "a file or folder, or models:/name@alias",
            found="nothing there",
            where=str(path),
            mend="Name one, e.g. data.",
        )
    found = [kind for kind in KINDS if kind.holds(path)]
    if not found:
        what = f"{path.stat().st_size} bytes" if path.is_file() else "other files"
        raise DataError(
            f"one of: {', '.join(kind.name for kind in KINDS)}",
            found=what,
            where=str(path),
            mend="Name the object itself; docs/data-objects.md lists what each kind consists of.",
        )
    return found


def draw_object(
    path: str, plot: Path | None, *, pixels: Sequence[str] = (), rows: Sequence[int] = ()
) -> None:
    """Draw an object into a PNG: time series of pixels, or an embedding in three colours.

    Args:
        path: File or folder.
        plot: PNG file to write.
        pixels: ``row,column`` of pixels of a tile; three spread over its region without any.
        rows: Rows of a table or of shards; three spread over it without any.

    Raises:
        ParamsError: Nothing can be drawn of this kind, or the choice does not fit it.
        DataError: The object cannot be read.
    """
    from tasks.inspection.pictures import DRAWERS, Choice

    if plot is None or plot.suffix != ".png":
        raise ParamsError(
            "a .png file to draw into",
            found="none" if plot is None else plot.name,
            where="--plot",
            mend="E.g. --plot series.png",
        )
    names = ["checkpoint"] if path.startswith("models:") else [k.name for k in kinds_of(Path(path))]
    draw = next((DRAWERS[name] for name in names if name in DRAWERS), None)
    if draw is None:
        raise ParamsError(
            f"something to draw: {', '.join(DRAWERS)}",
            found=f"{names[0]}: it has neither time series nor an image",
            where=path,
            mend="Leave --plot out.",
        )
    draw(Path(path), plot, Choice(tuple(pixels), tuple(rows)))
