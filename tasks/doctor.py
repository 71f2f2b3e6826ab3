"""``tessera doctor``: what is wrong with this installation or project, and how to mend it.

Every check answers, even when an earlier one fails: a broken thing is rarely alone. The checks
themselves are in ``tasks.diagnosis.installation`` (never changes anything) and ``tasks.diagnosis.leftovers`` (with
``--fix`` removes what a crash has left).
"""

import json
from collections.abc import Callable, Sequence

from tasks.diagnosis import installation, leftovers
from tasks.diagnosis.finding import Finding
from tasks.errors import StageBusy, TesseraError
from tasks.running.graph import outdated, run_dvc
from tasks.storing.remote import find_remote, read_settings
from tasks.workspace import Workspace

_MARKS = {"ok": "+", "warn": "!", "fail": "x", "mended": "*"}


def examine(workspace: Workspace, *, fix: bool = False) -> list[Finding]:
    """Run every check.

    Args:
        workspace: The project.
        fix: Mend what can be mended without losing anything.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "python": installation.check_python,
        "locked versions": lambda: installation.check_locked_versions(workspace),
        "torch": installation.check_torch,
        "compiler": installation.check_compiler,
        "git": lambda: installation.check_git(workspace),
        "disk": lambda: installation.check_disk(workspace),
        "data": lambda: check_data(workspace),
        "DVC remote": lambda: check_remote(workspace),
        "DVC locks": lambda: leftovers.check_dvc_locks(workspace, fix=fix),
        "stage locks": lambda: leftovers.check_stage_holders(workspace, fix=fix),
        "half-built outputs": lambda: leftovers.check_half_built(workspace, fix=fix),
        "compiler locks": lambda: leftovers.check_extension_locks(fix=fix),
        "experiments": lambda: leftovers.check_experiments(workspace, fix=fix),
        "project folder": lambda: leftovers.check_project_folder(workspace),
        "flow runs": lambda: leftovers.check_flow_runs(workspace, fix=fix),
    }
    return [asked(name, check) for name, check in checks.items()]


def check_data(workspace: Workspace) -> Finding:
    """Check that the raw archive is there with the bytes that ``data.dvc`` pins."""
    if not (workspace.root / "data.dvc").is_file():
        mend = "Pin the archive: dvc add data (or take the sample: tessera sample)"
        return Finding("data", "warn", "no data.dvc", mend)
    if not (workspace.root / "data").is_dir():
        return Finding("data", "fail", "no data/", "tessera sample, or: dvc pull data.dvc")
    if outdated(workspace, ["data.dvc"]):
        mend = "Restore it: dvc checkout data.dvc; or pin what is there: dvc add data"
        return Finding("data", "warn", "data/ differs from what data.dvc pins", mend)
    return Finding("data", "ok", "data/ as pinned by data.dvc")


def check_remote(workspace: Workspace) -> Finding:
    """Check that the DVC remote answers, what is not pushed yet, and that pulls from it are hashed."""
    if not run_dvc(workspace, "remote", "list").strip():
        mend = "dvc remote add --default NAME URL; without one, outputs exist only here"
        return Finding("DVC remote", "warn", "none configured", mend)
    missing = json.loads(run_dvc(workspace, "status", "--cloud", "--json") or "{}")
    pushed = f"{len(missing)} files not pushed: dvc push" if missing else "everything pushed"
    remote = find_remote(read_settings(workspace))
    if not remote.verifies:
        mend = f"dvc remote modify {remote.name} verify true; what is there already: tessera verify"
        return Finding("DVC remote", "warn", f"answers, {pushed}; a pull takes damaged bytes", mend)
    return Finding("DVC remote", "ok", f"answers, {pushed}")


def asked(name: str, check: Callable[[], Finding]) -> Finding:
    """Make a check, taking a failure for an answer: a program that refuses, a file that is broken."""
    try:
        return check()
    except StageBusy as error:
        return Finding(name, "ok", f"not judged while a stage runs: {error.found}")
    except TesseraError as error:
        return Finding(name, "fail", error.found, error.mend)
    except (OSError, ValueError) as error:
        mend = "Mend or remove what it names, then ask again."
        return Finding(name, "fail", f"{type(error).__name__}: {error}", mend)


def render(findings: Sequence[Finding]) -> str:
    """Return the findings as text, each with its mend below it."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.state]} {finding.name:<20} {finding.found}")
        lines += [f"  {'':<20} -> {finding.mend}"] if finding.mend else []
    return "\n".join(lines)


def to_json(findings: Sequence[Finding]) -> str:
    """Return the findings for a program."""
    healthy = all(finding.state != "fail" for finding in findings)
    return json.dumps({"healthy": healthy, "findings": [f.to_json() for f in findings]}, indent=1)
