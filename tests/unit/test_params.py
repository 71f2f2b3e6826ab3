from pathlib import Path

import pytest

from tasks.errors import ParamsError
from tasks.params import read_params, set_archive, use_params

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((REPOSITORY / "params.yaml").read_bytes())
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  steps:", "  setps:", "pretrain.setps"),
        ("keep_last: 2", "keep_last: 1", "pretrain.execution.keep_last"),
        ("latent: 16, layers", "latent: -1, layers", "expected latent of at least 1, got -1"),
        ("batch_size: 256", "batch_size: 257\n  batch_size: 256", "not YAML"),
        ("processes: 1", "processes: 3", "not a multiple of twice the processes 3"),
        ("largest: 256", "largest: 250", "largest 250 is no multiple of step 16"),
        ("view_lengths: [8, 16]", "view_lengths: []", "pretrain.view_lengths"),
        ("pack:", "packing:", "pack: Field required"),
        ("model: tessera-student", "model: ../escape", "promote.model"),
    ],
)
def test_wrong_setting_is_refused_by_name(old: str, new: str, message: str, settings: Path) -> None:
    text = settings.read_text()
    assert old in text
    settings.write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError, match=message.replace(".", r"\.")):
        read_params(settings)


def test_missing_file_says_how_to_restore_it(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="git checkout"):
        read_params(tmp_path / "params.yaml")


def test_setting_the_archive_changes_one_line_only(settings: Path) -> None:
    before = settings.read_text().splitlines()
    set_archive(settings, "/elsewhere/tiles")
    after = settings.read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1
    assert "archive: /elsewhere/tiles" in changed[0][1]
    assert "# folder of tile folders" in changed[0][1]


def test_invalid_file_is_not_taken_as_the_workspace_settings(settings: Path) -> None:
    bad = settings.with_name("bad.yaml")
    bad.write_text("sample: {}\n")
    before = settings.read_bytes()
    with pytest.raises(ParamsError):
        use_params(bad, settings)
    assert settings.read_bytes() == before
