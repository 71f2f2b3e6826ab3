"""What is drawn of each kind of object that has something to draw."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ParamsError
from tasks.inspection import embedding, shard_files, shards, table, tile
from tasks.inspection.drawing import draw_image, draw_series
from tasks.inspection.series import choose_rows, series_of_rows, series_of_tile
from tasks.points import open_points
from tasks.reporting.maps import principal_colours

_PIXEL = re.compile(r"^(\d+),(\d+)$")
_MOST_SIDE_PX = 1000


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants to see."""

    pixels: tuple[str, ...] = ()
    """``row,column`` each."""
    rows: tuple[int, ...] = ()


def _draw_tile(path: Path, plot: Path, choice: Choice) -> None:
    _refuse("--rows", bool(choice.rows), "--pixels row,column")
    pixels = [_pixel(text) for given in choice.pixels for text in given.split()]
    found = series_of_tile(path, pixels)
    ref = tile.tile_ref(path)
    draw_series(plot, f"Tile {ref.name}" + (f", {ref.year}" if ref.year else ""), found)


def _pixel(text: str) -> tuple[int, int]:
    if not (found := _PIXEL.match(text)):
        raise ParamsError("row,column", found=text, where="--pixels", mend="E.g. --pixels 3,14")
    return int(found[1]), int(found[2])


def _draw_points(path: Path, plot: Path, choice: Choice) -> None:
    _refuse("--pixels", bool(choice.pixels), "--rows")
    points = open_points(path)
    rows = choose_rows(choice.rows, len(points))
    blocks = ((int(numbers[0]), dpixels) for numbers, dpixels in points.blocks())
    found = series_of_rows(blocks, rows, lambda row, _: f"pixel_id {points.ids[row]}")
    draw_series(plot, f"Point table {path.name}", found)


def _draw_shards(path: Path, plot: Path, choice: Choice) -> None:
    _refuse("--pixels", bool(choice.pixels), "--rows")
    if (
        shard_files.is_corpus(path)
        and shard_files.read_index(shard_files.folder_of(path)).kind != "dpixels"
    ):
        raise ParamsError(
            "shards of d-pixels", found="targets", where=str(path), mend="Leave --plot out."
        )
    rows = choose_rows(choice.rows, shard_files.num_rows(path))
    found = series_of_rows(
        shard_files.blocks_with(path, rows), rows, lambda _, at: _source(path, at)
    )
    draw_series(plot, f"Shards {path.name}", found)


def _source(path: Path, pixel_id: int) -> str:
    """Say which pixel of which tile, or row of which table, a d-pixel is."""
    number, place = pixel_id >> 32, pixel_id & 0xFFFFFFFF
    return f"{shards.source_name(path, number)}, pixel {place}"


def _draw_embedding(path: Path, plot: Path, choice: Choice) -> None:
    _refuse("--pixels", bool(choice.pixels), "nothing: the whole tile is drawn")
    _refuse("--rows", bool(choice.rows), "nothing: the whole tile is drawn")
    record = embedding.record_of(path) or path
    field, step = embedding.thinned_field(record, _MOST_SIDE_PX)
    (image,) = principal_colours([field])
    every = f", every {step}th pixel" if step > 1 else ""
    note = f"first three principal components of {field.shape[2]} coordinates{every}"
    draw_image(plot, f"Embedding of {record.stem}", image, note)


def _refuse(option: str, given: bool, right: str) -> None:
    if given:
        raise ParamsError(right, found=option, where="--plot", mend="That option is for others.")


DRAWERS: dict[str, Callable[[Path, Path, Choice], None]] = {
    tile.KIND: _draw_tile,
    table.POINTS: _draw_points,
    shard_files.DPIXELS: _draw_shards,
    shards.CORPUS: _draw_shards,
    embedding.TILE: _draw_embedding,
}
"""How each kind is drawn; the others have neither time series nor an image."""
