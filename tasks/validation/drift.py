"""Hold a corpus against a reference corpus: do they still show the same kind of world?

The one idea: a model is used on what it was trained on as long as the distributions of its inputs
stay, and these are in a few kilobytes beside every corpus. So two corpora are compared without their
data: levels of each band, season, and observations per d-pixel. Each figure stands beside its noise
(``tasks.validation.distances``), and one limit, on Kolmogorov-Smirnov distances, judges them all.

The optical bins are 256 digital numbers wide, so a histogram does not see what happens within one.
The exact means and standard deviations do: ``moments`` is the distance of two normal distributions
that have them. Whether a drift does harm is not asked; scores say that.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.errors import ParamsError
from tasks.files import sha256_of
from tasks.validation.checks import KEYS, Check
from tasks.validation.comparisons import compare_statistics, compare_tables
from tasks.validation.corpora import STATISTICS, Statistics, parse_statistics, read_corpus
from tasks.validation.expectations import judge
from tasks.validation.verdict import Verdict

DRIFT = "drift"
DISTANCES = ("ks", "ks_moments", "season_ks", "thickness_ks")
"""Kolmogorov-Smirnov distances, which are judged; shift, ratio and index are there to explain."""

Corpus = Statistics | dict[str, pd.DataFrame]


def drift_checks(max_drift: float) -> tuple[Check, ...]:
    """Return the suite for a table of drift.

    Args:
        max_drift: Largest Kolmogorov-Smirnov distance, 0..1.
    """
    limits = {
        "levels": ("ks", "values of the band are distributed otherwise", "text"),
        "moments": ("ks_moments", "mean or spread of the band has moved", "text"),
        "season": ("season_ks", "other times of the year were observed", ""),
        "thickness": ("thickness_ks", "d-pixels have more or fewer observations", ""),
    }
    return (
        Check("present", DRIFT, "absent", 0, 0, "only one of the corpora has the sensor", "text"),
        *(
            Check(name, DRIFT, column, None, max_drift, why, note)
            for name, (column, why, note) in limits.items()
        ),
    )


def drift_verdict(statistics: dict[str, Any], reference: Path, max_drift: float) -> Verdict:
    """Judge the statistics of a corpus against those of a reference corpus.

    Args:
        statistics: Content of the corpus's ``statistics.json``.
        reference: A ``statistics.json``, or the folder of a pack.
        max_drift: Largest Kolmogorov-Smirnov distance, 0..1.

    Returns:
        The verdict, with the digest of the reference: no manifest knows that file.

    Raises:
        DataError: One of the two is not of the format.
        ParamsError: There is nothing at ``reference``, or tables of an archive are.
    """
    corpus = parse_statistics(statistics, "statistics of this corpus")
    verdict = judge_drift(compare(corpus, read_corpus(reference)), max_drift)
    file = reference / STATISTICS if reference.is_dir() else reference
    return replace(verdict, reference=sha256_of(file))


def judge_drift(table: pd.DataFrame, max_drift: float) -> Verdict:
    """Hold a table of ``compare`` to the suite.

    Decision: a distance within its noise is not judged. Small corpora differ by chance, and a gate
    that closes by chance would soon be left open.
    """
    judged = table.copy()
    for name in DISTANCES:
        judged[name] = table[name].where(table[name] > table[f"{name}_noise"])
    return judge({DRIFT: judged}, drift_checks(max_drift), {DRIFT: 1})


def compare(corpus: Corpus, reference: Corpus) -> pd.DataFrame:
    """Compare two corpora, both given as statistics or both as an archive's tables.

    Returns:
        Rows by sensor and band (band empty: the sensor as a whole); ``tile`` is empty. Of a band:
        ``mean_shift`` (in standard deviations of the reference), ``std_ratio``, ``ks``,
        ``ks_moments``, ``psi``; of a sensor: ``season_ks``, ``thickness_ks``, ``thickness_ratio``,
        ``absent``; each distance with a column ``<name>_noise``. What cannot be told is empty.

    Raises:
        ParamsError: One is a pack and the other an archive.
    """
    if isinstance(corpus, Statistics) and isinstance(reference, Statistics):
        rows = list(compare_statistics(corpus, reference))
    elif not isinstance(corpus, Statistics) and not isinstance(reference, Statistics):
        rows = list(compare_tables(corpus, reference))
    else:
        raise ParamsError(
            "two packs, or two validated archives",
            found="one of each",
            where="drift",
            mend="Compare artifacts/pack with a pack, artifacts/validate with an archive.",
        )
    table = pd.DataFrame([dict.fromkeys(KEYS, "") | row for row in rows])
    columns = [*table.columns, *DISTANCES, *(f"{name}_noise" for name in DISTANCES)]
    return table.reindex(columns=list(dict.fromkeys(columns)))
