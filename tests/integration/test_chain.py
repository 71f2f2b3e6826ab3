"""The whole graph through DVC, as a user drives it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tasks.manifest import digest_of, read_manifest
from tasks.workspace import Workspace
from tests.project import commit, output_digests, repro, run, write_settings

pytestmark = pytest.mark.slow
DVC = (sys.executable, "-m", "dvc")


@pytest.fixture(scope="module")
def finished(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("chain") / "project"
    shutil.copytree(finished_project, root, symlinks=True)
    commit(root, "First run")
    return Workspace(root)


def test_every_stage_is_complete_and_points_to_its_parents(finished: Workspace) -> None:
    parents_of = {
        "pack": ["ingest", "validate"],
        "pretrain": ["ingest", "pack"],
        "cache_targets": ["pack", "pretrain"],
        "distill@N": ["cache_targets", "ingest", "pack"],
        "export": ["distill@L", "distill@M", "distill@N", "distill@S", "evaluate", "ingest"],
    }
    for stage, parents in parents_of.items():
        manifest = read_manifest(finished.output(stage), verify=True)
        assert sorted(manifest.parents) == parents
        for parent, digest in manifest.parents.items():
            assert digest == digest_of(finished.output(parent))


def test_second_run_does_nothing(finished: Workspace) -> None:
    assert "Data and pipelines are up to date" in repro(finished.root)
    assert "up to date" in run(finished.root, *DVC, "status")


def test_metrics_plots_and_parameter_differences_are_there_to_read(finished: Workspace) -> None:
    metrics = json.loads(run(finished.root, *DVC, "metrics", "show", "--json"))
    assert "artifacts/evaluate/metrics.json" in metrics[""]["data"]
    run(finished.root, *DVC, "plots", "show", "-o", "plots")
    assert "vega" in (finished.root / "plots" / "index.html").read_text()
    before = (finished.root / "params.yaml").read_bytes()
    write_settings(finished.root, {"distill": {"learning_rate": 0.5}})
    differences = run(finished.root, *DVC, "params", "diff")
    (finished.root / "params.yaml").write_bytes(before)
    assert "distill.learning_rate" in differences


def test_old_parameters_come_back_from_the_run_cache(finished: Workspace, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished.root, project, symlinks=True)
    expected = output_digests(project)
    write_settings(project, {"pack": {"seed": 99}})
    assert "python -m tasks.pack" in repro(project, "pack")
    write_settings(project, {"pack": {"seed": 1}})
    assert "is cached - skipping run" in repro(project, "pack")
    assert output_digests(project) == expected


def test_outputs_travel_through_the_default_remote(finished: Workspace, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(finished.root, clone, symlinks=True)
    expected = output_digests(clone)
    run(clone, *DVC, "push", "-q")
    shutil.rmtree(clone / ".dvc" / "cache")
    shutil.rmtree(clone / "artifacts")
    shutil.rmtree(clone / "data")
    run(clone, *DVC, "pull", "-q")
    assert output_digests(clone) == expected
    assert "up to date" in run(clone, *DVC, "status")


def test_outputs_travel_through_s3_by_setting_one_url(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    where = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (credentials | where).items():
        monkeypatch.setenv(name, value)
    try:
        import s3fs

        s3fs.S3FileSystem().mkdir("tessera-store")
        clone = tmp_path / "clone"
        shutil.copytree(finished.root, clone, symlinks=True)
        expected = output_digests(clone)
        url = ("remote", "modify", "--local", "store", "url", "s3://tessera-store/dvc")
        run(clone, *DVC, *url)
        run(clone, *DVC, "push", "-q")
        shutil.rmtree(clone / ".dvc" / "cache")
        shutil.rmtree(clone / "artifacts")
        run(clone, *DVC, "pull", "-q", "distill", "export", "report")
        found = output_digests(clone)
        assert found == {name: expected[name] for name in found}
        assert "export/manifest.json" in found
    finally:
        server.stop()


def test_a_bad_archive_stops_before_training(finished: Workspace, tmp_path: Path) -> None:
    import numpy as np

    project = tmp_path / "project"
    shutil.copytree(finished.root, project, symlinks=True)
    victim = next((project / "data" / "tiles" / "2021").iterdir())
    bands = np.load(victim / "bands.npy")
    (victim / "bands.npy").unlink()
    np.save(victim / "bands.npy", np.roll(bands, 1, axis=-1))
    printed = repro(project, "distill", code=255)
    assert f"2021/{victim.name}" in printed
    assert "ValidationFailed" in printed
    assert "tasks.pretrain" not in printed
