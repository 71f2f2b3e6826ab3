"""Measure what bounds inference: everything but the model, cores, memory, and length."""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import (
    NORMALISATION,
    RESULTS,
    SIZES,
    TILE,
    all_dpixels,
    cpu_seconds,
    encoder_of,
    show,
    student_file,
    tile_root,
)
from benchmarks.released import encode_as_released
from benchmarks.tiles import write_region, write_tile
from models.architecture import StudentConfig
from models.buckets import merge_s1, normalised_s2
from models.dpixel import DPixels, Series, offsets_of
from models.encode import Encoder
from models.initialisation import initialise
from models.packing import pack
from models.quantize import quantize
from models.released import RELEASED_LADDER, read_released, write_released
from models.student import Student
from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.embed import embed_tiles
from tasks.embedding.blocks import embed_blocks, tile_blocks
from tasks.embedding.report import Options
from tasks.tiles import REGION, TileRef, read_tile

STRIP_PX = 16
LENGTHS = (4, 8, 16, 32, 64, 96, 128, 192, 256)


class InstantEncoder(Encoder):
    """Prepares every token as the engine does, and answers without computing."""

    def encode(self, dpixels: DPixels) -> np.ndarray:
        """Return the same embedding for every d-pixel."""
        s2, s1 = normalised_s2(dpixels, self.normalisation), merge_s1(dpixels, self.normalisation)
        for series in (s2, s1):
            for chunk in pack(series.offsets, self.ladder, self.max_tokens):
                torch.from_numpy(series.values[chunk.index])
                torch.from_numpy(series.doy[chunk.index].astype(np.int64))
        answer = np.linspace(-1, 1, self.dim, dtype=np.float32)
        return np.tile(answer / answer.std(), (len(dpixels), 1))


def preparation(path: Path, root: Path, work: Path) -> float:
    """Return the CPU time of a tile without its model: reading, gathering, quantising, writing."""
    instant = InstantEncoder(read_released(path), NORMALISATION, RELEASED_LADDER)
    checkpoint, out = Checkpoint(instant, digest="instant"), work / "out-instant"
    shutil.rmtree(out, ignore_errors=True)
    options = Options(dim=128, as_codes=True)
    return cpu_seconds(lambda: embed_tiles(checkpoint, root, out, options))


def measure_cores(work: Path) -> dict[str, Any]:
    """Compare one and two workers by the clock: the only figures that need an idle machine."""
    root, found = tile_root(work, 64), {}
    tile = read_tile(TileRef(TILE, root / TILE))
    (rows, dpixels), *_ = tile_blocks(tile, np.arange(tile.region.size))
    blocks = [(part, dpixels.take(part)) for part in np.array_split(rows, 8)]
    for size in SIZES:
        encoder = encoder_of(student_file(work, size)[0])
        clock: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(3):
            for workers, seconds in clock.items():
                start = time.perf_counter()
                list(embed_blocks(encoder, iter(blocks), workers=workers))
                seconds.append(time.perf_counter() - start)
        found[size] = {"two_workers_over_one": min(clock[1]) / min(clock[2])}
        show(f"cores {size}", found[size])
    return found


def measure_memory(work: Path) -> dict[str, Any]:
    """Compare the peak memory of whole processes, and take that of a large tile.

    The large tile is done whole by a narrow student, whose time is short, and for a strip of
    `STRIP_PX` rows by S: memory is that of a few blocks, wherever they lie and however many.
    """
    student_file(work, "N")
    student_file(work, "S")
    root, large = tile_root(work, 128), work / "tiles-1000"
    found = {
        "released_128_px_mb": child_peak("released", root, work),
        "engine_128_px_mb": child_peak("engine", root, work),
    }
    found["engine_over_released"] = found["engine_128_px_mb"] / found["released_128_px_mb"]
    write_tile(large / TILE, 1000, dates=70, passes=60)
    found["narrow_1000_px_mb"] = child_peak("narrow", large, work)
    strip = np.zeros((1000, 1000), np.uint8)
    strip[500 : 500 + STRIP_PX] = 1
    write_region(large / TILE / REGION, strip)
    found["s_1000_px_strip_mb"] = child_peak("strip", large, work)
    shutil.rmtree(large)
    show("memory", found)
    return found


def child_peak(what: str, root: Path, work: Path) -> float:
    """Return the peak resident memory, in MB, of a process that does one tile."""
    command = [sys.executable, "-m", "benchmarks.limits", what, str(root), str(work)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def peak_mb() -> float:
    """Return the peak resident memory of this program; `getrusage` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def do_tile(what: str, root: Path, work: Path) -> None:
    """Do one tile in this process."""
    path = work / ("S.pt" if what == "strip" else "N.pt")
    if what == "released":
        model, dpixels = read_released(path), all_dpixels(root)
        codes, scales = quantize(encode_as_released(model, dpixels, NORMALISATION, RELEASED_LADDER))
        np.save(work / "codes.npy", codes)
        np.save(work / "scales.npy", scales)
        return
    if what == "narrow":
        narrow = Student(StudentConfig(latent=4, layers=1, heads=2, feedforward=16))
        initialise(narrow, seed=1)
        write_released(path := work / "narrow.pt", narrow)
    options = Options(dim=128, as_codes=True, workers=1 if what == "engine" else 2)
    embed_tiles(open_checkpoint(path), root, work / f"out-{what}", options)


def measure_curve(work: Path) -> dict[str, Any]:
    """Take seconds per million tokens from 4 to 256 observations of each sensor."""
    encoder = encoder_of(student_file(work, "S")[0])
    blocks = {length: of_length(length, max(8, 8192 // length)) for length in LENGTHS}
    points: dict[int, float] = dict.fromkeys(LENGTHS, np.inf)
    for _ in range(4):  # in turn, so that a slow moment of the machine bends no single point
        for length, dpixels in blocks.items():
            tokens = len(dpixels.s2.doy) + int(dpixels.s1_counts.sum())
            seconds = cpu_seconds(lambda: encoder.encode(dpixels))  # noqa: B023
            points[length] = min(points[length], seconds / tokens * 1e6)
    plot_curve(points)
    found = {"cpu_s_per_million_tokens": points, "at_256_over_16": points[256] / points[16]}
    show("curve S", found)
    return found


def of_length(length: int, num: int) -> DPixels:
    """Return d-pixels with `length` observations of each sensor."""
    rng = np.random.default_rng(0)

    def series(count: int, bands: int, dtype: type) -> Series:
        values: np.ndarray = rng.integers(1, 9000, (num * count, bands)).astype(dtype)
        days = rng.integers(1, 366, num * count).astype(np.int16)
        return Series(values, days, offsets_of(np.full(num, count)))

    radar = (series(length // 2, 2, np.int16), series(length - length // 2, 2, np.int16))
    return DPixels(np.arange(num, dtype=np.uint64), series(length, 10, np.uint16), *radar)


def plot_curve(points: dict[int, float]) -> None:
    """Draw the curve; flat means that cost is linear in observations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(list(points), list(points.values()), marker="o")
    axes.set(xlabel="observations of each sensor", ylabel="CPU s per million tokens")
    axes.set(title="Student S, float32, one thread: flat is linear cost")
    axes.set_ylim(0, 1.15 * max(points.values()))
    axes.grid(alpha=0.3)
    figure.savefig(RESULTS / "cost_by_observations.png", dpi=130)


def main() -> None:
    """Do a tile as a child process and print its peak memory in MB."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=("released", "engine", "narrow", "strip"))
    parser.add_argument("root", type=Path)
    parser.add_argument("work", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    do_tile(chosen.what, chosen.root, chosen.work)
    print(peak_mb())


if __name__ == "__main__":
    main()
