"""The stage graph, asked from DVC, which is the only one that knows it.

``dvc.yaml`` is the one place where the graph is written. DVC's command line resolves its variables
and matrices and answers in text that is stable across versions (``dag --dot``, ``status --json``);
its Python internals are not used. What is not here: running a stage (``tasks.running.reproduce``).
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

from tasks.errors import LineageError, ParamsError, StageBusy
from tasks.workspace import Workspace

Graph = Mapping[str, tuple[str, ...]]
"""Upstream stages of each stage, in an order in which they can run."""

ON_DEMAND = "infra/controls/dvc.yaml"
"""File of the stages that are run by a command of their own, and are no part of the pipeline."""

BUSY = "is busy, it is being blocked by"
"""What DVC says when a file that it needs is being written by another DVC process."""

_EDGE = re.compile(r'^"(?P<up>[^"]+)" -> "(?P<down>[^"]+)";$')
_NODE = re.compile(r'^"(?P<name>[^"]+)";$')


def stages(workspace: Workspace) -> dict[str, tuple[str, ...]]:
    """Return ``{stage: upstream stages}`` in topological order, matrix items as ``distill@N``.

    Left out are pinned files such as ``data.dvc``, which are inputs, and stages on demand, which are
    no part of a run.

    Raises:
        ParamsError: DVC cannot read ``dvc.yaml`` or what it refers to.
    """
    upstream: dict[str, set[str]] = {}
    for line in run_dvc(workspace, "dag", "--dot").splitlines():
        if node := _NODE.match(line.strip()):
            upstream.setdefault(node["name"], set())
        elif edge := _EDGE.match(line.strip()):
            upstream.setdefault(edge["down"], set()).add(edge["up"])
    order = list(upstream)
    names = [name for name in TopologicalSorter(upstream).static_order() if _is_stage(name)]
    return {
        name: tuple(sorted((up for up in upstream[name] if _is_stage(up)), key=order.index))
        for name in names
    }


def items_of(graph: Graph, name: str) -> list[str]:
    """Return the addresses that a name stands for: itself, or every item of a matrix.

    Raises:
        ParamsError: The graph has no such stage.
    """
    found = [stage for stage in graph if name in (stage, stage.split("@")[0])]
    if not found:
        raise ParamsError(
            f"one of the stages {', '.join(graph)}",
            found=repr(name),
            where="dvc.yaml",
            mend="Name a stage that `dvc stage list` shows.",
        )
    return found


def ancestors_of(graph: Graph, names: Iterable[str]) -> list[str]:
    """Return every stage above ``names``, in the graph's order, ``names`` themselves left out."""
    chosen = set(names)
    above: set[str] = set()
    frontier = list(chosen)
    while frontier:
        new = set(graph[frontier.pop()]) - above
        above |= new
        frontier += new
    return [stage for stage in graph if stage in above - chosen]


def stages_from(workspace: Workspace, start: str | None) -> list[str]:
    """Return the stages to run, in order: all of them, or those that are not above ``start``.

    Raises:
        ParamsError: There is no stage of that name.
        LineageError: A stage above ``start`` is not up to date.
    """
    graph = stages(workspace)
    if start is None:
        return list(graph)
    above = ancestors_of(graph, items_of(graph, start))
    if above and (stale := outdated(workspace, above)):
        raise LineageError(
            f"everything before {start} up to date",
            found=f"{', '.join(stale)} not up to date",
            where="dvc status",
            mend=f"Start at {stale[0]}, or without a starting stage.",
        )
    return [stage for stage in graph if stage not in above]


def share_out(names: Iterable[str], sections: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Give each stage to the section that lists it, matrix items by the name of their stage.

    Raises:
        ParamsError: No section lists a stage, so that it would never run.
    """
    owner = {stage: section for section, listed in sections.items() for stage in listed}
    shares: dict[str, list[str]] = {section: [] for section in sections}
    for name in names:
        if name.split("@")[0] not in owner:
            raise ParamsError(
                f"one of the stages {', '.join(owner)}",
                found=name,
                where="dvc.yaml",
                mend="Add the stage to the sub-flow that it belongs to, in flows/.",
            )
        shares[owner[name.split("@")[0]]].append(name)
    return shares


def outdated(workspace: Workspace, targets: Iterable[str] = ()) -> list[str]:
    """Return the stages and pinned files that are not up to date; empty means nothing is to do.

    Stages on demand count only where they are named.

    Args:
        workspace: The project.
        targets: Stages to look at; all of them, and the pinned files, when empty.

    Raises:
        StageBusy: A stage is running, so there is no answer.
        ParamsError: DVC cannot read the graph.
    """
    answer = run_dvc(workspace, "--wait-for-lock", "status", "--json", *targets)
    found: dict[str, object] = json.loads(answer or "{}")
    return [name for name in found if targets or not _is_on_demand(name)]


def run_dvc(workspace: Workspace, *arguments: str) -> str:
    """Run a short DVC command in the project and return what it printed.

    Raises:
        StageBusy: Another DVC process is writing a file that the command needs.
        ParamsError: DVC refused.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace.root,
        env=workspace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
    if BUSY in said:
        raise StageBusy(
            "no other stage at work",
            found=said.splitlines()[0],
            where=str(workspace.root),
            mend="Wait until it has ended, then ask again.",
        )
    raise ParamsError(
        f"`dvc {' '.join(arguments)}` to work",
        found=said.splitlines()[0],
        where=str(workspace.root / "dvc.yaml"),
        mend="Mend what DVC names, then try again.",
    )


def _is_stage(name: str) -> bool:
    return Path(name).suffix != ".dvc" and not _is_on_demand(name)


def _is_on_demand(name: str) -> bool:
    return name.startswith(f"{ON_DEMAND}:")
