"""The scores that an evaluation wrote, for those who only read them.

The one idea: export, promotion and report depend on this file's format, not on how scores are
computed, so that a change of the probes does not make them new.
"""

import json
from pathlib import Path
from typing import Any

SCORES = "scores.json"
CHECKPOINTS = "checkpoints.json"
"""Scores of the checkpoints of a training, in its output folder; see ``tasks.training.result``."""
TEACHER = "teacher"
"""Name of the teacher among the scored models."""
COMPOSITES = "composites"
"""Name of the raw baseline among the scored models."""


def read_scores(folder: Path) -> dict[str, Any]:
    """Read the scores in the output folder of ``evaluate``.

    Returns:
        ``tasks`` (a row per task, model and dim: score, ci_low, ci_high, raw, n_train, n_test, ...),
        ``composite`` and ``composite_ci`` (by model and dim), ``suite``, ``rank_prefix``, ``labels``
        (``scored``, ``none`` or ``too few``), ``best``, ``reason``, ``parameters``, ``skipped``,
        ``groups`` (``evaluated``, and ``left_to_probe``, which selected the checkpoints).
    """
    content: dict[str, Any] = json.loads((folder / SCORES).read_text())
    return content
