"""MLflow's models: what the runs of the stages logged, and versions of them in the registry.

The one idea: a model is found by the digest of the output that it is, never by a name that may move;
an output whose run this store has not seen is logged anew. Who reads a version's files holds them
against the digest in its tags.

It deliberately knows no scores and no aliases' meaning: see ``tasks.registry``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import LineageError
from tasks.tracking import Tracker, experiment_id, has_model, open_client, run_of
from tasks.workspace import Workspace

# After `tasks.tracking`, which sees to it that MLflow is imported quietly.
from mlflow import MlflowClient  # isort: skip
from mlflow.artifacts import download_artifacts  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip

CHECKPOINT_TAG = "tessera.checkpoint"
"""Digest of the weights and their configuration; whoever loads a version holds it against them."""


def model_of(client: MlflowClient, workspace: Workspace, digest: str) -> tuple[str, str] | None:
    """Find what a finished run logged for an output.

    Args:
        client: From ``open_client``.
        workspace: The project.
        digest: Digest of the output's manifest.

    Returns:
        Ids of the model and of the run that made it; ``None`` where this store has never seen the
        run, as after ``dvc pull`` on another machine.
    """
    run = run_of(client, experiment_id(client, workspace), digest)
    return (run.data.tags["tessera.model"], run.info.run_id) if has_model(run) else None


def adopt_model(
    client: MlflowClient, workspace: Workspace, folder: Path, *, stage: str, digest: str
) -> tuple[str, str]:
    """Log the model of an output that another machine made; return the ids of model and run."""
    experiment = experiment_id(client, workspace)
    tags = {"tessera.stage": stage, "tessera.adopted": "true"}
    run = client.create_run(experiment, run_name=f"adopt {stage}", tags=tags)
    tracker = Tracker(client, run.info.run_id, experiment, {})
    model = tracker.log_model(folder, name=stage.replace("@", "-"), tags={"kind": "student"})
    tracker.set_tags({"tessera.digest": digest})
    client.set_terminated(run.info.run_id, "FINISHED")
    return model, str(run.info.run_id)


def find_registered(client: MlflowClient, name: str) -> Any | None:
    """Return a registered model by its name; ``None`` where there is none of that name."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def make_version(
    client: MlflowClient,
    workspace: Workspace,
    name: str,
    ids: tuple[str, str],
    tags: dict[str, str],
) -> str:
    """Register a logged model as a version of a registered model; return the version.

    Args:
        client: From ``open_client``.
        workspace: The project.
        name: Registered model, already there.
        ids: Logged model and the run that made it.
        tags: Tags of the version.
    """
    with _store_of(workspace):
        made = client.create_model_version(name, f"models:/{ids[0]}", ids[1], tags)
    return str(made.version)


def download_model(
    workspace: Workspace, name: str, at: str, folder: Path
) -> tuple[Path, dict[str, str]]:
    """Download the files of a registered model.

    Args:
        workspace: The project.
        name: Registered model.
        at: ``@alias`` or ``/version``.
        folder: Where to.

    Returns:
        The folder of the files, and the tags of the version.

    Raises:
        LineageError: The registry has no such model, alias or version.
    """
    client = open_client(workspace)
    try:
        found = (
            client.get_model_version_by_alias(name, at[1:])
            if at.startswith("@")
            else client.get_model_version(name, at[1:])
        )
        with _store_of(workspace):
            files = download_artifacts(
                artifact_uri=f"models:/{name}/{found.version}",
                dst_path=str(folder),
                tracking_uri=workspace.tracking_uri,
            )
    except MlflowException as error:
        raise LineageError(
            "a registered model",
            found=str(error).splitlines()[0],
            where=f"models:/{name}{at}",
            mend="See what is there with: tessera registry",
        ) from error
    return Path(files), dict(found.tags)


@contextmanager
def _store_of(workspace: Workspace) -> Iterator[None]:
    """Let MLflow find ``models:/`` in the workspace's store; it looks there, not in the client."""
    key = "MLFLOW_TRACKING_URI"
    before = os.environ.get(key)
    os.environ[key] = workspace.tracking_uri
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
