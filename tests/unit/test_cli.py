import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = (
    "embed",
    "up",
    "run",
    "doctor",
    "sample",
    "promote",
    "registry",
    "models",
    "targets",
    "runs",
    "package",
    "verify",
)
HEAVY = ("torch", "mlflow", "prefect", "great_expectations", "numpy", "pandas", "deepspeed")


def run(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TESSERA_ROOT"}
    environment = kept | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command_and_its_purpose() -> None:
    done = run("-m", "tasks.cli", "--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"  {command} " in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2], "a purpose is cut short"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = run("-m", "tasks.cli", command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: tessera {command}")
    example = done.stdout.partition("Example")[2].partition("Options:")[0]
    assert f": tessera {command}" in " ".join(example.split()), "no example with a command line"


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom tasks.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    imported = set(run("-c", code).stderr.split())
    assert "typer" in imported
    assert not imported & set(HEAVY)


def test_outside_a_project_the_error_is_one_line_and_the_exit_code_is_not_zero(
    tmp_path: Path,
) -> None:
    done = run("-m", "tasks.cli", "run", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("tessera: ParamsError: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_settings_that_are_not_valid_are_refused_and_leave_the_project_as_it_was(
    tmp_path: Path,
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    bad = tmp_path / "bad.yaml"
    bad.write_text("pretrain: {steps: -1}\n")
    done = run("-m", "tasks.cli", "run", "--params", str(bad), folder=tmp_path)
    assert done.returncode == 1
    assert "bad.yaml" in done.stderr
    assert (tmp_path / "params.yaml").read_bytes() == (REPOSITORY / "params.yaml").read_bytes()
