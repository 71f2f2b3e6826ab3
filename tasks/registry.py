"""Registered students: versions, aliases, and the scores and lineage that their tags carry.

The one idea: MLflow knows who is where; why is in the tags of the version and in the ledger. All
scores of a version are one tag, so one write replaces them all and a crash cannot leave the suite
of one evaluation beside the numbers of another. A tag is text, so numbers are read back strictly: a
score that is not there is never a zero.

It deliberately decides nothing; the gate is ``tasks.promote``.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint import checkpoint_digest
from tasks.errors import DigestMismatch
from tasks.ledger import Ledger
from tasks.manifest import digest_of, read_manifest
from tasks.tracked_models import (
    CHECKPOINT_TAG,
    adopt_model,
    find_registered,
    make_version,
    model_of,
)
from tasks.tracking import open_client
from tasks.workspace import Workspace

_SCORES_TAG = "tessera.scores"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A student as the evaluation saw it."""

    student: str
    """Its name in ``params.yaml``, e.g. ``M``."""
    digest: str
    """Digest of its manifest."""
    suite: str
    """Digest of tasks, splits and archive; empty where nothing was scored."""
    rank_prefix: int
    composites: dict[str, float]
    """Composite score by prefix length."""

    @property
    def composite(self) -> float:
        """Composite at the ranking prefix; NaN where there is none."""
        return self.composites.get(str(self.rank_prefix), math.nan)

    def scores_text(self) -> str:
        """Return suite, ranking prefix and composites as the text of one tag.

        JSON has no NaN: what is not a finite number is written as text, and read back as NaN.
        """
        composites = {k: v if math.isfinite(v) else str(v) for k, v in self.composites.items()}
        content = {
            "suite": self.suite,
            "rank_prefix": self.rank_prefix,
            "composite": composites,
        }
        return json.dumps(content, sort_keys=True, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version and what its tags say."""

    model: str
    version: str
    aliases: tuple[str, ...]
    candidate: Candidate
    why: str
    """Text of the last decision for it that was carried out."""

    def to_json(self) -> dict[str, Any]:
        """Return a line for machines."""
        return {
            "model": self.model,
            "version": self.version,
            "aliases": list(self.aliases),
            "student": self.candidate.student,
            "digest": self.candidate.digest,
            "suite": self.candidate.suite,
            "composite": self.candidate.composites,
            "why": self.why,
        }


class Registry:
    """The registered models of a workspace's MLflow store."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._client = open_client(workspace)

    def names(self) -> list[str]:
        """Return the names of all registered models, sorted."""
        return sorted(model.name for model in _every(self._client.search_registered_models))

    def aliases(self, model: str) -> dict[str, str]:
        """Return the version of each alias of a model; empty where the model is not registered."""
        found = find_registered(self._client, model)
        return {} if found is None else {k: str(v) for k, v in found.aliases.items()}

    def versions(self, model: str) -> list[Version]:
        """Return a model's versions, oldest first."""
        aliases = self.aliases(model)
        why = {line["to"]: line["text"] for line in ledger_of(self._workspace).moves_of(model)}
        found = _every(self._client.search_model_versions, f"name = '{model}'")
        return [
            Version(
                model,
                str(item.version),
                tuple(sorted(a for a, v in aliases.items() if v == str(item.version))),
                _read_tags(item.tags),
                why.get(str(item.version), ""),
            )
            for item in sorted(found, key=lambda item: int(item.version))
        ]

    def register(self, model: str, candidate: Candidate) -> Version:
        """Make the candidate a version with its lineage, or find the one it already is."""
        for known in self.versions(model):
            if known.candidate.digest == candidate.digest:
                return known
        if find_registered(self._client, model) is None:
            self._client.create_registered_model(model)
        stage = f"distill@{candidate.student}"
        folder = self._workspace.output(stage)
        found = model_of(self._client, self._workspace, candidate.digest) or adopt_model(
            self._client, self._workspace, folder, stage=stage, digest=candidate.digest
        )
        tags = _write_tags(candidate) | _lineage_tags(self._workspace, stage)
        tags[CHECKPOINT_TAG] = checkpoint_digest(folder)
        version = make_version(self._client, self._workspace, model, found, tags)
        return Version(model, version, (), candidate, "")

    def rescore(self, version: Version, candidate: Candidate) -> None:
        """Replace a version's scores by those of a newer evaluation of the same student.

        One write: whoever reads at any time finds the old scores or the new ones.
        """
        text = candidate.scores_text()
        self._client.set_model_version_tag(version.model, version.version, _SCORES_TAG, text)

    def point(self, model: str, alias: str, version: str) -> None:
        """Move an alias."""
        self._client.set_registered_model_alias(model, alias, version)


def registry(workspace: Workspace) -> list[Version]:
    """List every version of every registered model: aliases, scores, and why."""
    shelf = Registry(workspace)
    return [version for model in shelf.names() for version in shelf.versions(model)]


def ledger_of(workspace: Workspace) -> Ledger:
    """Return the workspace's promotion ledger."""
    return Ledger(workspace.state / "promotions.jsonl")


def _every(search: Callable[..., Any], *query: str) -> list[Any]:
    """Return what an MLflow search finds on all its pages."""
    page = search(*query)
    found = list(page)
    while page.token:
        page = search(*query, page_token=page.token)
        found += page
    return found


def _write_tags(candidate: Candidate) -> dict[str, str]:
    return {
        "tessera.student": candidate.student,
        "tessera.digest": candidate.digest,
        _SCORES_TAG: candidate.scores_text(),
    }


def _read_tags(tags: dict[str, str]) -> Candidate:
    """Read tags back; whatever is missing or not a number stays visibly so."""
    try:
        scores = dict(json.loads(tags.get(_SCORES_TAG, "{}")))
    except (ValueError, TypeError):
        scores = {}  # somebody edited the tag: no suite, so the gate compares it with nothing
    return Candidate(
        tags.get("tessera.student", ""),
        tags.get("tessera.digest", ""),
        str(scores.get("suite", "")),
        int(scores.get("rank_prefix", 0)),
        {str(dim): _number(value) for dim, value in dict(scores.get("composite", {})).items()},
    )


def _number(value: object) -> float:
    """Return a number of a tag; NaN for anything else, text included."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return math.nan


def _lineage_tags(workspace: Workspace, stage: str) -> dict[str, str]:
    """Return the digest of every stage and input above a student, and the commit it was made at."""
    seen: dict[str, str] = {}
    _climb(workspace, stage, digest_of(workspace.output(stage)), seen)
    tags = {f"tessera.lineage.{name.replace('@', '-')}": digest for name, digest in seen.items()}
    provenance = workspace.artifacts / "provenance" / f"{stage}.json"
    commit = _commit_in(provenance)
    return tags | ({"tessera.commit": commit} if commit else {})


def _climb(workspace: Workspace, name: str, digest: str, seen: dict[str, str]) -> None:
    if name in seen:
        return
    seen[name] = digest
    folder = workspace.output(name)
    if not (folder / "manifest.json").is_file():
        return  # an input that no stage made, such as the raw archive
    if digest_of(folder) != digest:
        raise DigestMismatch(
            f"the output that was used, {digest[:12]}",
            found=digest_of(folder)[:12],
            where=str(folder),
            mend="It was made again since: bring the chain up to date with dvc repro.",
        )
    for parent, parent_digest in read_manifest(folder).parents.items():
        _climb(workspace, parent, parent_digest, seen)


def _commit_in(provenance: Path) -> str | None:
    if not provenance.is_file():
        return None
    return json.loads(provenance.read_text())["commit"] or None
