"""The training loop that teacher and students share.

What is trained is an ``Objective``; how, is here: a batch, its terms, the step, the record, and at
intervals a downstream score and a checkpoint. Everything random is a pure function of (seed, batch,
row), so a run that was killed at any step goes on to the same bytes, and the rows of a batch do not
depend on how many processes share them.
"""

import math
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from models.hashing import hash_u64
from models.training_cost import StepCost
from tasks.errors import Preempted
from tasks.settings.training import TrainingParams
from tasks.training.engine import join_world, say_if_emulated
from tasks.training.objective import Batch, Objective
from tasks.training.preemption import Preemption
from tasks.training.records import Record, Recorder
from tasks.training.run import Run
from tasks.training.selection import Selection
from tasks.training.watch import Watch

_LENGTH = 0x4C454E47  # keeps the draw of the view length apart from those of the order


def train(
    objective: Objective,
    params: TrainingParams,
    work: Path,
    recorder: Recorder,
    selection: Selection | None = None,
) -> dict[str, Tensor]:
    """Train to the last step, resuming from what ``work`` holds.

    Args:
        objective: What is trained.
        params: Steps, batch, schedule, seed.
        work: Folder of this run's checkpoints, records and events.
        recorder: Takes every step's numbers on process 0.
        selection: Takes the weights of every probe, with their score, on process 0.

    Returns:
        The encoder's last weights, whole on every process.

    Raises:
        DataError: The run went back too often, a batch needs more rows than there are, or the
            corpus is damaged.
        LineageError: ``work`` holds checkpoints of other settings or data.
        ParamsError: The file of sharding is not valid, or the processes do not divide the lanes.
        Preempted: The run was asked to end, and has saved a checkpoint.
    """
    rank, _ = join_world()
    _prepare_torch(params.execution.threads)
    if rank == 0:
        say_if_emulated(params.precision)
    run = Run(objective, params, work, recorder, selection)
    try:
        with Preemption(work) as preemption:
            run.resume()
            with Watch(run, work) as watch:
                while not _reaches_the_end(run, preemption, watch):
                    run.go_back()
        return run.engine.weights(objective.encoder)
    finally:
        run.close()


def learning_rate(step: int, params: TrainingParams) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(params.warmup_share * params.steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    along = (step - warmup) / max(1, params.steps - warmup)
    return params.learning_rate * 0.5 * (1.0 + math.cos(math.pi * along))


def _reaches_the_end(run: Run, preemption: Preemption, watch: Watch) -> bool:
    """Take the steps that are left, or as many as the guard lets pass."""
    params = run.params
    while run.step < params.steps:
        watch.begin()
        record, cost = _take_step(run)
        watch.end(cost)
        run.step += 1
        if run.is_due(params.probe_every):
            record |= run.assess()
        if run.is_first:
            run.recorder.add(record)
        watch.show(record)
        if run.guard.is_at_its_end:
            return False
        stopping = preemption.requested()
        if stopping or run.checkpoint_is_due:
            run.save()
        if stopping:
            run.events.add("stopped", run.step, "asked to end, saved a checkpoint")
            raise Preempted(run.step)
    return True


def _take_step(run: Run) -> tuple[Record, StepCost]:
    """Move the weights once, if the guard admits it; return what is recorded, and what it took."""
    params, number = run.params, run.batch
    _seed(params.seed, number)
    batch = Batch(number, run.stream.parts(number), _view_length(number, params))
    work = run.objective.work(run.engine.module, batch)
    for term in work.terms:
        run.engine.backward(term)
    rate = learning_rate(run.step, params)
    judgement = run.step_if_admitted(work.loss, rate)
    record = {"step": run.step, "batch": number, "rate": rate, **work.numbers, **judgement}
    # JSON has no word for what is not finite; the event says it.
    return {name: n for name, n in record.items() if math.isfinite(n)}, work.cost


def _view_length(batch: int, params: TrainingParams) -> int:
    """Draw the length of a batch's views; it is the same on every process."""
    lengths = params.view_lengths
    return int(lengths[int(hash_u64(params.seed, _LENGTH, batch) % np.uint64(len(lengths)))])


def _seed(seed: int, batch: int) -> None:
    """Seed every global generator for one step of this process.

    Decision: anew at every step, rather than saved and restored. So there is no state that a
    checkpoint could lack, and a step draws the same whatever was drawn before it. The models here
    draw nothing; another objective may.
    """
    drawn = int(hash_u64(seed, batch, dist.get_rank()) >> np.uint64(1))
    torch.manual_seed(drawn)
    np.random.seed(drawn % 2**32)
    random.seed(drawn)


def _prepare_torch(threads: int) -> None:
    torch.set_num_threads(threads)
    on_processor = os.environ["DS_ACCELERATOR"] == "cpu"
    # Some kernels of graphics cards have no deterministic form: there a warning names them.
    torch.use_deterministic_algorithms(mode=True, warn_only=not on_processor)
    # Filling fresh memory costs as much as the step, and nothing reads it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped module property
