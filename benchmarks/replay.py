"""Measure the replay: what memory it takes instead of the single pass, and what time.

    python -m benchmarks.replay                  everything, about an hour
    python -m benchmarks.replay --only speed     one part: memory, flat, speed

The teacher has the size of the student N (1.07 million parameters), views of 16 observations, a
projector of three layers, and the mixed view; what is measured is the gradient of one step. Peaks are
those of a process of their own, above what it held with the model and before the batch was made.
Times are CPU times on one thread, in turn, the best of the rounds after one that does not count.
Results are added to `benchmarks/results/replay.json`.

| word | means |
|---|---|
| single | one pass over the batch, as torch does it |
| pieces | one pass, the encoder in pieces of as many d-pixels as the replay's micro-batch, graph kept |
| replay | embeddings first, then micro-batch by micro-batch (`models.replay`) |
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks.measuring import RESULTS, cpu_seconds, machine, show
from models.architecture import TeacherConfig
from models.initialisation import initialise
from models.pretraining import Pair, TeacherWithProjector, split_pair
from models.replay import replay
from models.stages import whole

ENCODER = TeacherConfig(
    latent=36, layers=2, heads=4, feedforward=384, repr_dim=128, fusion_layers=0
)
WIDTHS = (512, 1024)
BATCH = 4096
LARGER = (16384, 65536)
MICRO_BATCHES = (64, 128, 256)
MICRO_BATCH = 128
LENGTH, ALPHA = 16, 0.3


def make_model(width: int) -> TeacherWithProjector:
    """Return the teacher with a projector of this width."""
    model = TeacherWithProjector(
        ENCODER, projector=(width, 3), off_diagonal_weight=5e-3, mixup_weight=1.0
    )
    initialise(model, seed=1)
    return model


def make_pair(rows: int) -> Pair:
    """Return two views of made-up d-pixels."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s2, s1 = (torch.randn(rows, LENGTH, bands, generator=generator) for bands in (10, 2))
        days = [torch.randint(1, 366, (rows, LENGTH), generator=generator) for _ in range(2)]
        return s2, days[0].float(), s1, days[1].float()

    return draw(), draw()


def take_gradient(model: TeacherWithProjector, pair: Pair, mode: str, micro_batch: int) -> None:
    """Find the gradient of one step."""
    model.zero_grad(set_to_none=True)
    model.rows_at_once = micro_batch if mode == "pieces" else 0
    run = partial(model, alpha=ALPHA)
    if mode == "replay":
        for term in replay(run, split_pair(pair, micro_batch)).terms:
            torch.autograd.backward(term)
    else:
        torch.autograd.backward(run(pair, whole).loss)


def peak_of_case(mode: str, rows: int, width: int, micro_batch: int) -> float:
    """Return the peak of this process in MB above what it held before the batch was made."""
    torch.set_num_threads(1)
    model = make_model(width)
    take_gradient(model, make_pair(4), mode, micro_batch)
    before = psutil.Process().memory_info().rss
    take_gradient(model, make_pair(rows), mode, micro_batch)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak - before) / 1e6


def peak_mb(mode: str, rows: int, width: int, micro_batch: int = MICRO_BATCH) -> float:
    """Return the peak of a case, found in a process of its own."""
    case = [mode, str(rows), str(width), str(micro_batch)]
    command = [sys.executable, "-m", "benchmarks.replay", "--case", *case]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory() -> dict[str, Any]:
    """Hold the replay's peak against the single pass's at the same batch."""
    found: dict[str, Any] = {}
    for width in WIDTHS:
        single, again = (peak_mb(mode, BATCH, width) for mode in ("single", "replay"))
        found[f"width_{width}"] = {
            "single_mb": round(single),
            "replay_mb": round(again),
            "ratio": round(again / single, 3),
        }
    return {"batch": BATCH, "micro_batch": MICRO_BATCH, **found}


def measure_flat() -> dict[str, Any]:
    """Return the replay's peak at growing batches, and what the kept rows alone must take."""
    width, found = WIDTHS[0], {}
    for rows in (BATCH, *LARGER):
        kept = rows * (3 * ENCODER.repr_dim + 2 * LENGTH * (10 + 2 + 2)) * 4 / 1e6
        found[f"batch_{rows}"] = {
            "peak_mb": round(peak_mb("replay", rows, width)),
            "embeddings_and_views_mb": round(kept),
        }
    return {"width": width, "micro_batch": MICRO_BATCH, **found}


def measure_speed(rounds: int) -> dict[str, Any]:
    """Hold the replay's time against the single pass's, for several micro-batches."""
    torch.set_num_threads(1)
    pair, found = make_pair(BATCH), {}
    for width in WIDTHS:
        model = make_model(width)
        cases = [("single", 0), ("pieces", MICRO_BATCH)]
        cases += [("replay", micro_batch) for micro_batch in MICRO_BATCHES]
        seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
        for _ in range(rounds + 1):
            for case in cases:
                seconds[case].append(cpu_seconds(partial(take_gradient, model, pair, *case)))
        best = {case: min(values[1:]) for case, values in seconds.items()}
        found[f"width_{width}"] = {
            " ".join(map(str, case)).removesuffix(" 0"): {
                "cpu_s": round(value, 2),
                "of_single": round(best["single", 0] / value, 3),
            }
            for case, value in best.items()
        }
    return {"batch": BATCH, "rounds": rounds, **found}


def main() -> None:
    """Measure what is asked for and add it to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--only", choices=["memory", "flat", "speed"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        mode, *numbers = arguments.case
        sys.stdout.write(str(peak_of_case(mode, *map(int, numbers))))
        return
    path = RESULTS / "replay.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "memory": measure_memory,
        "flat": measure_flat,
        "speed": partial(measure_speed, arguments.rounds),
    }
    for name, measure in parts.items():
        if arguments.only in (None, name):
            results[name] = {"machine": machine(), **measure()}
            show(name, results[name])
            path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
