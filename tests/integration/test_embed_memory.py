"""Memory of ``tessera embed`` on a tile whose arrays are larger than what it may hold."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.embedding import write_student
from tests.project import REPOSITORY, environment
from tests.unit.test_tiles import write_raster

SIZE_PX, DATES, PASSES = 1000, 70, 60
STRIP = slice(500, 504)
PEAK = """
import sys
from tasks.cli import main
try:
    main()
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tile of 1,000 x 1,000 px, 1.9 GB: zeros in sparse files, but for `STRIP`; a region of its own."""
    root = tmp_path_factory.mktemp("large")
    (folder := root / "t").mkdir()
    square = (SIZE_PX, SIZE_PX)
    shapes = {"bands": (DATES, *square, 10), "masks": (DATES, *square)}
    shapes |= {f"sar_{orbit}": (PASSES, *square, 2) for orbit in ("ascending", "descending")}
    kinds = {"bands": np.uint16, "masks": np.uint8}
    for name, shape in shapes.items():
        kind = kinds.get(name, np.int16)
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        if name in kinds:
            array[::2, STRIP] = 1 if name == "masks" else 3000
    np.save(folder / "doys.npy", np.arange(1, DATES + 1, dtype=np.uint16))
    for orbit in ("ascending", "descending"):
        np.save(folder / f"sar_{orbit}_doy.npy", np.arange(1, PASSES + 1, dtype=np.int16))
    region = np.zeros(square, np.uint8)
    region[:900] = 1
    write_raster(folder / "roi.tiff", region)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_tile_larger_than_memory_may_be_needs_little(
    precision: str, large: Path, tmp_path: Path
) -> None:
    student = write_student(tmp_path / "s.pt")
    files = ("--checkpoint", student, "--tiles", large, "--out", tmp_path / "out")
    options = ("--precision", precision, "--int8", "--workers", "2")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "embed", *files, *options],
        env=environment(REPOSITORY),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    embedded = np.isfinite(np.load(tmp_path / "out" / "t_scales.npy"))
    assert embedded[STRIP].all()
    assert embedded.sum() == embedded[STRIP].size
    peak_mb = int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024
    assert 100 < peak_mb < 900
