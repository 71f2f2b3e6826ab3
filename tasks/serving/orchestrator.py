"""Talk to the Prefect server over HTTP: is it there, whose is it, runs and their states.

The tasks layer never imports Prefect; the few requests that starting, watching and ending a flow run
need are plain HTTP. Where the server is: ``PREFECT_API_URL``, else ``[tool.prefect]`` of the
project's ``pyproject.toml``, which Prefect's own command line reads as well.
"""

import json
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen
from uuid import uuid4

from tasks.errors import TesseraError
from tasks.workspace import Workspace

DEPLOYMENT = "tessera/full"
"""Flow and deployment name of the whole pipeline."""

POOL = "local"
"""Work pool of ``prefect.yaml``."""

IN_FLIGHT = ("PENDING", "RUNNING", "CANCELLING")
"""States of a run that a live process should stand behind."""

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
"""States that no run leaves."""

_DEFAULT_API = "http://127.0.0.1:4218/api"
_TIMEOUT_S = 60.0
_BUSY = 503
_BUSY_ATTEMPTS = 60
_BUSY_PAUSE_S = 1.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A flow run as the server tells it."""

    id: str
    name: str
    state: str
    """One of Prefect's state types, in capitals."""
    message: str
    pid: int | None
    """Process that executes it, as the worker has reported it."""

    @property
    def ended(self) -> bool:
        """Whether the run has reached a state that it will not leave."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """A Prefect server.

    Args:
        api: Its address, e.g. ``http://127.0.0.1:4218/api``.
    """

    api: str

    @property
    def host(self) -> str:
        """Name or address of the machine."""
        return urlsplit(self.api).hostname or ""

    @property
    def port(self) -> int:
        """TCP port."""
        return urlsplit(self.api).port or 80

    @property
    def is_local(self) -> bool:
        """Whether the server is to run on this machine, so that we may start it."""
        return self.host in _LOOPBACK

    @property
    def pages(self) -> str:
        """Address of the user interface."""
        return self.api.removesuffix("/api")

    def home(self) -> Path | None:
        """Return the folder in which the server keeps its state; ``None`` if none answers.

        A server that starts answers before it can work; it counts once its database does.
        """
        try:
            self._call("GET", "/ready", attempts=1)
            return Path(self._call("GET", "/admin/settings")["home"])
        except (TesseraError, OSError, ValueError, KeyError, TypeError):
            return None

    def worker_is_online(self, name: str) -> bool:
        """Tell whether the worker of that name has reported to the work pool."""
        try:
            found = self._call("POST", f"/work_pools/{POOL}/workers/filter", {"limit": 200})
        except TesseraError:
            return False
        return any(worker["name"] == name for worker in found)

    def start_run(self, parameters: dict[str, Any]) -> FlowRun:
        """Ask for a run of the whole pipeline; a worker takes it up.

        Args:
            parameters: Those of the flow that differ from the deployment's.
        """
        deployment = self._call("GET", f"/deployments/name/{DEPLOYMENT}")
        body = {
            "parameters": parameters,
            "state": {"type": "SCHEDULED"},
            "idempotency_key": uuid4().hex,  # a request that is sent again makes no second run
        }
        return _run(self._call("POST", f"/deployments/{deployment['id']}/create_flow_run", body))

    def run(self, run_id: str) -> FlowRun:
        """Return a run as it is now."""
        return _run(self._call("GET", f"/flow_runs/{run_id}"))

    def runs_in_flight(self) -> list[FlowRun]:
        """Return the outermost runs of the pipeline that count as alive."""
        body = {
            "flows": {"name": {"any_": [DEPLOYMENT.split("/", maxsplit=1)[0]]}},
            "flow_runs": {"state": {"type": {"any_": list(IN_FLIGHT)}}},
            "limit": 200,
        }
        return [_run(found) for found in self._call("POST", "/flow_runs/filter", body)]

    def cancel(self, run: FlowRun, *, wait_s: float) -> FlowRun:
        """Cancel a run and wait until its process has ended.

        Returns:
            The run as it is afterwards; still ``CANCELLING`` if nobody obeyed in time.
        """
        self._set_state(run, "CANCELLING", "Cancelled from the terminal")
        deadline = monotonic() + wait_s
        while not (now := self.run(run.id)).ended and monotonic() < deadline:
            sleep(0.5)
        return now

    def bury(self, runs: Sequence[FlowRun]) -> None:
        """Mark runs that no process stands behind as crashed; they would stay alive for ever."""
        for run in runs:
            self._set_state(run, "CRASHED", "Its process has ended without a word", force=True)

    def _set_state(self, run: FlowRun, state: str, message: str, *, force: bool = False) -> None:
        """Put a run into a state; ``force`` skips the server's rules."""
        body = {"state": {"type": state, "message": message}, "force": force}
        self._call("POST", f"/flow_runs/{run.id}/set_state", body)

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        attempts: int = _BUSY_ATTEMPTS,
    ) -> Any:
        request = Request(  # noqa: S310 - the address is the project's own setting
            self.api + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with _explained(self.api):
            return _send(request, attempts)


def orchestrator(workspace: Workspace) -> Orchestrator:
    """Return the project's Prefect server, whether it runs or not."""
    given = workspace.environment().get("PREFECT_API_URL")
    return Orchestrator((given or _configured(workspace)).rstrip("/"))


def _configured(workspace: Workspace) -> str:
    path = workspace.root / "pyproject.toml"
    if not path.is_file():
        return _DEFAULT_API
    settings = tomllib.loads(path.read_text()).get("tool", {}).get("prefect", {})
    return str(settings.get("api", {}).get("url", _DEFAULT_API))


def _run(found: dict[str, Any]) -> FlowRun:
    state = found["state"] or {"type": "SCHEDULED", "message": ""}
    return FlowRun(found["id"], found["name"], state["type"], state["message"] or "", _pid(found))


def _pid(found: dict[str, Any]) -> int | None:
    pid = str(found.get("infrastructure_pid") or "")
    return int(pid) if pid.isdigit() else None


def _send(request: Request, attempts: int) -> Any:
    """Send a request; again while the server says that its database is locked (503)."""
    for _ in range(attempts - 1):
        try:
            return _read(request)
        except HTTPError as error:
            if error.code != _BUSY:
                raise
        sleep(_BUSY_PAUSE_S)
    return _read(request)


def _read(request: Request) -> Any:
    with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
        return json.loads(answer.read() or b"null")


@contextmanager
def _explained(api: str) -> Iterator[None]:
    """Turn a failed request into an error that says what to do."""
    try:
        yield
    except HTTPError as error:
        found = f"HTTP {error.code}: {error.read().decode(errors='replace')[:300]}"
        mend = "If the deployment is missing, run: prefect --no-prompt deploy --all"
    except (URLError, TimeoutError, ConnectionError) as error:
        found, mend = str(error), "Start it: tessera up"
    else:
        return
    raise TesseraError("an answer from the Prefect server", found=found, where=api, mend=mend)
