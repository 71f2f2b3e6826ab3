"""The state of a run: what it is, how far it is, and how it comes back to where it was.

The one idea: weights and optimiser are the engine's; all else is a step and what the guard
remembers. Both go into a checkpoint and come out of it together, and the batches follow from them.
So resuming, going back and going on with other processes are one thing: load, and take the stream of
batches from there.
"""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tasks.errors import DataError
from tasks.files import sync_file
from tasks.settings.training import TrainingParams
from tasks.streaming.stream import Stream, open_stream
from tasks.training.checkpoints import (
    Found,
    Identity,
    find_checkpoint,
    forget_after,
    retire,
    save_checkpoint,
)
from tasks.training.engine import Engine
from tasks.training.events import EVENTS, Events
from tasks.training.guard import Guard
from tasks.training.objective import Objective, encoder_part
from tasks.training.records import Record, Recorder
from tasks.training.selection import Selection
from tasks.training.sharding import read_sharding
from tasks.training.universal import restore
from tasks.workspace import find_workspace


class Run:
    """A run on one of its processes.

    Args:
        objective: What is trained.
        params: Its settings.
        work: Folder of checkpoints, records and events.
        recorder: The records, kept in step.
        selection: The candidates, kept in step.
    """

    def __init__(
        self,
        objective: Objective,
        params: TrainingParams,
        work: Path,
        recorder: Recorder,
        selection: Selection | None,
    ) -> None:
        self.objective, self.params = objective, params
        self.recorder, self._selection = recorder, selection
        self._work, self._checkpoints = work, work / "checkpoints"
        self._identity = Identity(params.model_dump(mode="json"), objective.source.fingerprint)
        self.is_first = dist.get_rank() == 0
        self.events = Events(work / EVENTS, self.is_first)
        self.step, self.guard = 0, Guard(params.guard)
        self.stream = self._open_stream()
        sharding = read_sharding(find_workspace().root / params.execution.deepspeed)
        self.engine = Engine(objective.module, params, sharding, objective.backward_passes)
        self.engine.module.train()

    @property
    def batch(self) -> int:
        """Number of the batch that the next step is computed on."""
        return self.step + self.guard.offset

    def is_due(self, every: int) -> bool:
        """Whether something is due that is done every so many steps, and at the end."""
        at_interval = every > 0 and self.step % every == 0
        return at_interval or self.step == self.params.steps

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether a checkpoint is due. In the middle of skipped steps is no place to go back to."""
        return self.guard.in_a_row == 0 and self.is_due(self.params.execution.checkpoint_every)

    def resume(self) -> None:
        """Go on at the newest checkpoint, or begin, with one of the beginning to go back to."""
        found = self._find()
        if found is None or found.step == 0:
            # The beginning is made anew, not read: DeepSpeed cannot convert it for other processes.
            self.save()
        else:
            self._load(found)
            self.events.add("resumed", self.step, "resumed from its checkpoint")
            self._retire()
        self._rewind()

    def step_if_admitted(self, loss: Tensor, rate: float) -> Record:
        """Move the weights by the gradient that was gathered, if the guard admits it."""
        seen: Record = {}

        def admit(norm: float) -> bool:
            agreed_loss, agreed_norm = self.engine.agree(float(loss), norm)
            fault = self.guard.judge(agreed_loss, agreed_norm)
            if fault:
                self.events.add("skipped", self.step, f"skipped: {fault}", batch=self.batch)
            seen.update(
                loss=agreed_loss, gradient_norm=agreed_norm, skipped=float(fault is not None)
            )
            return fault is None

        self.engine.step(rate, admit)
        return seen

    def assess(self) -> Record:
        """Score the weights downstream on process 0, and offer them as a candidate."""
        whole = self.engine.weights(self.objective.module)
        if not self.is_first:
            return {}
        numbers = self.objective.assess(whole)
        if self._selection is not None:
            self._selection.offer(self.step, encoder_part(self.objective, whole), numbers)
        return numbers

    def save(self) -> None:
        """Commit a checkpoint, after the records of the steps before it."""
        if self.is_first and self.recorder.path.exists():
            sync_file(self.recorder.path)
        facts: dict[str, Any] = {
            "settings": self._identity.settings,
            "data": self._identity.data,
            "guard": self.guard.state(),
            "due": self.checkpoint_is_due,
        }
        save_checkpoint(self.engine, self._checkpoints, facts, self.step)
        self._retire()

    def go_back(self) -> None:
        """Go back to the last checkpoint that was due, and past all batches that were seen since.

        Raises:
            DataError: There is none, or the run went back too often.
        """
        failed, reached = self.guard, self.step
        found = self._find(due=True)
        where = f"steps {reached - failed.in_a_row} to {reached - 1}"
        if failed.rollbacks >= self.params.guard.rollbacks or found is None:
            raise DataError(
                f"fewer than {self.params.guard.patience} steps in a row with a loss or a gradient"
                " that is not finite or far above those before",
                found=f"{failed.in_a_row}, after going back {failed.rollbacks} times"
                if found
                else f"{failed.in_a_row}, and no checkpoint to go back to",
                where=where,
                mend="events.jsonl says what each step had. Lower learning_rate, or look for corrupt"
                " d-pixels: tessera's validate stage.",
            )
        self._load(found)
        self.guard = failed.gone_back(self.guard, reached - self.step)
        self.events.add(
            *("rolled_back", self.step),
            f"back from {where}, past {reached - self.step} batches",
            offset=self.guard.offset,
        )
        if self.is_first:
            forget_after(self._checkpoints, self.step)
        self._rewind()

    def close(self) -> None:
        """Stop reading ahead, and release the engine."""
        self.stream.close()
        self.engine.close()

    def _find(self, *, due: bool = False) -> Found | None:
        def tell(name: str, reason: str) -> None:
            self.events.add("unusable", self.step, f"checkpoint {name} is not used: {reason}")

        return find_checkpoint(self._checkpoints, self._identity, tell, due=due)

    def _load(self, found: Found) -> None:
        resized = restore(self.engine, found, self._work)
        self.step = found.step
        self.guard = Guard.restored(self.params.guard, found.manifest["guard"])
        if resized:
            before = f"{found.manifest['world']} processes at ZeRO {found.manifest['zero_stage']}"
            now = f"{dist.get_world_size()} at ZeRO {self.engine.zero_stage}"
            self.events.add("resized", self.step, f"written by {before}, read by {now}")

    def _retire(self) -> None:
        if self.is_first:
            retire(self._checkpoints, self.params.execution, self.step)

    def _rewind(self) -> None:
        """Take batches and records from the step that comes next."""
        self.stream.close()
        self.stream = self._open_stream()
        self.stream.rewind(self.batch)
        if self.is_first:
            self.recorder.rewind(self.step)
            if self._selection is not None:
                self._selection.rewind(self.step)

    def _open_stream(self) -> Stream:
        rank, world = dist.get_rank(), dist.get_world_size()
        last = self.params.model_copy(update={"steps": self.params.steps + self.guard.offset})
        skipped = self._work / f"skipped-{rank}.jsonl"
        return open_stream(self.objective.source, last, rank, world, skipped)
