"""What all measurements share: clocks, the yardstick, made-up students and tiles, and the report."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tiles import write_tile
from models.bands import NORMALISATIONS
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.released import RELEASED_LADDER, write_released
from models.student import STUDENTS, Student
from tasks.tiles import TileRef, dpixels_of, read_tile

NORMALISATION = NORMALISATIONS["tessera-v2-student"]
RESULTS = Path(__file__).parent / "results"
TILE = "t"
SIZES = ("N", "S")


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU time of the process, all its threads, that the work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def gemm_peak() -> float:
    """Return FLOP/s of a large float32 matrix product on one thread, the best of three."""
    a = torch.rand(2048, 2048)
    return 2 * 2048**3 / min(cpu_seconds(lambda: a @ a) for _ in range(3))


def student_file(work: Path, size: str) -> tuple[Student, Path]:
    """Return a published student with random weights, and its released file."""
    student = Student(STUDENTS[size])
    initialise(student, seed=1)
    path = work / f"{size}.pt"
    write_released(path, student)
    return student, path


def encoder_of(student: Student, **settings: Any) -> Encoder:
    """Return the engine with the statistics and the ladder of the release."""
    return Encoder(student, NORMALISATION, RELEASED_LADDER, **settings)


def tile_root(work: Path, size_px: int) -> Path:
    """Return a folder with one tile, made once."""
    root = work / f"tiles-{size_px}"
    if not root.exists():
        write_tile(root / TILE, size_px)
    return root


def all_dpixels(root: Path) -> DPixels:
    """Read a whole tile."""
    tile = read_tile(TileRef(TILE, root / TILE))
    return dpixels_of(tile, np.arange(tile.region.size), 0)


def show(name: str, found: dict[str, Any]) -> None:
    """Print a part as soon as it is done."""
    rounded = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))
    print(f"{name}: {json.dumps(rounded)}", flush=True)


def machine() -> dict[str, str]:
    """Say what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": next(line.split(": ")[1] for line in lines if line.startswith("model name")),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }
