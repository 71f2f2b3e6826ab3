"""Where DVC keeps objects, asked from ``dvc``: the remote with its settings, and the cache.

The settings of a remote mean here what they mean to DVC, so that what is verified is what a pull
would get. Secrets are passed on and never printed; without any, the usual AWS environment counts.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import ParamsError
from tasks.running.graph import run_dvc
from tasks.storing.store import Store, open_folder, open_s3
from tasks.workspace import Workspace

_PREFIX = "remote."
_FILES = {"credentialpath": "AWS_SHARED_CREDENTIALS_FILE", "configpath": "AWS_CONFIG_FILE"}
_OTHER_LAYOUT = ("worktree", "version_aware", "sse_customer_key")


@dataclass(frozen=True, slots=True)
class Remote:
    """A DVC remote."""

    name: str
    """Its name in the configuration."""
    url: str
    """Folder, or ``s3://bucket/prefix``."""
    settings: Mapping[str, str]
    """Everything that is configured for it, as text."""

    @property
    def verifies(self) -> bool:
        """Whether DVC hashes what it pulls from it."""
        return _flag(self.settings, "verify")

    def open(self) -> Store:
        """Open it; nothing is asked from it yet.

        Raises:
            ParamsError: It is of a kind that DVC reads in another way.
        """
        for setting in _OTHER_LAYOUT:
            if self.settings.get(setting, "false").lower() != "false":
                raise self._refusal(f"`{setting}` set")
        if self.url.startswith("s3://"):
            return open_s3(self.url, _s3_options(self.settings))
        if "://" in self.url:
            raise self._refusal(self.url.partition("://")[0])
        return open_folder(self.url)

    def _refusal(self, found: str) -> ParamsError:
        return ParamsError(
            "a folder or s3:// with objects named by their content",
            found=found,
            where=f"DVC remote {self.name}",
            mend="Name another remote: tessera verify --remote NAME",
        )


def read_settings(workspace: Workspace) -> dict[str, str]:
    """Return DVC's configuration, all levels of it, as ``section.option`` to text.

    Raises:
        ParamsError: DVC cannot read it.
    """
    # Levels come in rising order of precedence, so the last line of a setting counts.
    lines = run_dvc(workspace, "config", "--list").splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def find_remote(settings: Mapping[str, str], name: str | None = None) -> Remote:
    """Return a remote by its name, or the default one.

    Raises:
        ParamsError: There is none of that name, or no default.
    """
    chosen = name or settings.get("core.remote", "")
    own = {
        key.rpartition(".")[2]: value
        for key, value in settings.items()
        if key.rpartition(".")[0] == _PREFIX + chosen
    }
    if "url" not in own:
        remotes = {key.split(".")[1] for key in settings if key.startswith(_PREFIX)}
        raise ParamsError(
            f"one of the remotes {', '.join(sorted(remotes))}" if remotes else "a DVC remote",
            found=repr(chosen) if chosen else "no default",
            where="dvc config",
            mend="dvc remote add --default NAME URL",
        )
    return Remote(chosen, own["url"], own)


def open_cache(workspace: Workspace, settings: Mapping[str, str]) -> Store:
    """Open the DVC cache of this checkout."""
    return open_folder(settings.get("cache.dir", str(workspace.root / ".dvc" / "cache")))


def _s3_options(settings: Mapping[str, str]) -> dict[str, Any]:
    for setting, variable in _FILES.items():
        if setting in settings:
            os.environ.setdefault(variable, settings[setting])
    certificates = settings.get("ssl_verify")
    client = {
        "endpoint_url": settings.get("endpointurl"),
        "region_name": settings.get("region"),
        "verify": {"true": True, "false": False}.get(str(certificates).lower(), certificates),
    }
    timeouts = {name: settings.get(name) for name in ("read_timeout", "connect_timeout")}
    return {
        "key": settings.get("access_key_id"),
        "secret": settings.get("secret_access_key"),
        "token": settings.get("session_token"),
        "profile": settings.get("profile"),
        "anon": _flag(settings, "allow_anonymous_login"),
        "use_ssl": _flag(settings, "use_ssl", default=True),
        "client_kwargs": {key: value for key, value in client.items() if value is not None},
        "config_kwargs": {key: int(value) for key, value in timeouts.items() if value is not None},
    }


def _flag(settings: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    return settings.get(name, str(default)).lower() == "true"
