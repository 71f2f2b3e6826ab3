"""The probe that ranks checkpoints: whose ground it is, what it scores, what it costs to keep."""

from pathlib import Path

import numpy as np
import pytest

from models.architecture import StudentConfig
from models.buckets import ladder
from models.encode import Encoder
from models.initialisation import initialise
from models.student import Student
from tasks.archive import Archive
from tasks.errors import DataError
from tasks.evaluation.ground import Ground, survey_ground
from tasks.evaluation.labels import Task, read_tasks
from tasks.ingest import Catalogue
from tasks.packing.normalisation import resolve
from tasks.params import Params, read_params
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.tiles import read_tile
from tasks.training.probe import Labelled, Probe, read_probe, write_probe
from tasks.training.probing import draw_probe
from tests.packs import catalogue_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings() -> Params:
    params = read_params(REPOSITORY / "params.yaml")
    evaluate = params.evaluate.model_copy(update={"min_dpixels": 10, "block_px": 4})
    return params.model_copy(update={"evaluate": evaluate})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, settings: Params) -> Ground:
    folder = tmp_path_factory.mktemp("archive") / "data"
    write_archive(SimulatorConfig(seed=5, num_tiles=2, tile_size_px=16, years=(2021, 2022)), folder)
    return survey_ground(opened(catalogue_of(folder)), settings.evaluate.block_px)


@pytest.fixture(scope="module")
def probe(ground: Ground, settings: Params) -> Probe:
    drawn = draw_probe(ground, settings)
    assert drawn is not None
    return drawn


def opened(catalogue: Catalogue) -> Archive:
    return Archive(catalogue, tuple(read_tile(catalogue.tile(i)) for i in range(len(catalogue))))


def student() -> Encoder:
    model = Student(StudentConfig(latent=4, layers=1, heads=2, feedforward=16))
    initialise(model, seed=1)
    normalisation = resolve("tessera-v2-student", Path())
    return Encoder(model, normalisation, ladder(16, 256))


def labelled(kind: str, num_groups: int = 40, each: int = 5) -> Labelled:
    """Return a task whose groups are of one class (or level) each, with its folds."""
    group = np.repeat(np.arange(num_groups), each)
    value = 1 + group % 4 if kind == "classification" else (group % 4).astype(np.float64)
    at = np.arange(len(group))
    where = (np.zeros_like(group), at, group, value)
    if kind == "classification":
        return Labelled(Task("t", "classification", *where, 3, {}), at, group // 4 % 3)
    return Labelled(Task("t", "regression", *where, 3, {}), at, group // 4 % 3)


def test_probe_and_evaluation_share_no_group_no_pixel_and_no_place(
    ground: Ground, probe: Probe, settings: Params
) -> None:
    of_probe = ground.of_probe(settings.probe)
    evaluated = [
        task for task in read_tasks(ground, settings.evaluate, ~of_probe) if isinstance(task, Task)
    ]
    assert {task.name for task in evaluated} >= {t.task.name for t in probe.tasks} != set()
    ours = [t.task for t in probe.tasks]
    groups = [{g for task in tasks for g in task.group.tolist()} for tasks in (ours, evaluated)]
    assert groups[0]
    assert groups[1]
    assert groups[0].isdisjoint(groups[1])
    places = [
        {(ground.place[t], r) for task in tasks for t, r in zip(task.tile, task.row, strict=True)}
        for tasks in (ours, evaluated)
    ]
    assert places[0].isdisjoint(places[1])


def test_the_share_of_the_groups_is_as_asked_and_a_parcel_keeps_its_side(
    ground: Ground, settings: Params
) -> None:
    many = Ground(ground.archive, 4, (), (), np.arange(5000), np.arange(5000))
    share = settings.probe.share
    assert many.of_probe(settings.probe).mean() == pytest.approx(
        share, abs=4 * (0.25 / 5000) ** 0.5
    )
    # The same names, numbered otherwise because others came before.
    later = Ground(ground.archive, 4, (), (), np.arange(5000), np.arange(5000)[::-1].copy())
    sides = many.of_probe(settings.probe)
    np.testing.assert_array_equal(later.of_probe(settings.probe)[::-1], sides)


def test_dpixels_are_those_of_the_archive(ground: Ground, probe: Probe) -> None:
    for one in probe.tasks:
        task = one.task
        ids = (task.tile.astype(np.uint64) << np.uint64(32)) + task.row.astype(np.uint64)
        np.testing.assert_array_equal(probe.dpixels.pixel_id[one.at], ids)
    at = int(probe.tasks[0].at[0])
    tile, row = divmod(int(probe.dpixels.pixel_id[at]), 2**32)
    alone = ground.archive.dpixels(tile, np.array([row]))
    np.testing.assert_array_equal(probe.dpixels.take(np.array([at])).s2.values, alone.s2.values)


def test_a_probe_read_back_scores_the_same(probe: Probe, tmp_path: Path) -> None:
    write_probe(tmp_path / "probe.npz", probe)
    first = (tmp_path / "probe.npz").read_bytes()
    write_probe(tmp_path / "probe.npz", probe)
    assert (tmp_path / "probe.npz").read_bytes() == first
    encoder = student()
    numbers = read_probe(tmp_path / "probe.npz").score(encoder, (16, 32, 64, 128))
    assert numbers == probe.score(encoder, (16, 32, 64, 128))
    tasks = [numbers[f"probe_task_{one.task.name}"] for one in probe.tasks]
    assert numbers["probe"] == pytest.approx(np.mean(tasks))
    assert numbers.keys() >= {"probe_16", "probe_32", "probe_64", "probe_error"}
    assert "probe_128" not in numbers


def test_a_prefix_scores_as_if_it_were_all(probe: Probe) -> None:
    embedding = student().encode(probe.dpixels)
    for one in probe.tasks:
        together = one.scores(embedding, (16, 128))[16][0]
        assert one.scores(embedding[:, :16], (16,))[16][0] == pytest.approx(together, abs=1e-9)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_features_that_say_the_truth_score_one_and_those_that_say_the_group_score_nothing(
    kind: str,
) -> None:
    one = labelled(kind)
    truth = np.eye(4, dtype=np.float32)[one.task.group % 4]
    assert one.scores(truth, (4,))[4][0] == pytest.approx(1.0, abs=0.01)
    group = np.eye(40, dtype=np.float32)[one.task.group]
    assert one.scores(group, (40,))[40][0] <= 0.01
    noise = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    assert one.scores(noise, (8,))[8][0] < 0.2


def test_an_encoder_that_has_diverged_is_named(probe: Probe) -> None:
    encoder = student()
    for parameter in encoder.model.dim_reducer.parameters():
        parameter.data[:] = np.nan
    with pytest.raises(DataError, match=f"found {len(probe.dpixels)} of {len(probe.dpixels)}"):
        probe.score(encoder)


def test_an_archive_without_labels_has_no_probe(ground: Ground, settings: Params) -> None:
    entries = ground.archive.catalogue.entries
    bare = [type(entry)(entry.key, entry.year, entry.files, {}) for entry in entries]
    catalogue = Catalogue(ground.archive.catalogue.archive, tuple(bare))
    archive = Archive(catalogue, ground.archive.tiles)
    assert draw_probe(survey_ground(archive, 4), settings) is None


def test_labels_that_are_too_few_make_no_probe(ground: Ground, settings: Params) -> None:
    many = settings.probe.model_copy(update={"min_dpixels": 140, "max_dpixels": 150})
    few = settings.model_copy(update={"probe": many.model_copy(update={"share": 0.02})})
    assert draw_probe(ground, few) is None
