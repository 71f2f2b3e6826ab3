"""Features of a study's labelled d-pixels: embeddings, untrained embeddings, and the rivals.

The one idea: every function gives (n, dim) for the same d-pixels in the same order, so what they are
worth can be compared and nothing else differs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.learning_scores import Features, Kept
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.student import Student
from tasks.checkpoints import open_checkpoint
from tasks.evaluation.baselines import harmonic_features, statistics_features
from tasks.evaluation.composites import composite_features
from tasks.evaluation.interpolation import fit_components, interpolated_series
from tasks.progress import track
from tasks.streaming.corpus import open_corpus

PREFIXES = (16, 32, 64, 128)
_BLOCK = 2048


def rivals(kept: Kept, pack: Path, lengths: tuple[int, ...]) -> dict[str, Features]:
    """Return the baselines of the raw series.

    Args:
        kept: What is evaluated.
        pack: Unlabelled d-pixels that principal components are found from.
        lengths: How many components.
    """
    dpixels = kept.dpixels
    statistics, harmonics = statistics_features(dpixels), harmonic_features(dpixels)
    corpus = open_corpus(str(pack), "dpixels")
    numbers = track(range(corpus.num_blocks), label="components", total=corpus.num_blocks)
    components = fit_components([interpolated_series(corpus.dpixels(n)) for n in numbers])
    series = interpolated_series(dpixels)
    return {
        "statistics": statistics,
        "harmonics": harmonics,
        "statistics and harmonics": np.concatenate([statistics, harmonics], axis=1),
        "seasonal quantiles": composite_features(dpixels),
        **{f"components {n}": components.project(series, n) for n in lengths},
    }


def embeddings(kept: Kept, checkpoint: Path, name: str, seed: int) -> dict[str, Features]:
    """Return what a checkpoint says of the d-pixels, and what its network says with random weights.

    Args:
        kept: What is evaluated.
        checkpoint: Folder of a teacher or student.
        name: What the features are called.
        seed: Of the random weights.
    """
    trained = open_checkpoint(checkpoint).encoder
    blank = type(trained.model)(trained.model.config)  # type: ignore[arg-type] # each takes its own
    initialise(blank, seed)
    untrained = Encoder(blank, trained.normalisation, trained.ladder)
    return {**_cut(trained, kept, name), **_cut(untrained, kept, f"untrained {name}")}


def _cut(encoder: Encoder, kept: Kept, name: str) -> dict[str, Features]:
    whole = np.concatenate(list(_encoded(encoder, kept.dpixels, name)))
    if isinstance(encoder.model, Student):
        return {f"{name} {n}": whole[:, :n] for n in encoder.model.config.prefixes}
    return {f"{name} {encoder.dim}": whole}


def _encoded(encoder: Encoder, dpixels: DPixels, name: str) -> Iterator[Features]:
    starts = range(0, len(dpixels), _BLOCK)
    for start in track(starts, label=f"encode {name}", total=len(starts)):
        yield encoder.encode(dpixels.slice(start, min(start + _BLOCK, len(dpixels))))
