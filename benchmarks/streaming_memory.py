"""Peak memory of a process that streams, without PyTorch, which a training has beside it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.corpora import REPOSITORY, made_up, settings, write_blocks
from benchmarks.measuring import show

_PEAK = """
import sys
from pathlib import Path
from models.bands import NORMALISATIONS
from models.pools import scales
from models.views import draw_view
from tasks.params import PretrainParams
from tasks.streaming.corpus import open_corpus
from tasks.streaming.stream import open_stream
from tasks.streaming.windows import Source

folder, work, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
params = PretrainParams.model_validate_json(sys.argv[4])
source = Source(open_corpus(str(folder), "dpixels"))
stream = open_stream(source, params, 0, 1, work / "skipped.jsonl")
s2, s1 = scales(NORMALISATIONS["tessera-v2-teacher"])
largest = 0
for step in range(steps):
    for part in stream.parts(step):
        for pool, scale in ((part.held.s2, s2), (part.held.s1, s1)):
            draw_view(pool, part.at, 16, part.seeds, scale)
        largest = max(largest, part.held.nbytes)
stream.close()
status = Path("/proc/self/status").read_text().splitlines()
print(next(line for line in status if line.startswith("VmHWM")).split()[1], largest)
"""


def measure_memory(work: Path) -> dict[str, Any]:
    """Take the peak of a process that streams an epoch, and of one that only starts."""
    folder, blocks = work / "memory", 240
    write_blocks(folder, made_up(2048, 4), blocks, shard_blocks=80)
    peak, window = _peak_of(folder, work, blocks * 2048 // 1024)
    started, _ = _peak_of(folder, work, 0)
    corpus = sum(path.stat().st_size for path in folder.glob("*.arrow"))
    found = {"peak_mb": peak / 1e6, "started_mb": started / 1e6, "window_mb": window / 1e6}
    found |= {"corpus_mb": corpus / 1e6}
    show("memory", found)
    return found


def _peak_of(folder: Path, work: Path, steps: int) -> tuple[int, int]:
    params = settings(batch_size=1024, steps=max(1, steps)).model_dump_json()
    command = [sys.executable, "-c", _PEAK, str(folder), str(work), str(steps), params]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    peak, window = map(int, done.stdout.split()[-2:])
    return peak * 1024, window
