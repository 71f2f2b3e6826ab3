"""Compare any two corpora or archives: the door is ``tessera drift``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.validation.corpora import read_corpus
from tasks.validation.drift import compare, judge_drift
from tasks.validation.verdict import Verdict

_SHOWN = {
    "mean_shift": "shift",
    "std_ratio": "spread",
    "ks": "KS",
    "ks_moments": "KS moments",
    "psi": "PSI",
    "season_ks": "season KS",
    "thickness_ks": "counts KS",
}


@dataclass(frozen=True, slots=True)
class DriftReport:
    """How two corpora differ, and whether that is too much."""

    verdict: Verdict
    table: pd.DataFrame
    """One row a sensor and band, as ``tasks.validation.drift.compare`` says."""
    max_drift: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for programs; what cannot be told is null."""
        rows = [
            {name: None if pd.isna(value) else value for name, value in row.items()}
            for row in self.table.drop(columns=["tile"]).to_dict(orient="records")
        ]
        failures = self.verdict.as_dict()["failures"]
        limit = {"max_drift": self.max_drift}
        return {"success": self.verdict.success, **limit, "rows": rows, "failures": failures}

    def render(self) -> str:
        """Return the table for people, each figure with its noise in brackets."""
        shown = {"sensor": self.table["sensor"], "band": self.table["band"]}
        for name, title in _SHOWN.items():
            if self.table[name].notna().any() if name in self.table else False:
                shown[title] = self._cells(name)
        lines = [pd.DataFrame(shown).to_string(index=False)]
        lines.append("In brackets: what chance alone exceeds once in twenty times.")
        met = f"no distance above {self.max_drift:g} and above chance"
        return "\n".join([*lines, met if self.verdict.success else self.verdict.summary()])

    def _cells(self, name: str) -> pd.Series:
        noise = self.table[f"{name}_noise"]
        return pd.Series(
            [
                "" if pd.isna(value) else f"{value:.3f} ({chance:.3f})"
                for value, chance in zip(self.table[name], noise, strict=True)
            ]
        )


def compare_corpora(corpus: Path, reference: Path, *, max_drift: float) -> DriftReport:
    """Compare a corpus with a reference.

    Args:
        corpus: A ``statistics.json``, a pack, or the output of ``validate``.
        reference: Another of the same kind.
        max_drift: Largest Kolmogorov-Smirnov distance, 0..1.

    Raises:
        ParamsError: Nothing of that kind is there, or the two are of different kinds.
        DataError: One is damaged.
    """
    table = compare(read_corpus(corpus), read_corpus(reference))
    return DriftReport(judge_drift(table, max_drift), table, max_drift)
