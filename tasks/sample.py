"""``tessera sample``: make the simulated archive that ``data.dvc`` pins.

The archive is a function of ``params.sample`` alone, so it is made again on every machine instead of
being stored, and its digest proves that it is the same.
"""

import json

from tasks.errors import DataError
from tasks.params import read_params
from tasks.progress import say
from tasks.running.graph import outdated, run_dvc
from tasks.workspace import Workspace

_FOLDER = "data"
_PIN = "data.dvc"


def make_sample(workspace: Workspace) -> str:
    """Write ``data/`` unless it is there, and hold it against its pin.

    Returns:
        One line that says what was made or found.

    Raises:
        DataError: The bytes are not those that ``data.dvc`` pins.
    """
    folder = workspace.root / _FOLDER
    made = not folder.exists()
    if made:
        _write(workspace)
    if not (workspace.root / _PIN).is_file():
        return f"{_FOLDER}/ {'made' if made else 'is there'}; pin it with: dvc add {_FOLDER}"
    if _changed(workspace) == "not in cache":
        # The bytes are right; DVC only has to take them into its cache.
        run_dvc(workspace, "commit", "--quiet", "--force", _PIN)
    if outdated(workspace, [_PIN]):
        raise DataError(
            f"the bytes that {_PIN} pins",
            found="others",
            where=str(folder),
            mend=f"Move your own data elsewhere (tessera run --data FOLDER), remove {_FOLDER}/ and "
            "try again; if params.sample was changed on purpose, pin it: dvc add data",
        )
    return f"{_FOLDER}/ {'made' if made else 'is there'}, with the bytes that {_PIN} pins"


def _changed(workspace: Workspace) -> str:
    """Return what DVC finds changed of the folder: "modified", "not in cache", or nothing."""
    status = json.loads(run_dvc(workspace, "status", "--json", _PIN) or "{}")
    entries = [entry for entry in status.get(_PIN, []) if isinstance(entry, dict)]
    return "".join(str(entry.get("changed outs", {}).get(_FOLDER, "")) for entry in entries)


def _write(workspace: Workspace) -> None:
    from tasks.simulate import write_archive
    from tasks.simulator.config import SimulatorConfig

    sample = read_params(workspace.params).sample
    write_archive(SimulatorConfig(**dict(sample)), workspace.root / _FOLDER, progress=say)
