"""Checks of the machine and the environment: does what the pipeline needs exist, in the right version.

Everything is measured, nothing is changed: what is wrong here is mended by an installer, not by us.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.diagnosis.finding import Finding, State
from tasks.workspace import Workspace

_PYTHON = (3, 11)
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
_NAMED = 5
_FEW_BYTES = 10 * 10**9
_TOO_FEW_BYTES = 2 * 10**9
_SYNC = "Install the locked environment again: rm -f .venv/.ready; make setup"


def check_python() -> Finding:
    """Check the interpreter: the lock files hold for one minor version of Python only."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == _PYTHON:
        return Finding("python", "ok", found)
    mend = "Install Python 3.11, then: rm -rf .venv; make PYTHON=/path/to/python3.11 setup"
    return Finding("python", "fail", found, mend)


def check_locked_versions(workspace: Workspace) -> Finding:
    """Compare installed distributions with the lock files, Torch with any of its builds."""
    folder = workspace.root / "infra" / "lock"
    builds = {v for path in folder.glob("torch-*.txt") for n, v in _pins(path) if n == "torch"}
    wrong = [_differs(name, {pin}) for name, pin in _pins(folder / "requirements.txt")]
    wrong += [_differs("torch", builds)] if builds else []
    if not wrong:
        return Finding("locked versions", "warn", f"no lock file in {folder}", "make lock")
    named = [line for line in wrong if line]
    if not named:
        return Finding("locked versions", "ok", f"{len(wrong)} distributions as locked")
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return Finding("locked versions", "fail", "; ".join(named[:_NAMED]) + more, _SYNC)


def check_torch() -> Finding:
    """Import Torch in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return Finding("torch", "ok", done.stdout.strip())
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding("torch", "fail", said, _SYNC)


def check_compiler() -> Finding:
    """Look for a C++ compiler, which DeepSpeed's fused operators need."""
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found:
        return Finding("compiler", "ok", found)
    return Finding(
        "compiler",
        "warn",
        "no C++ compiler",
        "Training runs without it; for DeepSpeed's fused operators install one (g++).",
    )


def check_git(workspace: Workspace) -> Finding:
    """Check that the project is a Git repository with somebody to commit as."""
    if shutil.which("git") is None:
        return Finding("git", "fail", "not installed", "Install Git.")
    if _git(workspace, "rev-parse", "--is-inside-work-tree") != "true":
        mend = "Runs work, but no commit is recorded with them. Clone the repository, or: git init"
        return Finding("git", "warn", f"{workspace.root} is no repository", mend)
    name = _git(workspace, "config", "user.name")
    if not name or not _git(workspace, "config", "user.email"):
        mend = "git config --global user.name NAME; git config --global user.email ADDRESS"
        return Finding("git", "warn", "no identity to commit as", mend)
    return Finding("git", "ok", f"repository, committing as {name}")


def check_disk(workspace: Workspace) -> Finding:
    """Check the free space where the project lies."""
    free = shutil.disk_usage(workspace.root).free
    found = f"{free / 1e9:.1f} GB free"
    if free >= _FEW_BYTES:
        return Finding("disk", "ok", found)
    state: State = "warn" if free >= _TOO_FEW_BYTES else "fail"
    return Finding("disk", state, found, "Free some space; old outputs go with: dvc gc --workspace")


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        if found := _PINNED.match(line):
            yield found["name"], found["version"]


def _differs(name: str, pins: set[str]) -> str:
    """Say how the installed version differs from the pins; a build tag (+cpu) does not count."""
    wanted = {pin.split("+")[0] for pin in pins}
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "missing"
    return "" if found.split("+")[0] in wanted else f"{name} {found}, locked {sorted(wanted)[0]}"


def _git(workspace: Workspace, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=workspace.root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
