"""What one flow run did: receipts of its stages, their output, its processes.

A flow run and the terminal that watches it are different processes, and either may be killed. So
each receipt and each line of output is appended to files in ``.tessera/runs/<run id>/`` when it
happens: the terminal follows them and the summary reads them. The processes of a run carry its id in
their environment, so whoever survives can end a stage whose flow has died.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tasks.errors import StageFailed
from tasks.running import processes
from tasks.workspace import Workspace

RUN_MARK = "TESSERA_FLOW_RUN"
"""Environment variable that names the flow run to the processes of its stages."""

Status = Literal["ran", "restored", "up to date", "promoted", "kept", "failed"]
"""How a stage ended: it ran, its output came from DVC's run cache, or nothing had changed;
``promoted`` and ``kept`` are the gate's two answers."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a stage did in a flow run; the only thing that flows pass around."""

    stage: str
    status: Status
    seconds: float
    digest: str | None = None
    """SHA-256 of the output's manifest; ``None`` where the stage writes none."""
    message: str = ""
    """The stage's own last word: why it failed, or what the gate decided."""


@dataclass(frozen=True, slots=True)
class Journal:
    """The files of one flow run.

    Args:
        workspace: The project.
        run: Id of the flow run.
    """

    workspace: Workspace
    run: str

    @property
    def folder(self) -> Path:
        """Where the files of this run lie."""
        return self.workspace.state / "runs" / self.run

    @property
    def log(self) -> Path:
        """Every line that the stages printed, each after its stage's name."""
        return self.folder / "log.txt"

    def add(self, receipt: Receipt) -> None:
        """Append a receipt."""
        _append(self.folder / "receipts.jsonl", json.dumps(asdict(receipt)))

    def receipts(self) -> list[Receipt]:
        """Return the receipts so far; of a stage that was tried twice, the last one."""
        path = self.folder / "receipts.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [Receipt(**json.loads(line)) for line in lines]
        return list({receipt.stage: receipt for receipt in found}.values())

    def note(self, stage: str, line: str) -> None:
        """Append a line of a stage's output."""
        _append(self.log, f"{stage} | {line}")

    def clear(self) -> None:
        """Forget everything, for a journal that is used again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self) -> None:
        """Let stages run again, after an earlier attempt of the same run was ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ended.unlink(missing_ok=True)

    def check_open(self, stage: str) -> None:
        """Refuse to go on with a run that was ended.

        A stage asks after it has started its process: then whoever ends the run either sees the
        process, or the stage sees that the run was ended.

        Raises:
            StageFailed: The run was ended; what was started is the caller's to end.
        """
        if self._ended.exists():
            raise StageFailed(
                "a run that goes on",
                found="a run that was ended",
                where=stage,
                mend="Run again: what is done is kept.",
            )

    def end(self) -> None:
        """End the run: no stage starts any more, and no process of its stages is left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ended.touch()
        processes.end_marked(RUN_MARK, self.run)

    @property
    def _ended(self) -> Path:
        return self.folder / "ended"


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(line + "\n")
