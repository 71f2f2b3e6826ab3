"""Promotions that are killed half-way, and what the ledger says of them."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import PromotionRefused
from tasks.params import Params, read_params
from tasks.promote import promote
from tasks.registry import ledger_of, registry
from tasks.tracking import open_client
from tasks.workspace import Workspace
from tests.promotion import make_scores, staged, stand

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def params(workspace: Workspace) -> Params:
    """The settings of the project."""
    return read_params(workspace.params)


def test_renewal_is_in_the_ledger_with_the_scores_before_and_after(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    make_scores(workspace, 0.3, suite="s2")
    promote(workspace, params)
    promote(workspace, params)  # nothing is left to renew
    _, _, decided, finished = ledger_of(workspace).lines()
    assert (decided["decision"], finished["outcome"]) == ("renew", "renewed")
    assert decided["scores_before"]["composite"]["128"] == 0.5
    assert decided["scores"]["composite"]["128"] == 0.3
    (version,) = registry(workspace)
    assert "no incumbent" in version.why


KILLED_AT_A_WRITE = """
import os, signal, sys
from mlflow import MlflowClient
from tasks.params import read_params
from tasks.promote import promote
from tasks.workspace import Workspace
from pathlib import Path

write, writes = MlflowClient.set_model_version_tag, []

def counted(*arguments, **settings):
    write(*arguments, **settings)
    writes.append(1)
    if len(writes) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

MlflowClient.set_model_version_tag = counted
workspace = Workspace(Path(sys.argv[1]))
promote(workspace, read_params(workspace.params))
"""


def test_kill_between_the_writes_of_a_renewal_never_mixes_two_evaluations(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    make_scores(workspace, 0.8, suite="s2")
    whole = [("s1", {"16": 0.1, "128": 0.5}), ("s2", {"16": 0.1, "128": 0.8})]
    code, at = -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        at += 1
        command = [sys.executable, "-c", KILLED_AT_A_WRITE, str(workspace.root), str(at)]
        environment = workspace.environment() | {"PYTHONPATH": str(REPOSITORY)}
        code = subprocess.run(command, env=environment, check=False).returncode
        (version,) = registry(workspace)
        assert (version.candidate.suite, version.candidate.composites) in whole
    assert (code, at) == (0, 2)
    # Better than the old score of the incumbent, but worse than the one it has now.
    stand(workspace, 2.0, 0.6, suite="s2")
    with pytest.raises(PromotionRefused, match=r"0\.800000.*0\.600000"):
        promote(workspace, params)


def crash_before_the_alias_moves(workspace: Workspace, params: Params) -> None:
    """Leave what a process leaves that dies right after it has written its decision."""
    model = params.promote.model
    promote(workspace, params)
    open_client(workspace).delete_registered_model_alias(model, "staging")
    path = ledger_of(workspace).path
    decided = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(decided + b'{"event": "fini')  # and the next line was cut off


def test_crash_between_ledger_and_alias_is_finished_by_the_next_call(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    crash_before_the_alias_moves(workspace, params)
    assert staged(workspace) == {}
    done = promote(workspace, params)
    assert (done.version, done.moved) == ("1", False)
    assert staged(workspace) == {"staging": "1"}
    assert ledger_of(workspace).unfinished() == []


def test_interrupted_decision_does_not_undo_a_later_one(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    stand(workspace, 2.0, 0.6)
    promote(workspace, params)
    ledger = ledger_of(workspace)
    facts: dict[str, Any] = {
        "model": params.promote.model,
        "alias": "staging",
        "from": "9",
        "to": "1",
        "text": "",
    }
    ledger.decide("promote", **facts)
    promote(workspace, params)
    assert staged(workspace) == {"staging": "2"}
    assert ledger.unfinished() == []


def test_decision_for_a_version_that_was_deleted_is_given_up_and_blocks_nobody(
    workspace: Workspace, params: Params
) -> None:
    stand(workspace, 1.0, 0.5)
    crash_before_the_alias_moves(workspace, params)
    open_client(workspace).delete_model_version(params.promote.model, "1")
    done = promote(workspace, params)
    assert (done.version, done.moved) == ("2", True)
    ended = [line["outcome"] for line in ledger_of(workspace).lines() if "outcome" in line]
    assert ended == ["given up: version 1 was deleted", "moved"]


def test_registry_gives_no_reason_that_was_given_up(workspace: Workspace, params: Params) -> None:
    stand(workspace, 1.0, 0.5)
    promote(workspace, params)
    ledger = ledger_of(workspace)
    facts = {"model": params.promote.model, "alias": "production", "from": None, "to": "1"}
    number = ledger.decide("promote", **facts, text="it never came to this")
    ledger.finish(number, "given up: the alias moved to 7")
    (version,) = registry(workspace)
    assert "no incumbent" in version.why
