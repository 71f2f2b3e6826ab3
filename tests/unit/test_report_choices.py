"""The page's charts of loss against score: where the points lie, and that nothing is hidden."""

import re
from typing import Any

import pytest

from tasks.reporting.checkpoints import Training, checkpoint_facts
from tasks.reporting.scatter import Cloud, scatter_chart


def content(scores: list[float] | None, selected: int) -> dict[str, Any]:
    losses = [0.4, 0.3, 0.2, 0.1]
    rows: list[dict[str, Any]] = [
        {"step": 10 * n, "selected": int(n == selected), "held_out_loss": loss}
        for n, loss in enumerate(losses)
    ]
    for row, score in zip(rows, scores or [], strict=False):
        row |= {"probe": score, "probe_error": 0.05}
    numbers = {"pearson": -0.5, "spearman": -0.25, "n": 4} if scores else {}
    empty = {"pearson": None, "spearman": None, "n": 0}
    return empty | numbers | {"loss": "held_out_loss", "reason": "step 10", "candidates": rows}


def circles(svg: str, kind: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<circle class="{kind} \w+" cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_points_lie_in_proportion_and_the_ring_is_around_the_selected_one() -> None:
    points = ((0.0, 0.0), (1.0, 0.5), (4.0, 1.0))
    svg = scatter_chart(
        [Cloud("S", "c1", points, (0.0, 0.0, 0.0), 1)], title="t", x_label="x", y_label="y"
    )
    (x0, y0), (x1, y1), (x2, y2) = circles(svg, "dot")
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.5, abs=0.01)
    assert y2 < y1 < y0  # up is more
    assert circles(svg, "ring") == [(x1, y1)]


def test_every_training_has_a_row_and_only_scored_ones_are_drawn() -> None:
    teacher = Training("teacher", "ct", content([0.1, 0.4, 0.3, 0.2], 1))
    bare = Training("N", "c1", content(None, 3))
    facts = checkpoint_facts([teacher, bare])
    assert [row["name"] for row in facts["choice_rows"]] == ["teacher", "N"]
    assert [row["pearson"] for row in facts["choice_rows"]] == ["-0.50", "-"]
    ((_, chart),) = facts["choices"]
    assert len(circles(chart, "dot")) == 4
    assert "held-out" in re.sub(r"<[^>]*>", "", chart)


def test_names_from_outside_are_escaped() -> None:
    facts = checkpoint_facts([Training("<b>", "ct", content([0.1, 0.2, 0.3, 0.4], 0))])
    ((_, chart),) = facts["choices"]
    assert "<b>" not in chart
    assert "&lt;b&gt;" in chart
