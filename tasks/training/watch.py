"""Eyes on a run: its speed, a collapse, and one line for whoever looks on.

The one idea: whatever is seen here changes nothing. The loop reads no number of it, so a run is the
same whether it is watched or not, on a fast machine or a slow one.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch.distributed as dist

from models.training_cost import StepCost
from tasks.progress import Line
from tasks.training.collapse import CollapseWatch
from tasks.training.metering import Metering
from tasks.training.run import Run


class Watch:
    """Follows a run from where it is now; every process has one, process 0 speaks.

    Args:
        run: The run, resumed.
        work: Folder of its measurements.
    """

    def __init__(self, run: Run, work: Path) -> None:
        self._run, self._collapse = run, CollapseWatch()
        self._metering = Metering(work, run.params, dist.get_world_size(), is_first=run.is_first)
        quiet = not run.is_first
        self._line = Line("train", run.params.steps, start=run.step, unit="steps", quiet=quiet)
        self._numbers: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._metering.flush()
        self._line.close()

    def begin(self) -> None:
        """Start the clocks of a step."""
        self._metering.begin()

    def end(self, cost: StepCost) -> None:
        """Stop them."""
        self._metering.end(self._run.step, cost)

    def show(self, record: Mapping[str, float]) -> None:
        """Show how far the run is, which has counted the step of this record."""
        if warning := self._collapse.observe(record):
            self._run.events.add("collapsed", self._run.step, warning)
        self._numbers |= {name: record[name] for name in ("loss", "probe") if name in record}
        numbers = [f"{name} {value:.4g}" for name, value in self._numbers.items()]
        self._line.show(self._run.step, "  ".join([*numbers, self._metering.note]))
