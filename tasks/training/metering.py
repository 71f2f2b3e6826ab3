"""How fast a training goes, what share of the machine it uses, and what that costs.

The one idea: a rate is a count over a time, and both are kept, so that any number of windows, of
interrupted runs too, adds up to the truth. Utilisation is the share of a peak that the same
process measures when it begins: a matrix product as large as the machine likes them. Processes
measure it at the same moment, since that is how they will work.

Clocks differ between two equal runs, so nothing of this is in the records that must be equal: it
goes to ``speed.jsonl`` in the work folder, to MLflow, and in sum to the stage's provenance.

A step's time begins when its batch is asked for and ends when the weights have moved. Checkpoints,
probes and the writing of records are left out; the stage's wall time has them.
"""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.training_cost import StepCost
from tasks.errors import ParamsError
from tasks.settings.training import TrainingParams
from tasks.training.records import Record, Recorder

SPEED = "speed.jsonl"
"""File of the windows, in the work folder."""
WINDOW_STEPS = 10

_SMALLEST_PRODUCT, _LARGEST_PRODUCT = 512, 8192
_PRODUCT_S = 0.015
_PEAK_ROUNDS, _PEAK_S = 3, 0.5


@dataclass(frozen=True, slots=True)
class Tariff:
    """Power and price of a training process.

    Decision: power is taken as constant, not read from a sensor: most machines offer none, and those
    of shared machines show the neighbours' work. The defaults are a server's draw shared out over
    its cores, the board power of an H100, and middle rents of both; a known figure should be given.
    """

    watts: float
    price_per_hour: float
    """In the currency of whoever states it."""

    @classmethod
    def of_process(cls, device: str, threads: int) -> "Tariff":
        """Return ``TESSERA_WATTS`` and ``TESSERA_PRICE_PER_HOUR``, or defaults for the device.

        Without them a thread draws 10 W and costs 0.05 an hour, a GPU 700 W and 2.50.

        Raises:
            ParamsError: One of them is no number of at least 0.
        """
        watts, price = (700.0, 2.5) if device == "cuda" else (10.0 * threads, 0.05 * threads)
        return cls(_given("TESSERA_WATTS", watts), _given("TESSERA_PRICE_PER_HOUR", price))


def measure_peak(precision: str = "float32", device: str = "cpu") -> float:
    """Return the operations a second of a large matrix product on the threads at hand.

    The product is made larger until it takes a while, so that many threads or a GPU are busy as
    well; the best of half a second counts, since one that other programs disturb says too little.

    Args:
        precision: ``float32`` or ``bfloat16``.
        device: ``cpu`` or ``cuda``.
    """
    size = _SMALLEST_PRODUCT
    while True:
        a = torch.ones(size, size, dtype=getattr(torch, precision), device=device)
        seconds = [_time_product(a) for _ in range(_PEAK_ROUNDS)]
        if min(seconds) > _PRODUCT_S or size == _LARGEST_PRODUCT:
            while sum(seconds) < _PEAK_S:
                seconds.append(_time_product(a))
            return 2 * size**3 / min(seconds)
        size *= 2


def _time_product(a: torch.Tensor) -> float:
    begun = time.perf_counter()
    torch.mm(a, a)
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


class Metering:
    """Times the steps of one process; process 0 writes a line every ``WINDOW_STEPS`` steps.

    Args:
        work: Folder of ``speed.jsonl``. Lines of an earlier attempt stay: that work was done too.
        params: Precision and threads.
        world: Number of processes; they do equal work.
        is_first: Whether this is process 0.
    """

    def __init__(self, work: Path, params: TrainingParams, world: int, *, is_first: bool) -> None:
        self._device = "cuda" if torch.cuda.is_available() and _on_gpu() else "cpu"
        self._tariff = Tariff.of_process(self._device, params.execution.threads)
        self._recorder = Recorder(work / SPEED) if is_first else None
        self._world = world
        self.peak = measure_peak(params.precision, self._device)
        """Operations a second that this process can reach."""
        self._cost, self._steps = StepCost(0, 0, 0, 0, 0), 0
        self._seconds = self._cpu_seconds = 0.0
        self._begun = (time.perf_counter(), time.process_time())
        self._last: Record = {}

    def begin(self) -> None:
        """Start the clocks of a step."""
        self._begun = (time.perf_counter(), time.process_time())

    def end(self, step: int, cost: StepCost) -> None:
        """Stop them.

        Args:
            step: The step, counted from 0.
            cost: Its work on this process.
        """
        self._seconds += time.perf_counter() - self._begun[0]
        self._cpu_seconds += time.process_time() - self._begun[1]
        self._cost, self._steps = self._cost + cost, self._steps + 1
        self._last = self._window(step)
        if self._steps == WINDOW_STEPS:
            self.flush()

    def flush(self) -> None:
        """Write what is left of a window."""
        if self._steps and self._recorder:
            self._recorder.add(self._last)
        self._cost, self._steps = StepCost(0, 0, 0, 0, 0), 0
        self._seconds = self._cpu_seconds = 0.0

    @property
    def note(self) -> str:
        """Speed and utilisation of the last steps, for people."""
        if not self._last:
            return ""
        rate = self._last["dpixels_per_second"]
        return f"{rate:,.0f} px/s  {self._last['utilisation']:.0%} of peak"

    def _window(self, step: int) -> Record:
        counts = {
            "step": step,
            "steps": self._steps,
            "processes": self._world,
            "seconds": self._seconds,
            "cpu_seconds": self._cpu_seconds * self._world,
            "dpixels": self._cost.dpixels * self._world,
            "tokens": self._cost.tokens * self._world,
            "flops": self._cost.flops * self._world,
            "peak_flops": self.peak * self._seconds * self._world,
            "energy_wh": self._tariff.watts * self._seconds * self._world / 3600,
            "price": self._tariff.price_per_hour * self._seconds * self._world / 3600,
            "peak_memory_mb": peak_memory_mb(self._device),
        }
        return counts | rates(counts)


def rates(counts: Record) -> Record:
    """Return what follows from counts and time: rates of all processes, utilisation 0 to 1."""
    seconds = max(counts["seconds"], 1e-9)
    per_second = {
        f"{name}_per_second": counts[name] / seconds for name in ("dpixels", "tokens", "flops")
    }
    return per_second | {"utilisation": counts["flops"] / max(counts["peak_flops"], 1e-9)}


def summarise(rows: Sequence[Record]) -> Record:
    """Add up windows; empty where there is none. Steps that were done twice count twice."""
    if not rows:
        return {}
    left_out = {"step", "processes", "utilisation", "peak_memory_mb"}
    counted = [name for name in rows[0] if name not in left_out and "_per_second" not in name]
    sums = {name: sum(row[name] for row in rows) for name in counted}
    memory = max(row["peak_memory_mb"] for row in rows)
    return sums | rates(sums) | {"peak_memory_mb": memory}


def peak_memory_mb(device: str) -> float:
    """Return the most memory that this process has held: resident, or allocated on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if not status.exists():  # no Linux; the unit is bytes there
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    # `getrusage` would count the peak of the program that started this one.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def _on_gpu() -> bool:
    return os.environ.get("DS_ACCELERATOR", "cpu") == "cuda"


def _given(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise ParamsError(
            "a number of at least 0",
            found=text,
            where=f"{name} in the environment",
            mend="State it for one training process, or unset it for the default.",
        )
    return value
