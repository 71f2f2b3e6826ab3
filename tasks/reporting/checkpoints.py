"""What the report says of the choice of checkpoints: loss against score, and who was taken.

The one idea: the page shows the evidence beside the rule. The numbers are those that the trainings
wrote; nothing is computed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks.reporting.scatter import Cloud, scatter_chart

Facts = dict[str, Any]
_LOSS_NAMES = {"held_out_loss": "loss on held-out d-pixels", "loss": "training loss"}


@dataclass(frozen=True, slots=True)
class Training:
    """A training and what it wrote of its candidates."""

    name: str
    style: str
    """Colour class of the page."""
    content: Mapping[str, Any]
    """``checkpoints.json``."""


def checkpoint_facts(trainings: Sequence[Training]) -> Facts:
    """Return the charts and the rows of the table; no charts where nothing was probed.

    Args:
        trainings: The teacher's, and the students'.
    """
    groups = (("Teacher", trainings[:1]), ("Students", trainings[1:]))
    charts = [
        (f"{title}: each point is a checkpoint, the ring the one that was taken", chart)
        for title, group in groups
        if (chart := _chart(group, title))
    ]
    return {"choices": charts, "choice_rows": [_row(one) for one in trainings]}


def _chart(trainings: Sequence[Training], title: str) -> Markup | None:
    clouds = [cloud for one in trainings if (cloud := _cloud(one))]
    if not clouds:
        return None
    loss = _LOSS_NAMES[trainings[0].content["loss"]]
    title = f"{title}: downstream score of the probe against {loss}"
    drawn = scatter_chart(clouds, title=title, x_label=loss, y_label="score of the probe")
    return Markup(drawn)  # noqa: S704 - escapes its texts


def _cloud(training: Training) -> Cloud | None:
    loss = training.content["loss"]
    rows = [row for row in training.content["candidates"] if "probe" in row and loss in row]
    if not rows:
        return None
    return Cloud(
        training.name,
        training.style,
        tuple((row[loss], row["probe"]) for row in rows),
        tuple(row["probe_error"] for row in rows),
        next(place for place, row in enumerate(rows) if row["selected"]),
    )


def _row(training: Training) -> Facts:
    content = training.content
    numbers = {name: content[name] for name in ("pearson", "spearman")}
    shown = {name: "-" if value is None else f"{value:+.2f}" for name, value in numbers.items()}
    return {"name": training.name, "n": content["n"], "reason": content["reason"]} | shown
