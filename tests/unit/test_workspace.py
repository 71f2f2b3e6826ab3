import shutil
import sys
from pathlib import Path

import pytest

from tasks.workspace import Workspace


def test_children_run_this_interpreter_though_nobody_activated_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = shutil.which("python", path=Workspace(tmp_path).environment()["PATH"])
    assert found is not None
    assert Path(found).parent == Path(sys.executable).parent
