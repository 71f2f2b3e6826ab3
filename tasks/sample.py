"""``tessera sample``: make the simulated archive that ``data.dvc`` pins.

The archive is a function of ``params.sample`` alone, so it is made again on every machine instead of
being stored, and its digest proves that it is the same.
"""

from tasks.errors import DataError
from tasks.files import write_bytes
from tasks.params import read_params
from tasks.progress import say
from tasks.running.graph import run_dvc
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
    if not _is_pinned(workspace):
        raise DataError(
            f"the bytes that {_PIN} pins",
            found="others",
            where=str(folder),
            mend=f"Move your own data elsewhere (tessera run --data FOLDER), remove {_FOLDER}/ and "
            "try again; if params.sample was changed on purpose, pin it: dvc add data",
        )
    return f"{_FOLDER}/ {'made' if made else 'is there'}, with the bytes that {_PIN} pins"


def _is_pinned(workspace: Workspace) -> bool:
    """Return whether the folder has the pinned bytes; if so, DVC has them in its cache too.

    DVC's status does not look at the folder while its cache is empty, as it is in a fresh clone. So
    the folder is taken into the cache, which writes the pin anew, and the pins are compared.
    """
    pin = workspace.root / _PIN
    before = pin.read_bytes()
    try:
        run_dvc(workspace, "commit", "--quiet", "--force", _PIN)
        return pin.read_bytes() == before
    finally:
        if pin.read_bytes() != before:
            write_bytes(pin, before)


def _write(workspace: Workspace) -> None:
    from tasks.simulate import write_archive
    from tasks.simulator.config import SimulatorConfig

    sample = read_params(workspace.params).sample
    write_archive(SimulatorConfig(**dict(sample)), workspace.root / _FOLDER, progress=say)
