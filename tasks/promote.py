"""The gate: make the best student a registered version and move an alias to it, or refuse.

Not a DVC stage: who is promoted is state of the registry, not bytes that follow from inputs. The
one idea: a candidate is compared with the incumbent only on the same suite, and the order is always
version, ledger, alias, ledger. So a crash at any point is finished by the next call.

Promoters of one workspace take turns, held by a lock. Promoters of two workspaces that share one
tracking server are not: the alias is compared just before it moves, but MLflow has no atomic
compare-and-move, so of two that move at the same moment the later one wins and both ledgers say
that they moved. Who needs more promotes from one workspace.

Only what staging holds can go to production.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from filelock import FileLock

from tasks.errors import LineageError, ParamsError, PromotionRefused
from tasks.ledger import GIVEN_UP
from tasks.manifest import digest_of, read_manifest
from tasks.params import Params
from tasks.progress import say
from tasks.registry import Candidate, Registry, Version, ledger_of
from tasks.scores import SCORES, read_scores
from tasks.stage import stage_main
from tasks.workspace import Workspace

STAGING, PRODUCTION = "staging", "production"
REFUSED_EXIT = 3
_EVALUATE = "Evaluate it: dvc repro evaluate."


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a call did."""

    model: str
    alias: str
    version: str
    moved: bool
    """``False`` where the version already held the alias."""
    text: str


def promote(workspace: Workspace, params: Params, *, to: str = STAGING) -> Promotion:
    """Promote the evaluation's best student to staging, or staging's version to production.

    Raises:
        PromotionRefused: The gate kept the incumbent; the text has the numbers.
        ParamsError: There is no such alias.
        LineageError: The evaluation is not of the students that are on the disk.
        DigestMismatch: An output's bytes are not those of its manifest.
    """
    if to not in (STAGING, PRODUCTION):
        raise ParamsError(
            f"{STAGING} or {PRODUCTION}",
            found=to,
            where="--to",
            mend="Name one of the two; nothing has been moved.",
        )
    model = params.promote.model
    workspace.state.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.state / "promotions.lock"):
        shelf = Registry(workspace)
        finish_interrupted(workspace, shelf)
        if to == PRODUCTION:
            return _to_production(workspace, shelf, model)
        candidate = read_candidate(workspace)
        return _to_staging(workspace, shelf, model, candidate, params.promote.margin)


def read_candidate(workspace: Workspace) -> Candidate:
    """Read the evaluation's best student, both verified byte by byte.

    Raises:
        PromotionRefused: Nothing was scored.
        LineageError: The student was made again since it was evaluated.
    """
    folder = workspace.output("evaluate")
    evaluated = read_manifest(folder, verify=True)
    scores = read_scores(folder)
    student = str(scores["best"])
    stage = f"distill@{student}"
    read_manifest(workspace.output(stage), verify=True)
    digest = digest_of(workspace.output(stage))
    if evaluated.parents.get(stage) != digest:
        raise LineageError(
            f"the student that was evaluated, {str(evaluated.parents.get(stage))[:12]}",
            found=digest[:12],
            where=str(workspace.output(stage)),
            mend="Evaluate it: dvc repro evaluate",
        )
    if not scores["tasks"]:
        raise PromotionRefused(
            "a downstream score",
            found=f"none (labels: {scores['labels']})",
            where=str(folder / SCORES),
            mend="Add label rasters to the archive; without a score nothing is promoted.",
        )
    composites = {dim: float(value) for dim, value in scores["composite"][student].items()}
    return Candidate(student, digest, scores["suite"], int(scores["rank_prefix"]), composites)


def judge(candidate: Candidate, incumbent: Version | None, margin: float) -> str:
    """Apply the gate; return the reason for letting the candidate through.

    Args:
        candidate: Who wants the alias.
        incumbent: Who holds it.
        margin: How much lower than the incumbent's composite the candidate's may be. Decision: it
            counts from the present incumbent, not from the best ever, so with a margin above 0 the
            alias can go down by up to the margin at every promotion; at 0 it never goes down. The
            ledger keeps every step.

    Raises:
        PromotionRefused: No finite score, another suite, or a lower score.
    """
    score, prefix = candidate.composite, candidate.rank_prefix
    _require_score(score, f"student {candidate.student} at prefix {prefix}", _EVALUATE)
    if incumbent is None:
        return f"composite {score:.6f} at prefix {prefix}, no incumbent"
    held = incumbent.candidate
    name = f"{incumbent.model} version {incumbent.version}"
    if held.suite != candidate.suite or held.rank_prefix != prefix:
        raise PromotionRefused(
            f"an incumbent scored on suite {candidate.suite[:12]} at prefix {prefix}",
            found=f"suite {held.suite[:12] or 'none'} at prefix {held.rank_prefix}",
            where=name,
            mend="Scores of two suites cannot be compared. Start another line: "
            f"tessera promote {incumbent.model}-2 (for every run: promote.model). Or let this one start afresh, without a "
            f"comparison: delete the alias {STAGING} of {incumbent.model} in MLflow's page of the "
            f"model, then tessera promote {incumbent.model}.",
        )
    _require_score(held.composite, name, _renew(incumbent.model))
    if score < held.composite - margin:
        raise PromotionRefused(
            f"a composite of at least {held.composite - margin:.6f} at prefix {prefix} "
            f"({name} has {held.composite:.6f}, margin {margin:g})",
            found=f"{score:.6f}",
            where=f"student {candidate.student}",
            mend="The incumbent stays. Train a better student, or raise promote.margin.",
        )
    return f"composite {score:.6f} against {held.composite:.6f} of {name}, margin {margin:g}"


def _require_score(score: float, where: str, by: str) -> None:
    if not math.isfinite(score):
        raise PromotionRefused(
            "a finite composite score",
            found=str(score),
            where=where,
            mend=f"{by} A missing score is never taken for a low one.",
        )


def _renew(model: str) -> str:
    return (
        f"Put its student back (git checkout of tessera.commit in its tags, dvc repro evaluate) and "
        f"renew its scores: tessera promote {model}. Or delete the alias in MLflow's page of it."
    )


def _to_staging(
    workspace: Workspace, shelf: Registry, model: str, candidate: Candidate, margin: float
) -> Promotion:
    incumbent = _holder(shelf, model, STAGING)
    facts: dict[str, Any] = {"model": model, "alias": STAGING, "student": candidate.student}
    facts |= {"digest": candidate.digest, "scores": json.loads(candidate.scores_text())}
    if incumbent is not None and incumbent.candidate.digest == candidate.digest:
        return _already_there(workspace, shelf, incumbent, candidate)
    try:
        text = judge(candidate, incumbent, margin)
    except PromotionRefused as refusal:
        held = incumbent.version if incumbent else None
        where = {"from": held, "to": None, "text": str(refusal)}
        ledger_of(workspace).decide("refuse", **facts, **where)
        raise
    version = shelf.register(model, candidate)
    shelf.rescore(version, candidate)
    return _move(workspace, shelf, version, incumbent, facts | {"text": text})


def _to_production(workspace: Workspace, shelf: Registry, model: str) -> Promotion:
    staged, held = _holder(shelf, model, STAGING), _holder(shelf, model, PRODUCTION)
    if staged is None:
        raise PromotionRefused(
            "a version in staging",
            found="none",
            where=model,
            mend="Promote to staging first: tessera promote --to staging",
        )
    if held is not None and held.version == staged.version:
        return Promotion(model, PRODUCTION, staged.version, False, "already there")
    candidate = staged.candidate
    _require_score(candidate.composite, f"{model} version {staged.version}", _renew(model))
    facts: dict[str, Any] = {"model": model, "alias": PRODUCTION, "student": candidate.student}
    facts |= {"digest": candidate.digest, "scores": json.loads(candidate.scores_text())}
    facts |= {"text": f"from staging: {staged.why}"}
    return _move(workspace, shelf, staged, held, facts)


def _already_there(
    workspace: Workspace, shelf: Registry, incumbent: Version, candidate: Candidate
) -> Promotion:
    """Leave the alias, but renew scores that came from another evaluation."""
    model, version = incumbent.model, incumbent.version
    before, scores = incumbent.candidate.scores_text(), candidate.scores_text()
    if before == scores:
        return Promotion(model, STAGING, version, False, "already there")
    _require_score(candidate.composite, f"student {candidate.student}", _EVALUATE)
    text = f"already there; scores renewed on suite {candidate.suite[:12]}"
    facts: dict[str, Any] = {"model": model, "alias": STAGING, "student": candidate.student}
    facts |= {"digest": candidate.digest, "from": version, "to": version, "text": text}
    facts |= {"scores": json.loads(scores), "scores_before": json.loads(before)}
    number = ledger_of(workspace).decide("renew", **facts)
    shelf.rescore(incumbent, candidate)
    ledger_of(workspace).finish(number, "renewed")
    return Promotion(model, STAGING, version, False, text)


def _move(
    workspace: Workspace,
    shelf: Registry,
    version: Version,
    held: Version | None,
    facts: Mapping[str, Any],
) -> Promotion:
    """Write the decision, compare the alias once more, move it, and write that it moved."""
    alias, before = str(facts["alias"]), held.version if held else None
    ledger = ledger_of(workspace)
    number = ledger.decide("promote", **facts, **{"from": before, "to": version.version})
    now = shelf.aliases(version.model).get(alias)
    if now != before:
        ledger.finish(number, f"{GIVEN_UP}: the alias moved to {now}")
        raise PromotionRefused(
            f"alias {alias} at version {before}",
            found=f"version {now}",
            where=version.model,
            mend="Somebody else promoted meanwhile. Look at `tessera registry` and try again.",
        )
    shelf.point(version.model, alias, version.version)
    ledger.finish(number, "moved")
    return Promotion(version.model, alias, version.version, True, str(facts["text"]))


def finish_interrupted(workspace: Workspace, shelf: Registry) -> None:
    """Carry out decisions that a crash left between the ledger and the alias."""
    ledger = ledger_of(workspace)
    for decision in ledger.unfinished():
        model, alias = decision["model"], decision["alias"]
        now = shelf.aliases(model).get(alias)
        there = {version.version for version in shelf.versions(model)}
        if decision["to"] not in there:
            gone = f"{GIVEN_UP}: version {decision['to']} was deleted"
            ledger.finish(decision["number"], gone)
        elif now == decision["to"]:
            ledger.finish(decision["number"], "moved")
        elif now == decision["from"]:
            shelf.point(model, alias, decision["to"])
            ledger.finish(decision["number"], "moved by a later run")
            say(f"promote: finished an interrupted move of {alias} to version {decision['to']}")
        else:
            ledger.finish(decision["number"], f"{GIVEN_UP}: the alias moved to {now}")


def _holder(shelf: Registry, model: str, alias: str) -> Version | None:
    holders = (version for version in shelf.versions(model) if alias in version.aliases)
    return next(holders, None)


def _run(workspace: Workspace, params: Params) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.promote", description=__doc__)
    parser.add_argument("--to", choices=(STAGING, PRODUCTION), default=STAGING)
    chosen = parser.parse_args()
    try:
        done = promote(workspace, params, to=chosen.to)
    except PromotionRefused as refusal:
        sys.stderr.write(f"tessera: PromotionRefused: {refusal}\n")
        sys.exit(REFUSED_EXIT)
    say(f"promote: {done.model} version {done.version} is {done.alias}: {done.text}")


if __name__ == "__main__":
    stage_main(_run)
