"""The maps of the report: which tiles, which label, which colours.

It deliberately draws nothing itself; pixels become pictures in ``tasks.reporting.maps``.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.archive import Archive
from tasks.evaluation.ground import GROUP_LABEL, read_label
from tasks.progress import say
from tasks.reporting.facts import Facts, Run
from tasks.reporting.maps import Palette, embedding_maps, label_map, true_colours
from tasks.scores import read_scores
from tasks.tiles import Array

_MOST_MAPS = 24
_COLOUR = re.compile(r"#?[0-9a-fA-F]{6}")
_COLOURS = (
    *("#e8c548", "#2f9e44", "#3b7dd8", "#d9534f", "#8e5bb5", "#e08a2c"),
    *("#4fb3a5", "#a8643c", "#c9579b", "#7f8c3a", "#5b6bbf", "#9aa0a6"),
)


def map_facts(run: Run, archive: Archive) -> Facts:
    """Return the maps of the first tiles of every year, newest year first; none without tiles."""
    entries = archive.catalogue.entries
    if not entries:
        nothing: Facts = {"maps": [], "years": [], "legend": [], "label_name": ""}
        return nothing | {"maps_left_out": 0}
    years = sorted({entry.year for entry in entries}, reverse=True)
    each = max(1, _MOST_MAPS // len(years))
    shown = [i for y in years for i in [n for n, e in enumerate(entries) if e.year == y][:each]]
    folders = [run.folders["export"] / entries[index].key for index in shown]
    embedded = embedding_maps([_layers(folder) for folder in folders])
    colours = true_colours([archive.tiles[index] for index in shown])
    name = _label_name(run, archive)
    labels = [_label(archive, index, name) for index in shown]
    palette = _palette(archive, name, labels)
    maps = []
    for index, embedding, colour, label in zip(shown, embedded, colours, labels, strict=True):
        height, width = archive.tiles[index].shape
        views = [("embedding", embedding), ("true colour", colour)]
        views += [] if label is None else [(str(name), label_map(label, palette))]
        tile = archive.tiles[index].ref.name
        size = f"{height} x {width} px"
        maps.append({"tile": tile, "year": entries[index].year, "size": size, "views": views})
    legend = [(_css(rgb), palette.names[code]) for code, rgb in palette.colours.items()]
    return {
        "maps": maps,
        "years": years,
        "legend": legend,
        "label_name": name or "",
        "maps_left_out": len(entries) - len(shown),
    }


def _layers(folder: Path) -> tuple[Array, Array]:
    name = folder.name
    codes = np.load(folder / f"{name}.npy", mmap_mode="r")
    return codes, np.load(folder / f"{name}_scales.npy", mmap_mode="r")


def _label_name(run: Run, archive: Archive) -> str | None:
    """Return the classification label to show: land cover if there is one, else the first."""
    scored = read_scores(run.folders["evaluate"])["tasks"]
    names = {row["task"] for row in scored if row["type"] == "classification"}
    if not names:
        every = range(len(archive.catalogue))
        names = {
            name
            for name in archive.catalogue.label_names()
            if name != GROUP_LABEL
            and any(
                (r := _label(archive, i, name)) is not None and r.dtype.kind != "f" for i in every
            )
        }
    return min(names, key=lambda name: (name != "land_cover", name), default=None)


def _label(archive: Archive, index: int, name: str | None) -> Array | None:
    """Return a label raster with 0 wherever it has no value."""
    found = read_label(archive, index, name) if name else None
    return None if found is None else np.where(found[1], found[0], np.zeros_like(found[0]))


def _palette(archive: Archive, name: str | None, labels: Sequence[Array | None]) -> Palette:
    """Name and colour the codes: as the archive's ``labels/<name>.json`` says, else by rank."""
    path = archive.catalogue.legend(name) if name else None
    known = {} if path is None else read_legend(path)
    present = [np.unique(label) for label in labels if label is not None]
    codes = sorted({int(code) for unique in present for code in unique} - {0})
    colours, names = {}, {}
    for rank, code in enumerate(codes):
        facts = known.get(str(code), {})
        colours[code] = _rgb(facts.get("colour", _COLOURS[rank % len(_COLOURS)]))
        names[code] = facts.get("name", str(code))
    return Palette(colours, names)


def read_legend(path: Path) -> dict[str, dict[str, str]]:
    """Read a legend: per class code an object with ``name`` and ``colour`` (``#rrggbb``).

    Returns:
        What it says; nothing where it is malformed, which is printed: it is only decoration.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        return _ignored(path, str(error))
    if not isinstance(content, dict):
        return _ignored(path, "it is not an object")
    for code, facts in content.items():
        if not (isinstance(facts, dict) and all(isinstance(v, str) for v in facts.values())):
            return _ignored(path, f"{code} is not an object of texts")
        if not _COLOUR.fullmatch(facts.get("colour", "#000000")):
            return _ignored(path, f"the colour of {code} is not like #2f9e44")
    return content


def _ignored(path: Path, reason: str) -> dict[str, dict[str, str]]:
    say(f"report: {path.name} is not used, colours are the default ones: {reason}")
    return {}


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _css(rgb: tuple[int, int, int]) -> str:
    return "#" + bytes(rgb).hex()
