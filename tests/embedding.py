"""Small students, tiles and runs of ``tessera embed`` for the tests of embedding."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from models.architecture import StudentConfig
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.released import write_released
from models.student import Student
from tests.project import REPOSITORY, environment

TINY = StudentConfig(latent=4, layers=1, heads=2, feedforward=16)
Arrays = dict[str, np.ndarray]


def write_student(path: Path, *, seed: int = 1) -> Path:
    """Write a tiny student in the released layout."""
    student = Student(TINY)
    initialise(student, seed=seed)
    write_released(path, student)
    return path


def tile_arrays(
    height: int = 5, width: int = 6, *, dates: int = 8, passes: int = 5, seed: int = 0
) -> Arrays:
    """Make a tile of random numbers that no check refuses; pixel (0, 0) was never observed."""
    random = np.random.default_rng(seed)
    found: Arrays = {
        "bands": random.integers(200, 6000, (dates, height, width, 10)).astype(np.uint16),
        "masks": random.integers(0, 2, (dates, height, width)).astype(np.uint8),
        "doys": np.linspace(3, 366, dates).astype(np.uint16),
    }
    for orbit in ("sar_ascending", "sar_descending"):
        seen = random.integers(0, 2, (passes, height, width, 1))
        codes = random.integers(2000, 8000, (passes, height, width, 2)) * seen
        found[orbit] = codes.astype(np.int16)
        found[f"{orbit}_doy"] = np.linspace(1, 360, passes).astype(np.int16)
        found[orbit][:, 0, 0] = 0
    found["masks"][:, 0, 0] = 0
    return found


def write_arrays(folder: Path, arrays: Arrays) -> Path:
    """Write a tile folder."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def command(*arguments: object) -> list[str]:
    """Return the command line of ``tessera embed``."""
    return [sys.executable, "-m", "tasks.cli", "embed", *map(str, arguments)]


def run_embed(
    *arguments: object,
    code: int = 0,
    before: tuple[str, ...] = (),
    more: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Run ``tessera embed`` as a process of its own; fails the test on another exit code.

    Args:
        arguments: Of the command.
        code: Exit code that is expected.
        before: Program, with its arguments, that starts the command.
        more: Further environment.
    """
    done = subprocess.run(
        [*before, *command(*arguments)],
        cwd=REPOSITORY,
        env=environment(REPOSITORY, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done


def is_one_line(text: str) -> bool:
    """Tell whether this is an error message in one line."""
    return text.startswith("tessera: ") and len(text.splitlines()) == 1


def products(out: Path) -> dict[str, bytes]:
    """Return every byte that a run has left; its lock and unfinished work are left out."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in (".lock", ".unfinished")
    }


def records(out: Path) -> dict[str, dict[str, Any]]:
    """Return the records of finished tiles by key; fails the test if a digest does not hold."""
    found = {}
    for name, content in products(out).items():
        if name.endswith(".json"):
            record = found[name.removesuffix(".json")] = json.loads(content)
            for file, digest in record["files"].items():
                written = (out / name).with_name(file).read_bytes()
                assert digest == hashlib.sha256(written).hexdigest(), f"{name}: {file}"
    return found


def encode(encoder: Encoder, dpixels: DPixels) -> np.ndarray:
    """Encode all d-pixels at once, on one thread: kernels of two add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return encoder.encode(dpixels)
    finally:
        torch.set_num_threads(threads)
