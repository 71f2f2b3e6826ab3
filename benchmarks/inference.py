"""Measure inference against the released procedure: same pixels, same weights, in one run.

    python -m benchmarks.inference                 everything, about half an hour
    python -m benchmarks.inference --only curve    one part: tile, growth, cores, memory, curve

Figures are CPU time of one thread unless they say otherwise, taken in turn, and compared as ratios:
a shared machine changes its speed, not the ratio. Weights are random, on which speed does not
depend; the fidelity of int8 does, and has to be read again with trained ones. Results are added to
`benchmarks/results/inference.json`.

| word | means |
|---|---|
| whole tile | files in, to int8 codes and scales on the disk |
| useful FLOP | of the valid observations alone, without padding or repetition (`models.cost`) |
| peak | a float32 matrix product of 2048 x 2048, the best of several between the timings |
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import limits
from benchmarks.measuring import (
    NORMALISATION,
    RESULTS,
    SIZES,
    TILE,
    all_dpixels,
    cpu_seconds,
    encoder_of,
    gemm_peak,
    machine,
    show,
    student_file,
    tile_root,
)
from benchmarks.released import encode_as_released
from models.cost import Observations, count_flops
from models.dpixel import DPixels
from models.quantize import quantize
from models.released import RELEASED_LADDER
from models.student import Student
from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.embed import embed_tiles
from tasks.embedding.fidelity import cosine_of
from tasks.embedding.report import Options

ROUNDS = {"N": 3, "S": 1}  # a round of S is minutes of CPU, long enough to be steady


def released_tile(student: Student, root: Path, out: Path) -> None:
    """Do a whole tile as the released procedure does."""
    dpixels = all_dpixels(root)
    codes, scales = quantize(encode_as_released(student, dpixels, NORMALISATION, RELEASED_LADDER))
    np.save(out / f"{TILE}.npy", codes)
    np.save(out / f"{TILE}_scales.npy", scales)


def engine_tile(checkpoint: Checkpoint, root: Path, out: Path) -> None:
    """Do the same by what `tessera embed` calls, on one worker."""
    shutil.rmtree(out, ignore_errors=True)
    embed_tiles(checkpoint, root, out, Options(dim=128, as_codes=True, workers=1))


def measure_tile(work: Path, size_px: int = 128) -> dict[str, Any]:
    """Compare whole tiles, each size and precision in turn."""
    root = tile_root(work, size_px)
    dpixels = all_dpixels(root)
    found: dict[str, Any] = {"tile_px": size_px, "observations": mean_observations(dpixels)}
    for size in SIZES:
        student, path = student_file(work, size)
        opened = {name: open_checkpoint(path, precision=name) for name in ("float32", "int8")}
        seconds: dict[str, list[float]] = {"released": [], "float32": [], "int8": []}
        peaks = [gemm_peak()]
        for _ in range(ROUNDS[size]):
            seconds["released"].append(cpu_seconds(lambda: released_tile(student, root, work)))  # noqa: B023
            for name, checkpoint in opened.items():
                work_on = cpu_seconds(lambda: engine_tile(checkpoint, root, work / "out"))  # noqa: B023
                seconds[name].append(work_on)
                peaks.append(gemm_peak())
        preparation = limits.preparation(path, root, work)
        found[size] = summary(student, dpixels, seconds, preparation, max(peaks))
        show(f"tile {size}", found[size])
    return found


def summary(
    student: Student,
    dpixels: DPixels,
    seconds: dict[str, list[float]],
    preparation: float,
    peak: float,
) -> dict[str, Any]:
    """Turn times into rates, ratios and shares."""
    times = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "dpixels_per_cpu_s": {name: len(dpixels) / value for name, value in times.items()},
        "times_released": {n: times["released"] / times[n] for n in ("float32", "int8")},
        "useful_share_of_peak": useful_flops(student, dpixels) / times["float32"] / peak,
        "peak_gflops": peak / 1e9,
        "share_beside_the_model": preparation / times["float32"],
        "int8_cosine": fidelity(student, dpixels),
    }


def mean_observations(dpixels: DPixels) -> dict[str, float]:
    """Return the mean number of observations of each sensor."""
    return {"s2": float(dpixels.s2.counts.mean()), "s1": float(dpixels.s1_counts.mean())}


def useful_flops(student: Student, dpixels: DPixels) -> float:
    """Return the FLOP of all valid observations."""
    counts = np.stack([dpixels.s2.counts, dpixels.s1_counts], axis=1)
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    flops = [count_flops(student.config, Observations(int(a), int(b))) for a, b in pairs]
    return float(np.dot(flops, times))


def fidelity(student: Student, dpixels: DPixels) -> dict[str, float]:
    """Return the cosine of int8 to float32 over 1,024 pixels."""
    few = dpixels.take(np.linspace(0, len(dpixels) - 1, 1024).astype(np.int64))
    exact = encoder_of(student).encode(few)
    cosine = cosine_of(encoder_of(student, precision="int8").encode(few), exact)
    return {"mean": float(cosine.mean()), "worst": float(cosine.min())}


def measure_growth(work: Path) -> dict[str, Any]:
    """Compare rates at 64 and 128 px, which differ for the released procedure."""
    student, path = student_file(work, "N")
    checkpoint = open_checkpoint(path)
    roots = {size_px: tile_root(work, size_px) for size_px in (64, 128)}
    seconds: dict[str, dict[int, list[float]]] = {
        name: {size_px: [] for size_px in roots} for name in ("engine", "released")
    }
    for _ in range(4):  # in turn, so that a slow moment of the machine favours neither size
        for size_px, root in roots.items():
            fast = cpu_seconds(lambda: engine_tile(checkpoint, root, work / "out"))  # noqa: B023
            slow = cpu_seconds(lambda: released_tile(student, root, work))  # noqa: B023
            seconds["engine"][size_px].append(fast)
            seconds["released"][size_px].append(slow)
    found: dict[str, Any] = {
        name: {size_px: size_px**2 / min(times) for size_px, times in by_size.items()}
        for name, by_size in seconds.items()
    }
    found["rate_128_over_64"] = {
        name: found[name][128] / found[name][64] for name in ("engine", "released")
    }
    show("growth N", found)
    return found


def main() -> None:
    """Measure and keep what was asked for."""
    parts = {
        "tile": measure_tile,
        "growth": measure_growth,
        "cores": limits.measure_cores,
        "memory": limits.measure_memory,
        "curve": limits.measure_curve,
    }
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--only", choices=parts, help="one part")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / "inference.json"
    found = json.loads(target.read_text()) if target.exists() else {}
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
        for part in [only] if only else parts:
            found[part] = parts[part](Path(folder)) | {"machine": machine()}
            target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
