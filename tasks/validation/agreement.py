"""Hold the files of one tile against each other: do they show the same place?

A file that was exchanged with another tile's, turned or mirrored keeps every statistic of its own.
Only together with the others does it look wrong: clouds are not where the masks have them, fields
are not where the radar has them. The one idea: measure the agreement as the files lie, and again
with one of them mirrored and shifted. Those are what chance gives in this very landscape, so no
limit has to be guessed: right files agree better than all of them, foreign files do not. A move that
leaves the landscape as it was, such as mirroring along a straight coast, gives no chance agreement
but the right one, so it is left out.

Small tiles (under 32 pixels a side) and tiles without structure are not judged: nothing can be told
there.
"""

from collections.abc import Iterator

import numpy as np

from models.bands import S2_BANDS
from tasks.validation.band_order import Flags, Floats

MIN_SIDE_PX = 32
"""Smallest tile side whose masks are held against its images."""

MIN_PLACE_SIDE_PX = 40
"""Smallest tile side whose radar is held against its images: fewer fields agree by chance."""

_BLUE, _GREEN, _SWIR = (S2_BANDS.index(band) for band in ("B02", "B03", "B11"))
# Snow is bright and, unlike cloud, dark at 1.6 um: NDSI = (B03 - B11) / (B03 + B11) above 0.4
# (Hall et al. 1995). Water has such an index too, and is dark.
_SNOW_MIN_NDSI = 0.4
_SNOW_MIN_DN = 1100
_MIN_PARTIAL = 0.05  # share of a date's pixels that must be masked, and that must be clear
_MIN_PARTIAL_DATES = 5
_NUM_COMPONENTS = 5  # of the ten mean bands; the rest is noise
_MIN_STRUCTURE = 3.0  # variance of the mean map over what the variation in time alone would leave
_MIN_SEEN = 0.5  # share of a tile's pixels; a corner of it is like many other places
_MAX_DN = 8000  # undetected cloud must not dominate a mean
_MAX_LIKENESS = (
    0.64  # share of variance (correlation 0.8) by which a moved copy is like the original
)
_BRIGHT_BLUE_DN = 2500  # salt and snow are as bright as cloud: what differs there is not the cloud


def is_snow(values: Floats) -> Flags:
    """Whether each observation is of snow.

    Args:
        values: (..., 10) DN.

    Returns:
        (...), by the index of Hall et al. (1995).
    """
    green, swir = values[..., _GREEN], values[..., _SWIR]
    index_holds = (green - swir) > _SNOW_MIN_NDSI * (green + swir)
    return np.asarray(index_holds & (green > _SNOW_MIN_DN))


def mask_fit(values: Floats, clear: Flags) -> float | None:
    """Return how much better the masks fit the images than masks that know nothing of them.

    On a partly clouded date, masked pixels are cloud or shadow: their blue reflectance is farther
    from what the pixel shows on clear dates than that of clear pixels.

    Args:
        values: (T, H, W, 10) DN.
        clear: (T, H, W), True where marked clear.

    Returns:
        Difference of log reflectance, averaged over partly clouded dates, above the best of the
        moved masks; positive where they fit. None where the tile is too small, hardly clouded, as
        bright as cloud, or its masks are alike however they are moved.
    """
    if min(clear.shape[1:]) < MIN_SIDE_PX:
        return None
    blue = np.log(np.maximum(values[..., _BLUE], 1.0))
    bare = ~is_snow(values)  # a pixel under snow for half of the year has no usual brightness
    usual = (blue * (clear & bare)).sum(axis=0) / np.maximum((clear & bare).sum(axis=0), 1)
    judged = (values > 0).any(axis=-1) & bare & (usual < np.log(_BRIGHT_BLUE_DN))
    masked, clear = ~clear & judged, clear & judged
    partial = (clear.mean(axis=(1, 2)) > _MIN_PARTIAL) & (masked.mean(axis=(1, 2)) > _MIN_PARTIAL)
    if partial.sum() < _MIN_PARTIAL_DATES:
        return None
    unusual = np.abs(blue - usual)[partial]
    clear, masked = clear[partial], masked[partial]
    seen = clear | masked
    chance = [
        _contrast(unusual, c & seen, m & seen)
        for c, m in zip(_moved(clear), _moved(masked), strict=True)
        if _likeness(masked, m) < _MAX_LIKENESS
    ]
    return _contrast(unusual, clear, masked) - max(chance) if chance else None


def place_fit(values: Floats, clear: Flags, codes: Floats) -> float | None:
    """Return how much better radar fits the optical images than radar of another place.

    Args:
        values: (T, H, W, 10) DN.
        clear: (T, H, W), True where the optical observation is usable.
        codes: (T', H, W, 2) radar codes of one orbit, 0 in both for no data.

    Returns:
        Share of the spatial variance of the mean radar maps that the mean optical maps explain,
        above the best of the moved radar maps; positive where they show the same place. None where
        the tile is too small, hardly seen, has no structure in one of them, or is alike however it
        is moved.
    """
    seen = (codes != 0).any(axis=-1)
    optical = _mean_map(np.minimum(values, _MAX_DN), clear)
    radar = _mean_map(codes, seen)
    if min(clear.shape[1:]) < MIN_PLACE_SIDE_PX or optical is None or radar is None:
        return None
    spectra = np.log(np.maximum(optical.reshape(-1, len(S2_BANDS)), 1.0))
    components = np.linalg.svd(spectra - spectra.mean(axis=0), full_matrices=False)[0]
    basis = components[:, :_NUM_COMPONENTS]
    maps, scene = np.moveaxis(radar, -1, 0), np.moveaxis(np.log(np.maximum(optical, 1.0)), -1, 0)
    chance = [
        _explained(basis, moved)
        for moved, landscape in zip(_moved(maps), _moved(scene), strict=True)
        if _explained(basis, landscape) < _MAX_LIKENESS
    ]
    return _explained(basis, maps) - max(chance) if chance else None


def _moved(maps: Floats | Flags) -> Iterator[Floats | Flags]:
    """Yield mirrored and shifted copies of (N, H, W)."""
    height, width = maps.shape[1] // 2, maps.shape[2] // 2
    yield maps[:, ::-1]
    yield maps[:, :, ::-1]
    yield maps[:, ::-1, ::-1]
    yield np.roll(maps, height, axis=1)
    yield np.roll(maps, width, axis=2)
    yield np.roll(maps, (height, width), axis=(1, 2))


def _likeness(maps: Floats | Flags, moved: Floats | Flags) -> float:
    """Return the squared correlation of (N, H, W) maps with moved ones, each map about its mean."""
    one, other = (m - m.mean(axis=(1, 2), keepdims=True) for m in (maps, moved))
    return float((one * other).sum() ** 2 / max((one**2).sum() * (other**2).sum(), 1e-9))


def _contrast(unusual: Floats, clear: Floats | Flags, masked: Floats | Flags) -> float:
    """Average the difference masked minus clear, dates weighing by their number of pairs."""
    num_clear, num_masked = clear.sum(axis=(1, 2)), masked.sum(axis=(1, 2))
    inside = (unusual * masked).sum(axis=(1, 2)) / np.maximum(num_masked, 1)
    outside = (unusual * clear).sum(axis=(1, 2)) / np.maximum(num_clear, 1)
    weight = num_clear.astype(np.float64) * num_masked
    return float(((inside - outside) * weight).sum() / max(weight.sum(), 1.0))


def _mean_map(values: Floats, usable: Flags) -> Floats | None:
    """Average over time, unseen pixels as the average pixel; None if only noise, or a corner."""
    seen = usable.any(axis=0)
    if seen.mean() < _MIN_SEEN:
        return None
    count = np.maximum(usable.sum(axis=0), 1)[..., None]
    chosen = usable[..., None]
    mean: Floats = (values * chosen).sum(axis=0) / count
    noise = ((values - mean) ** 2 * chosen).sum(axis=0) / count**2
    structure = mean[seen].var(axis=0) / np.maximum(noise[seen].mean(axis=0), 1e-9)
    mean[~seen] = mean[seen].mean(axis=0)
    return mean if structure.max() > _MIN_STRUCTURE else None


def _explained(basis: Floats, maps: Floats | Flags) -> float:
    flat = np.moveaxis(maps, 0, -1).reshape(len(basis), -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    return float(((basis.T @ flat) ** 2).sum() / max((flat**2).sum(), 1e-9))
