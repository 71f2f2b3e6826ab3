"""``tessera runs compare``: what differs between runs, and what came of it.

The one idea: a result is explained by settings, inputs, code and environment, so those that are
equal are left out and what is left stands beside the numbers. Differences are against the first
run. Settings of how a run was carried out are apart from those of what it computed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import DataError
from tasks.run_history import StageRun, find_run, history
from tasks.tracking import EXECUTION_TAG, MACHINE
from tasks.workspace import Workspace

_PARENT, _DIGEST = "tessera.parent.", ".digest"
_SHORT = 12  # characters of a digest that tell it apart for the eye
CURVES = ("loss", "probe")
"""What a picture of runs shows by step."""

_KEY = ("probe", "loss", "effective_rank", "speed.dpixels_per_second", "speed.utilisation")
"""Numbers that a run is remembered by, where it has them."""

Row = list[Any]
"""A value for each run; ``None`` where it has none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side; tables hold only what differs, but for the metrics."""

    runs: list[StageRun]
    parameters: dict[str, Row]
    execution: dict[str, Row]
    inputs: dict[str, Row]
    """Digests by the stage that made them."""
    code: dict[str, Row]
    """Digests of source files and of the locked environment."""
    metrics: dict[str, Row]
    """Last value of each."""

    def to_json(self) -> dict[str, Any]:
        """Return plain types; every metric with its differences from the first run."""
        metrics = {
            n: {"values": row, "differences": differences(row)} for n, row in self.metrics.items()
        }
        runs = [
            {
                "run": r.run_id,
                "stage": r.stage,
                "status": r.status,
                "started": r.started.isoformat(),
            }
            for r in self.runs
        ]
        tables = {n: getattr(self, n) for n in ("parameters", "execution", "inputs", "code")}
        return {"runs": runs, **tables, "metrics": metrics}


def compare_runs(workspace: Workspace, names: Sequence[str]) -> Comparison:
    """Find runs and set them side by side.

    Args:
        workspace: The project.
        names: At least two, see ``find_run``.

    Raises:
        LineageError: A name is unknown or not unique.
    """
    runs = [find_run(workspace, name) for name in names]
    code = [
        {"source files": r.tags.get("tessera.code"), "lock": r.tags.get("tessera.lock")}
        for r in runs
    ]
    measured = [{n: v for n, v in r.metrics.items() if not n.startswith(MACHINE)} for r in runs]
    return Comparison(
        runs,
        parameters=_differing([r.params for r in runs]),
        execution=_differing([json.loads(r.tags.get(EXECUTION_TAG, "{}")) for r in runs]),
        inputs=_differing([_inputs(r) for r in runs]),
        code=_differing(code),
        metrics=_side_by_side(measured),
    )


def curves(
    workspace: Workspace, runs: Iterable[StageRun]
) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Return steps and values by metric of ``CURVES`` and by run.

    Raises:
        DataError: No run has any.
    """
    found: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for run in runs:
        for metric in CURVES:
            if metric in run.metrics:
                label = f"{run.stage} {run.name}"
                found.setdefault(metric, {})[label] = history(workspace, run, metric)
    if not found:
        raise DataError(
            f"a run that recorded {' or '.join(CURVES)} by step",
            found="none",
            where="the runs named",
            mend="Name runs of pretrain or distill.",
        )
    return found


def differences(row: Row) -> Row:
    """Return how much more each has than the first; ``None`` where one of the two has nothing."""
    first = row[0]
    return [None if None in (first, value) else value - first for value in row]


def _inputs(run: StageRun) -> dict[str, str]:
    return {
        name.removeprefix(_PARENT).removesuffix(_DIGEST): digest
        for name, digest in run.tags.items()
        if name.startswith(_PARENT) and name.endswith(_DIGEST)
    }


def _side_by_side(columns: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    names = sorted({name for column in columns for name in column})
    return {name: [column.get(name) for column in columns] for name in names}


def _differing(columns: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    rows = _side_by_side(columns)
    return {name: row for name, row in rows.items() if any(v != row[0] for v in row)}


def render(found: Comparison) -> str:
    """Return the comparison as text, a column a run."""
    letters = [chr(ord("A") + n) for n in range(len(found.runs))]
    lines = [f"{letter}  {describe(run)}" for letter, run in zip(letters, found.runs, strict=True)]
    tables = {
        "settings": found.parameters,
        "settings of execution": found.execution,
        "inputs": {n: [_short(v) for v in row] for n, row in found.inputs.items()},
        "code": {n: [_short(v) for v in row] for n, row in found.code.items()},
    }
    for title, rows in tables.items():
        lines += [
            "",
            *(_table(f"{title} that differ", letters, rows) if rows else [f"{title}: equal"]),
        ]
    differing = [f"{letter} - A" for letter in letters[1:]]
    metrics = {n: [*row, *differences(row)[1:]] for n, row in found.metrics.items()}
    return "\n".join([*lines, "", *_table("numbers", [*letters, *differing], metrics)])


def describe(run: StageRun) -> str:
    """Return one line about a run."""
    seconds = "" if run.seconds is None else f"{run.seconds:,.0f} s"
    started = run.started.strftime("%Y-%m-%d %H:%M")
    return f"{run.name}  {started}  {run.status:<8}  {seconds:>9}  {run.stage}"


def key_numbers(run: StageRun) -> str:
    """Return the few numbers that a run is remembered by."""
    shown = [n for n in (*_KEY, *sorted(run.metrics)) if n in run.metrics and _is_key(n)]
    return "  ".join(f"{n.split('.')[-1]} {run.metrics[n]:.4g}" for n in dict.fromkeys(shown))


def _is_key(name: str) -> bool:
    return name in _KEY or name.startswith("composite")


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Row]) -> list[str]:
    texts = {name: [_text(value) for value in row] for name, row in rows.items()}
    first = max(len(title), *(len(name) + 2 for name in texts)) if texts else len(title)
    widths = [
        max(len(c), *(len(row[i]) for row in texts.values())) if texts else len(c)
        for i, c in enumerate(columns)
    ]
    head = "  ".join(
        [title.ljust(first), *(c.rjust(w) for c, w in zip(columns, widths, strict=True))]
    )
    body = [
        "  ".join([f"  {n}".ljust(first), *(t.rjust(w) for t, w in zip(row, widths, strict=True))])
        for n, row in texts.items()
    ]
    return [head, *body]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(digest: str | None) -> str | None:
    return None if digest is None else digest[:_SHORT]
