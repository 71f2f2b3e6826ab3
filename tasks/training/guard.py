"""Which steps are taken: not those whose loss or gradient says that something went wrong.

The one idea: a step is judged by the steps before it, and by nothing else. Its loss and its global
gradient norm must be finite, and its loss no more than some standard deviations above the mean of the
last accepted steps; else weights and optimiser stay as they are. A run that skips too often in a row goes
back to its last checkpoint and past the data that it could not digest; one that goes back too often
ends.

It deliberately knows neither engine nor data: it is told two numbers and answers. Everything that it
remembers is in its state, so a resumed run decides as the uninterrupted one.

Decision: one-sided, since a loss that falls fast is no fault; and until a quarter of the window
is full, at least 8 steps, all that is finite is accepted: the scatter of a few steps says little.

Decision: a finite gradient norm is no ground to skip. Clipping bounds what it can do, and a sound
training may raise it tenfold within ten steps while its loss falls, as students do in their warm-up;
a limit on it would then skip every step that follows.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import Any, Self

from tasks.settings.training import GuardParams

_SLACK = 0.01
"""Share of the mean that a loss may exceed it by, however little the last steps differed."""


@dataclass(slots=True)
class Guard:
    """The judge of one run."""

    params: GuardParams
    accepted: deque[float] = field(default_factory=deque)
    """Losses of the last accepted steps."""
    in_a_row: int = 0
    """Steps that were skipped since the last accepted one."""
    rollbacks: int = 0
    """Times that the run went back."""
    offset: int = 0
    """Batches that were passed over: step k is computed on batch k + offset."""

    def judge(self, loss: float, norm: float) -> str | None:
        """Take a step into the history; say what is wrong with it, if it is to be skipped."""
        fault = self._fault(loss, norm)
        if fault:
            self.in_a_row += 1
            return fault
        self.in_a_row = 0
        self.accepted.append(loss)
        while len(self.accepted) > self.params.window:
            self.accepted.popleft()
        return None

    @property
    def is_at_its_end(self) -> bool:
        """Whether so many steps were skipped in a row that the run must go back."""
        return self.in_a_row >= self.params.patience

    def gone_back(self, to: Self, batches: int) -> Self:
        """Return the guard that goes on from a checkpoint, past batches that were seen since.

        Args:
            to: The guard as it was at the checkpoint.
            batches: Steps that were taken or skipped since.
        """
        return replace(to, in_a_row=0, rollbacks=self.rollbacks + 1, offset=self.offset + batches)

    def state(self) -> dict[str, Any]:
        """Return all that it remembers, as JSON."""
        return {
            "accepted": list(self.accepted),
            "in_a_row": self.in_a_row,
            "rollbacks": self.rollbacks,
            "offset": self.offset,
        }

    @classmethod
    def restored(cls, params: GuardParams, state: dict[str, Any]) -> Self:
        """Make the guard that ``state`` was taken from."""
        accepted = deque(float(loss) for loss in state["accepted"])
        return cls(params, accepted, *(int(state[k]) for k in ("in_a_row", "rollbacks", "offset")))

    def _fault(self, loss: float, norm: float) -> str | None:
        for name, number in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(number):
                return f"{name} {number}"
        limit = self._limit()
        return f"loss {loss:.4g}, above {limit:.4g}" if loss > limit else None

    def _limit(self) -> float:
        if len(self.accepted) < max(8, self.params.window // 4):
            return math.inf
        mean = fmean(self.accepted)
        return mean + max(self.params.sigmas * pstdev(self.accepted), _SLACK * abs(mean))
