"""Opening a registered model by its address, from a real MLflow registry on SQLite."""

from pathlib import Path

import numpy as np
import pytest

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.checkpoint import checkpoint_config, checkpoint_digest, write_checkpoint
from models.initialisation import initialise
from models.student import Student
from tasks.checkpoints import open_checkpoint
from tasks.errors import DigestMismatch, LineageError, ParamsError
from tasks.params import read_params
from tasks.promote import promote
from tasks.settings.section import Section
from tasks.stage import Stage, run_stage
from tasks.tracking import open_client
from tasks.workspace import Workspace
from tests.promotion import make_scores
from tests.unit.models.arrays import random_dpixels

pytestmark = pytest.mark.slow

STAGED = "models:/tessera-student@staging"


@pytest.fixture
def promoted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose registry has a real student in staging."""
    student = Student(StudentConfig(latent=4, layers=1, heads=2, feedforward=8))
    initialise(student, seed=1)
    config = checkpoint_config(
        student.config,
        NORMALISATIONS["tessera-v2-student"],
        ladder_step=16,
        ladder_largest=256,
        provenance={},
    )

    def fill(stage: Stage) -> None:
        write_checkpoint(stage.build, student.state_dict(), config)
        stage.tracker.log_model(stage.build, name="student-N", tags={"size": "N"})

    run_stage("distill@N", fill, workspace=workspace, section=Section(), inputs={"pack": "a" * 64})
    make_scores(workspace, 0.5)
    promote(workspace, read_params(workspace.params))
    monkeypatch.setenv("TESSERA_ROOT", str(workspace.root))
    return workspace


@pytest.mark.parametrize("address", [STAGED, "models:/tessera-student/1"])
def test_registered_model_encodes_as_its_checkpoint(promoted: Workspace, address: str) -> None:
    folder = promoted.output("distill@N")
    block = random_dpixels(20, seed=1)
    registered, own = open_checkpoint(address), open_checkpoint(folder)
    np.testing.assert_array_equal(registered.encoder.encode(block), own.encoder.encode(block))
    assert registered.digest == checkpoint_digest(folder)


def test_changed_weights_in_the_store_are_refused(promoted: Workspace) -> None:
    client = open_client(promoted)
    (version,) = client.search_model_versions("name = 'tessera-student'")
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    stored = Path(model.artifact_location.removeprefix("file://")) / "model.safetensors"
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(DigestMismatch, match="models:/tessera-student@staging"):
        open_checkpoint(STAGED)


@pytest.mark.usefixtures("promoted")
def test_unknown_model_or_address_is_refused_by_name() -> None:
    with pytest.raises(LineageError, match="no-such"):
        open_checkpoint("models:/no-such@staging")
    with pytest.raises(ParamsError, match="models:/name@alias"):
        open_checkpoint("models:/../../etc@x")
