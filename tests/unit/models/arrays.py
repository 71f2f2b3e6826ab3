"""Small d-pixel blocks for the tests of `models`: random ones, and tiles turned into them."""

import numpy as np

from models.dpixel import DPixels, Series, offsets_of


def random_dpixels(
    num: int, seed: int, *, max_s2: int = 40, max_asc: int = 20, max_desc: int = 20
) -> DPixels:
    """Return d-pixels with 0..max observations of each kind, days rising within each row."""
    rng = np.random.default_rng(seed)
    return DPixels(
        np.arange(num, dtype=np.uint64),
        _random_series(rng, num, max_s2, 10, np.uint16),
        _random_series(rng, num, max_asc, 2, np.int16),
        _random_series(rng, num, max_desc, 2, np.int16),
    )


def with_counts(s2: list[int], asc: list[int], desc: list[int], seed: int = 0) -> DPixels:
    """Return d-pixels with exactly these numbers of observations."""
    rng = np.random.default_rng(seed)
    return DPixels(
        np.arange(len(s2), dtype=np.uint64),
        _series(rng, np.asarray(s2), 10, np.uint16),
        _series(rng, np.asarray(asc), 2, np.int16),
        _series(rng, np.asarray(desc), 2, np.int16),
    )


def tile_dpixels(
    s2: tuple[np.ndarray, np.ndarray, np.ndarray],
    asc: tuple[np.ndarray, np.ndarray],
    desc: tuple[np.ndarray, np.ndarray],
) -> DPixels:
    """Return the pixels of a tile, row-major: s2 = (bands, masks, doys), asc/desc = (values, doy).

    Sentinel-1 is present where VV or VH is not zero.
    """
    bands, masks, doys = s2
    height, width = masks.shape[1:]
    return DPixels(
        np.arange(height * width, dtype=np.uint64),
        _ragged(bands.astype(np.uint16), doys, masks != 0),
        *(_ragged(v.astype(np.int16), d, (v != 0).any(axis=-1)) for v, d in (asc, desc)),
    )


def _ragged(values: np.ndarray, doy: np.ndarray, valid: np.ndarray) -> Series:
    by_pixel = valid.reshape(len(doy), valid.shape[1] * valid.shape[2]).T
    pixel, time = np.nonzero(by_pixel)
    flat = values.reshape(len(doy), len(by_pixel), values.shape[-1])
    return Series(flat[time, pixel], doy[time].astype(np.int16), offsets_of(by_pixel.sum(axis=1)))


def _random_series(
    rng: np.random.Generator, num: int, largest: int, num_bands: int, dtype: type
) -> Series:
    return _series(rng, rng.integers(0, largest, num, endpoint=True), num_bands, dtype)


def _series(rng: np.random.Generator, counts: np.ndarray, num_bands: int, dtype: type) -> Series:
    total = int(counts.sum())
    values: np.ndarray = rng.integers(1, 9000, (total, num_bands)).astype(dtype)
    days = [np.sort(rng.choice(366, int(k), replace=False)) + 1 for k in counts]
    doy = np.concatenate([np.zeros(0, np.int64), *days]).astype(np.int16)
    return Series(values, doy, offsets_of(counts))
