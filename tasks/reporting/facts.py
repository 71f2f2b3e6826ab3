"""What the report says: text, tables and charts, read from the manifests and outputs of a run.

The one idea: a function a section, each returning the variables that the template names for it.

It deliberately opens no tile; maps are in ``tasks.reporting.pictures``.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tasks.manifest import Manifest
from tasks.reporting.charts import Line, line_chart, thin
from tasks.reporting.checkpoints import Training, checkpoint_facts
from tasks.reporting.lineage import lineage_drawing, short
from tasks.scores import CHECKPOINTS, COMPOSITES, TEACHER, read_scores

Facts = dict[str, Any]
_SECTIONS = (
    ("lineage", "Lineage"),
    ("maps", "Embedding maps"),
    ("scores", "Scores"),
    ("training", "Training"),
    ("validation", "Validation"),
    ("artifacts", "Artifacts"),
    ("parameters", "Parameters"),
    ("reproduce", "Reproduce"),
)
_FILES_SHOWN = 40
_FAILURES_SHOWN = 50
_CHANCE = 5  # standard deviations that chance does not reach
_SHOWN_AS = {COMPOSITES: "raw baseline"}
_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")


@dataclass(frozen=True, slots=True)
class Run:
    """The finished outputs of a run."""

    folders: Mapping[str, Path]
    """Verified output folder of each stage, in the order of the chain."""
    manifests: Mapping[str, Manifest]
    digests: Mapping[str, str]
    """Digest of each stage's manifest and of the raw archive."""

    def read_json(self, stage: str, name: str) -> dict[str, Any]:
        """Read a JSON file of an output."""
        content: dict[str, Any] = json.loads((self.folders[stage] / name).read_text())
        return content

    @property
    def students(self) -> list[str]:
        """Names of the students, in the order of ``params.yaml``."""
        return [s.split("@")[1] for s in self.folders if s.startswith("distill@")]


def page_facts(run: Run) -> Facts:
    """Return everything that the template needs but the maps."""
    scores, verdict = (
        read_scores(run.folders["evaluate"]),
        run.read_json("validate", "verdict.json"),
    )
    product = run.read_json("export", "product.json")
    return (
        {
            "sections": _SECTIONS,
            "lead": _lead(run, product),
            "chips": [
                *_chips(scores, verdict, product),
                _corpus(run.read_json("pack", "index.json")),
            ],
            "best": scores["best"],
            "reason": scores["reason"],
            "lineage": Markup(lineage_drawing(run.manifests, run.digests)),  # noqa: S704 - escapes its texts
            "curves": _curves(run),
            "validation": _validation(verdict),
            "artifacts": [_artifact(run, stage) for stage in run.folders],
            "files_shown": _FILES_SHOWN,
            "pins": _pins(run),
        }
        | _scores(run, scores)
        | _choices(run)
    )


def _lead(run: Run, product: Facts) -> str:
    if not product["tiles"]:
        return f"{product['note']} Archive {run.digests['archive'][:10]}"
    years = sorted({item["year"] for item in product["tiles"] if item["year"]})
    when = f"{years[0]} to {years[-1]}" if len(years) > 1 else "".join(map(str, years))
    parts = [
        f"{len(product['tiles'])} tiles" + (f", {when}" if when else ""),
        f"{product['counts']['dpixels']:,} d-pixels embedded at {product['tiles'][0]['shape'][2]} numbers each",
        f"archive {run.digests['archive'][:10]}",
    ]
    return "; ".join(parts)


def _chips(scores: Facts, verdict: Facts, product: Facts) -> list[Facts]:
    best, prefix = scores["best"], str(scores["rank_prefix"])
    passed = verdict["success"]
    checks = f"Validation {'passed' if passed else 'FAILED'}: {len(verdict['checks'])} checks"
    chips = [{"tone": "good" if passed else "bad", "text": checks}]
    if scores["tasks"]:
        value = scores["composite"][best][prefix]
        text = f"Best student {best}: composite {value:.3f} at {prefix}"
        chips.append({"tone": "good", "text": text})
        chips.append(_against_raw(value, scores["composite"][COMPOSITES]))
    else:
        chips.append({"tone": "warn", "text": f"No scores (labels: {scores['labels']})"})
    if not (tiles := len(product["tiles"])):
        return [*chips, {"tone": "warn", "text": "No embedding tiles: point tables only"}]
    return [*chips, {"tone": "good", "text": f"Product complete: {tiles} embedding tiles, int8"}]


def _corpus(index: Facts) -> Facts:
    """Say how large the corpus is and whether a batch of it is a fair draw of its sources."""
    mixing, text = index["mixing"], f"Corpus: {index['rows']:,} d-pixels"
    if mixing["ratio"] is None:
        return {"tone": "good", "text": text}
    text += f", mixing {mixing['ratio']:.2f} (ideal 1 +/- {mixing['noise']:.2f})"
    fair = abs(mixing["ratio"] - 1) < _CHANCE * mixing["noise"]
    return {"tone": "good" if fair else "warn", "text": text}


def _against_raw(value: float, raw: Mapping[str, float]) -> Facts:
    gap = value - next(iter(raw.values()))
    text = f"{abs(gap):.3f} {'above' if gap >= 0 else 'below'} the raw baseline"
    return {"tone": "good" if gap >= 0 else "warn", "text": text}


def _scores(run: Run, scores: Facts) -> Facts:
    if not scores["tasks"]:
        why = {
            "none": "The archive has no label rasters, so nothing was scored.",
            "too few": "The archive's labels are too few to be scored.",
        }[scores["labels"]]
        empty = {"score_chart": "", "tasks": [], "score_rows": [], "no_scores": why}
        return empty | {"skipped": scores["skipped"]}
    return {
        "groups": scores["groups"],
        "score_chart": Markup(_score_chart(run, scores)),  # noqa: S704 - escapes its texts
        "tasks": _tasks(scores),
        "score_rows": _score_rows(scores),
        "skipped": scores["skipped"],
        "no_scores": "",
    }


def _score_chart(run: Run, scores: Facts) -> str:
    lines = []
    for name, colour in zip(run.students, _COLOURS * 9, strict=False):
        by_dim = sorted((int(dim), value) for dim, value in scores["composite"][name].items())
        spans = tuple(tuple(scores["composite_ci"][name][str(dim)]) for dim, _ in by_dim)
        lines.append(Line(name, colour, tuple((float(d), v) for d, v in by_dim), spans))
    for name, style in ((TEACHER, "ct"), (COMPOSITES, "cb")):
        ((dim, value),) = scores["composite"][name].items()
        lines.append(Line(_SHOWN_AS.get(name, name), style, ((float(dim), value),)))
    title = "Composite score of each student by prefix length"
    return line_chart(
        lines, title=title, x_label="prefix length", y_label="composite score", log_x=True
    )


def _tasks(scores: Facts) -> list[Facts]:
    first = {row["task"]: row for row in reversed(scores["tasks"])}
    return [
        {
            "name": name,
            "kind": row["type"],
            "dpixels": row["n_test"],
            "groups": row["groups"],
            "folds": row["folds"],
            "classes": ", ".join(map(str, row["classes"])) or "-",
            "left_out": "; ".join(f"{code}: {why}" for code, why in row["left_out"].items()) or "-",
        }
        for name, row in sorted(first.items())
    ]


def _score_rows(scores: Facts) -> list[Facts]:
    """Return a row a model: students at the ranking prefix, the others at their only length."""
    rows = []
    for model, by_dim in scores["composite"].items():
        ranked = model in scores["parameters"]
        dim = str(scores["rank_prefix"]) if ranked else next(iter(by_dim))
        found = {
            row["task"]: (row["score"], row["ci_low"], row["ci_high"])
            for row in scores["tasks"]
            if row["model"] == model and str(row["dim"]) == dim
        }
        cells = [_cell(*found[task]) for task in sorted(found)]
        total = _cell(by_dim[dim], *scores["composite_ci"][model][dim])
        name = _SHOWN_AS.get(model, model)
        rows.append({"model": name, "dim": dim, "cells": [*cells, total]})
    sizes = scores["parameters"]
    return sorted(rows, key=lambda row: (sizes.get(row["model"], math.inf), row["model"]))


def _cell(score: float, low: float, high: float) -> Facts:
    return {"score": f"{score:.3f}", "span": f"{low:.2f} to {high:.2f}"}


def _curves(run: Run) -> list[tuple[str, Markup]]:
    teacher = [Line(TEACHER, "ct", _curve(run.folders["pretrain"]))]
    students = [
        Line(name, colour, _curve(run.folders[f"distill@{name}"]))
        for name, colour in zip(run.students, _COLOURS * 9, strict=False)
    ]
    charts = (
        ("Teacher: Barlow Twins loss", teacher),
        ("Students: prefix distillation loss, sum over prefixes of 1 - cosine", students),
    )
    return [
        (
            caption,
            Markup(line_chart(lines, title=caption, x_label="step", y_label="loss")),  # noqa: S704 - escapes
        )
        for caption, lines in charts
    ]


def _choices(run: Run) -> Facts:
    stages = [(TEACHER, "ct", "pretrain")]
    colours = zip(run.students, _COLOURS * 9, strict=False)
    stages += [(name, colour, f"distill@{name}") for name, colour in colours]
    return checkpoint_facts([Training(n, c, run.read_json(s, CHECKPOINTS)) for n, c, s in stages])


def _curve(folder: Path) -> tuple[tuple[float, float], ...]:
    with (folder / "curves.csv").open(newline="") as stream:
        rows = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(stream)]
    return thin(rows)


def _validation(verdict: Facts) -> Facts:
    failures, checks = verdict["failures"], verdict["checks"]
    judged = sum(check["judged"] for check in checks)
    done = f"{len(checks)} expectations on {judged:,} measured values"
    text = f"{done}: all met." if verdict["success"] else f"{done}: {len(failures)} failures."
    if len(failures) > _FAILURES_SHOWN:
        text += f" The first {_FAILURES_SHOWN} are shown."
    return {"text": text, "failures": failures[:_FAILURES_SHOWN]}


def _artifact(run: Run, stage: str) -> Facts:
    manifest = run.manifests[stage]
    files = [(n, _size(f["size"]), f["sha256"]) for n, f in sorted(manifest.files.items())]
    counts = ", ".join(f"{short(v)} {k.replace('_', ' ')}" for k, v in manifest.counts.items())
    return {
        "stage": stage,
        "id": stage.replace("@", "-"),
        "path": "artifacts/" + stage.replace("@", "/"),
        "files": files,
        "size": _size(sum(facts["size"] for facts in manifest.files.values())),
        "counts": counts,
        "digest": run.digests[stage],
        "params": [(name, json.dumps(value)) for name, value in sorted(manifest.params.items())],
    }


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


def _pins(run: Run) -> list[tuple[str, str]]:
    locks = sorted({manifest.lock for manifest in run.manifests.values()})
    codes = [(f"code of {stage}", m.code) for stage, m in run.manifests.items() if "@" not in stage]
    return [
        ("raw archive", run.digests["archive"]),
        *(("locked environment", lock) for lock in locks),
        *codes,
    ]
