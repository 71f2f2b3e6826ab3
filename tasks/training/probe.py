"""The probe: what an encoder is worth downstream, often and cheaply, while it is being trained.

The one idea: labelled d-pixels are drawn once, from ground that the evaluation leaves out, and kept
in one small file. A score is then one encoding of them and a few closed-form ridge regressions, out
of fold by groups: the mean over tasks of chance-adjusted balanced accuracy and clipped R2, as in the
evaluation. It ranks checkpoints; what is reported of a model is the evaluation's score.

It deliberately has no tuning and no fitting that iterates; ``tasks.evaluation.probes`` has that.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no types

from models.dpixel import DPixels, Series
from models.encode import Encoder
from models.ridge import classify_out_of_fold, regress_out_of_fold
from models.scores import chance_adjusted_accuracy, clipped_r2, composite
from tasks.errors import DataError
from tasks.evaluation.labels import Task
from tasks.evaluation.resampling import resampled_scores
from tasks.files import write_bytes
from tasks.training.selection import PROBE

_PENALTY = 10.0  # as of the evaluation's ridge regression
_SENSORS = ("s2", "s1_asc", "s1_desc")
_ARRAYS = ("tile", "row", "group", "value")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A task with its d-pixels found and its folds drawn."""

    task: Task
    at: Ints
    """(n,) where the d-pixels of the task are among all of the probe."""
    fold: Ints
    """(n,) fold of each; groups are never parted."""

    def scores(
        self, embedding: npt.NDArray[np.float32], widths: Sequence[int]
    ) -> dict[int, tuple[float, npt.NDArray[np.generic]]]:
        """Return score and predictions by prefix length."""
        task, features = self.task, embedding[self.at]
        if task.kind == "regression":
            found = regress_out_of_fold(features, task.value, self.fold, widths, _PENALTY)
            return {k: (clipped_r2(task.value, guess), guess) for k, guess in found.items()}
        codes = np.array(task.classes)
        guesses = classify_out_of_fold(features, task.stratum, self.fold, widths, _PENALTY)
        return {
            k: (chance_adjusted_accuracy(task.value, codes[guess], len(codes)), codes[guess])
            for k, guess in guesses.items()
        }


@dataclass(frozen=True, eq=False)
class Probe:
    """Labelled d-pixels in memory, ready to score an encoder."""

    dpixels: DPixels
    tasks: tuple[Labelled, ...]
    seed: int
    bootstrap: int

    def score(self, encoder: Encoder, prefixes: Sequence[int] = ()) -> dict[str, float]:
        """Score an encoder.

        Args:
            encoder: Full series are encoded, as in use.
            prefixes: Lengths below the full one that are scored too.

        Returns:
            ``probe``, which ranks, ``probe_error``, its standard error by resampled groups,
            ``probe_<k>`` by prefix, and ``probe_task_<name>`` at the full length.

        Raises:
            DataError: An embedding is not finite.
        """
        embedding = encoder.encode(self.dpixels)
        _require_finite(embedding)
        widths = sorted({*prefixes, encoder.dim})
        # One thread: the last bits of a sum must not depend on how many there are.
        with threadpool_limits(1, user_api="blas"):
            found = {t.task.name: (t.task, t.scores(embedding, widths)) for t in self.tasks}
        full = {name: scores[encoder.dim] for name, (_, scores) in found.items()}
        numbers = {PROBE: composite({name: score for name, (score, _) in full.items()})}
        draws = [
            resampled_scores(task, full[name][1], seed=self.seed, bootstrap=self.bootstrap)
            for name, (task, _) in found.items()
        ]
        numbers["probe_error"] = float(np.std(np.mean(draws, axis=0)))
        for k in widths[:-1]:
            means = {name: scores[k][0] for name, (_, scores) in found.items()}
            numbers[f"{PROBE}_{k}"] = composite(means)
        return numbers | {f"{PROBE}_task_{name}": score for name, (score, _) in full.items()}


def write_probe(path: Path, probe: Probe) -> None:
    """Write a probe as one file of arrays."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "pixel_id": probe.dpixels.pixel_id,
        "draws": np.array([probe.seed, probe.bootstrap]),
        "names": np.array([labelled.task.name for labelled in probe.tasks], dtype=str),
    }
    for name in _SENSORS:
        series: Series = getattr(probe.dpixels, name)
        arrays |= {f"{name}.values": series.values, f"{name}.doy": series.doy}
        arrays[f"{name}.offsets"] = series.offsets
    for number, labelled in enumerate(probe.tasks):
        arrays |= {f"{number}.at": labelled.at, f"{number}.fold": labelled.fold}
        arrays |= {f"{number}.{name}": getattr(labelled.task, name) for name in _ARRAYS}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())


def read_probe(path: Path) -> Probe:
    """Read what ``write_probe`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        series = {name: _series(arrays, name) for name in _SENSORS}
        tasks = [_labelled(arrays, n, str(name)) for n, name in enumerate(arrays["names"])]
        seed, bootstrap = arrays["draws"].tolist()
        return Probe(DPixels(arrays["pixel_id"], **series), tuple(tasks), seed, bootstrap)


def _series(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> Series:
    return Series(*(arrays[f"{name}.{part}"] for part in ("values", "doy", "offsets")))


def _labelled(arrays: Mapping[str, npt.NDArray[Any]], number: int, name: str) -> Labelled:
    tile, row, group, value = (arrays[f"{number}.{part}"] for part in _ARRAYS)
    fold = arrays[f"{number}.fold"]
    folds = int(fold.max()) + 1
    if value.dtype.kind == "f":
        task = Task(name, "regression", tile, row, group, value, folds, {})
    else:
        task = Task(name, "classification", tile, row, group, value, folds, {})
    return Labelled(task, arrays[f"{number}.at"], fold)


def _require_finite(embedding: npt.NDArray[np.float32]) -> None:
    bad = int((~np.isfinite(embedding)).any(axis=1).sum())
    if bad:
        raise DataError(
            "finite embeddings of the labelled d-pixels",
            found=f"{bad} of {len(embedding)} are not",
            where="the probe of a checkpoint",
            mend="The model has diverged: lower learning_rate, or narrow guard.sigmas.",
        )
