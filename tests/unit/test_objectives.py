"""What a distillation and a pretraining compute in a step and at a probe, against other ways to it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.bands import S1_BANDS, S2_BANDS
from models.distillation import StudentWithHeads
from models.encode import Encoder
from models.hashing import hash_u64
from tasks.distill import StudentObjective
from tasks.params import read_params
from tasks.pretrain import TeacherObjective
from tasks.settings.training import DistillParams
from tasks.streaming.stream import open_stream
from tasks.training.inputs import as_groups, micro_batches, target_inputs, view_inputs
from tasks.training.launch import Job
from tasks.training.objective import Batch, encoder_part
from tests.corpora import make_dpixels, write_corpus, write_target_corpus
from tests.training_runs import REPOSITORY, Ended, run, small

ROWS, BLOCK_ROWS, TARGET = 120, 10, 12
PREFIXES = (4, 8, 16)


def student_settings(**changes: Any) -> DistillParams:
    section = read_params(REPOSITORY / "params.yaml").distill.complete()
    tiny = {"latent": 4, "layers": 1, "heads": 2, "feedforward": 16, "repr_dim": 16}
    section |= {"students": {"N": tiny | {"prefixes": PREFIXES}}, "batch_size": 16, "steps": 4}
    execution = section["execution"] | {"threads": 1, "checkpoint_every": 2}
    execution |= {name: changes.pop(name) for name in execution.keys() & changes.keys()}
    return DistillParams.model_validate(section | changes | {"execution": execution})


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """D-pixels, some without a sensor, and targets that their levels decide."""
    folder = tmp_path_factory.mktemp("parents")
    dpixels = make_dpixels(ROWS, seed=3, most=45)
    write_corpus(folder / "pack", dpixels, block_rows=BLOCK_ROWS, shard_blocks=4)
    random = np.random.default_rng(0)
    targets = random.normal(size=(ROWS, TARGET)).astype(np.float32)
    write_target_corpus(folder / "cache_targets", dpixels.pixel_id, targets, block_rows=BLOCK_ROWS)
    return folder


def student(parents: Path, params: DistillParams) -> StudentObjective:
    folders = {name: str(parents / name) for name in ("pack", "cache_targets")}
    return StudentObjective(Job("distill@N", {}, folders, str(parents)), params)


def model_of(objective: StudentObjective) -> StudentWithHeads:
    assert isinstance(objective.module, StudentWithHeads)
    return objective.module


def student_for_run(corpus: Path, params: Any) -> StudentObjective:
    """Make the objective in a process of a run."""
    return student(corpus, params)


def batch_of(
    objective: StudentObjective | TeacherObjective, params: Any, tmp_path: Path, step: int = 0
) -> Batch:
    stream = open_stream(objective.source, params, 0, 1, tmp_path / "skipped.jsonl")
    parts = stream.parts(step)
    stream.close()
    return Batch(step, parts, 8)


def gradient(objective: StudentObjective, batch: Batch) -> tuple[float, dict[str, float], Tensor]:
    objective.module.zero_grad()
    work = objective.work(objective.module, batch)
    passes = 0
    for term in work.terms:
        term.backward()  # type: ignore[no-untyped-call]  # torch has no types
        passes += 1
    assert passes == objective.backward_passes
    slopes = [p.grad.flatten() for p in objective.module.parameters() if p.grad is not None]
    return float(work.loss), dict(work.numbers), torch.cat(slopes)


@pytest.mark.parametrize("full_view_share", [0.0, 1.0])
def test_micro_batches_have_the_loss_and_gradient_of_the_whole(
    full_view_share: float, parents: Path, tmp_path: Path
) -> None:
    whole = student_settings(full_view_share=full_view_share)
    batch = batch_of(student(parents, whole), whole, tmp_path)
    loss, numbers, slope = gradient(student(parents, whole), batch)
    for size in (5, 8):  # one leaves a shorter last piece
        parted = student_settings(full_view_share=full_view_share, micro_batch=size)
        part_loss, part_numbers, part_slope = gradient(student(parents, parted), batch)
        assert part_loss == pytest.approx(loss, rel=1e-6)
        assert part_numbers == pytest.approx(numbers, rel=1e-5)
        assert float((part_slope - slope).norm() / slope.norm()) < 1e-6


def test_recomputed_layers_have_the_same_gradient_to_the_bit(parents: Path, tmp_path: Path) -> None:
    plain = student_settings(full_view_share=1.0)
    batch = batch_of(student(parents, plain), plain, tmp_path)
    _, _, slope = gradient(student(parents, plain), batch)
    saving = student_settings(full_view_share=1.0, activation_checkpointing=True)
    assert torch.equal(gradient(student(parents, saving), batch)[2], slope)


def test_pieces_of_a_batch_are_its_rows_in_their_order(parents: Path, tmp_path: Path) -> None:
    params = student_settings(batch_size=24)
    objective = student(parents, params)
    batches = [batch_of(objective, params, tmp_path, step) for step in range(4)]
    assert max(len(batch.parts) for batch in batches) > 1
    for batch in batches:
        rows = np.concatenate([part.rows for part in batch.parts])
        for size in (3, 7, 24):
            pieces = list(micro_batches(batch.parts, size))
            assert [sum(len(p.at) for p in piece) for piece in pieces[:-1]] == [size] * (
                len(pieces) - 1
            )
            found = [part.rows for piece in pieces for part in piece]
            np.testing.assert_array_equal(np.concatenate(found), rows)


def test_a_full_view_is_embedded_as_in_use(parents: Path, tmp_path: Path) -> None:
    params = student_settings(full_view_share=1.0, modality_dropout=0.0)
    objective = student(parents, params)
    batch = batch_of(objective, params, tmp_path)
    (piece,) = micro_batches(batch.parts, len(batch))
    target = target_inputs(piece, objective.device)
    _, found = objective.module(*objective._views(piece, 8, full=True), target)
    encoder = Encoder(model_of(objective).student, objective.normalisation, objective.ladder)
    blocks = [objective.source.dpixels.dpixels(n) for n in range(ROWS // BLOCK_ROWS)]
    expected = np.concatenate([encoder.encode(block) for block in blocks])
    rows = np.concatenate([part.rows for part in batch.parts])
    seen = np.isfinite(expected[rows]).all(axis=1)  # a d-pixel with nothing has no embedding
    assert seen.sum() > 10
    np.testing.assert_allclose(found[seen], expected[rows][seen], atol=2e-5)


def test_hidden_sensors_of_a_full_view_are_one_zero_token(parents: Path, tmp_path: Path) -> None:
    params = student_settings(full_view_share=1.0, modality_dropout=0.5)
    objective = student(parents, params)
    batch = batch_of(objective, params, tmp_path)
    for groups, bands in zip(objective._views(batch.parts, 8, full=True), (10, 2), strict=True):
        assert bands in {len(S2_BANDS), len(S1_BANDS)}
        assert sorted(torch.cat([rows for rows, _, _ in groups]).tolist()) == list(range(16))
        (alone,) = [group for group in groups if group[1].shape[1] == 1]
        assert len(alone[0]) >= 3
        assert not alone[1].any()
        assert not alone[2].any()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 0.25), (1.0, 1)])
def test_the_share_of_full_steps_is_as_asked(share: float, expected: float, parents: Path) -> None:
    objective = student(parents, student_settings(full_view_share=share))
    full = [objective._is_full(Batch(step, [], 8)) for step in range(1000)]
    assert np.mean(full) == pytest.approx(expected, abs=0.05)


def test_held_out_cosines_are_those_of_plain_arithmetic(parents: Path) -> None:
    objective = student(parents, student_settings())
    numbers = objective.assess(objective.module.state_dict())
    encoder = Encoder(model_of(objective).student, objective.normalisation, objective.ladder)
    blocks = range(ROWS // BLOCK_ROWS - 2, ROWS // BLOCK_ROWS)
    pairs = [objective.source.read(n) for n in blocks]
    embedding = np.concatenate([encoder.encode(dpixels) for dpixels, _ in pairs])
    targets = np.concatenate([np.asarray(target) for _, target in pairs]).astype(np.float64)
    heads: Any = model_of(objective).heads.heads
    for k, head in zip(PREFIXES, heads, strict=True):
        weight, bias = (p.detach().numpy().astype(np.float64) for p in (head.weight, head.bias))
        guess = embedding[:, :k] @ weight.T + bias
        lengths = np.linalg.norm(guess, axis=1) * np.linalg.norm(targets, axis=1)
        expected = ((guess * targets).sum(axis=1) / lengths).mean()
        assert numbers[f"cosine_{k}"] == pytest.approx(expected, abs=1e-6)
    cosines = [numbers[f"cosine_{k}"] for k in PREFIXES]
    assert numbers["held_out_loss"] == pytest.approx(sum(1 - c for c in cosines), abs=1e-6)
    assert not any(name.startswith("probe") for name in numbers)  # nothing is labelled


def test_held_out_barlow_twins_is_that_of_plain_arithmetic(parents: Path) -> None:
    params = small(mixup_weight=1.0, stream={"held_out_blocks": 2})
    job = Job("pretrain", {}, {"pack": str(parents / "pack")}, str(parents))
    objective = TeacherObjective(job, params)
    found = objective.assess(objective.module.state_dict())["held_out_loss"]
    held = objective._held_out
    assert held is not None
    model: Any = objective.module
    z = []
    for view in (0, 1):
        inputs = view_inputs(
            [held.part], view, 16, objective.scales, dropout=0.0, device=torch.device("cpu")
        )
        with torch.no_grad():
            projection = model.projector(model.teacher(*inputs))
        wide = projection.double().numpy()
        z.append((wide - wide.mean(0)) / wide.std(0, ddof=1))
    c = z[0].T @ z[1] / len(z[0])
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    expected = ((np.diag(c) - 1) ** 2).sum() + params.off_diagonal_weight * off
    assert found == pytest.approx(expected / params.projector.width, rel=1e-4)


def test_assessing_leaves_weights_gradients_and_random_numbers_as_they_were(parents: Path) -> None:
    objective = student(parents, student_settings())
    module: nn.Module = objective.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (objective.assess(module.state_dict()) for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def trained(work: Path, parents: Path, **changes: Any) -> Ended:
    params: Any = student_settings(full_view_share=0.6, steps=6, **changes)
    ended = run(work, parents, params, objective=student_for_run)
    assert ended.codes == [0] * params.execution.processes, ended.error
    return ended


@pytest.mark.slow
def test_two_processes_with_micro_batches_and_zero_3_record_the_losses_of_one(
    parents: Path, tmp_path: Path
) -> None:
    alone = trained(tmp_path / "alone", parents).records
    assert {row["view_length"] == 0 for row in alone} == {True, False}
    others: dict[str, dict[str, Any]] = {
        "pieces": {"processes": 2, "micro_batch": 3},
        "zero3": {"deepspeed": "infra/deepspeed/zero3.json"},
    }
    for name, changes in others.items():
        records = trained(tmp_path / name, parents, **changes).records
        for column in ("loss", "cosine_16", "effective_rank"):
            assert [row.get(column, 0.0) for row in records] == pytest.approx(
                [row.get(column, 0.0) for row in alone], rel=1e-4
            )


def test_the_encoders_weights_are_found_among_those_of_the_module(parents: Path) -> None:
    objective = student(parents, student_settings())
    found = encoder_part(objective, objective.module.state_dict())
    expected = objective.encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    objective.encoder = objective.module
    assert encoder_part(objective, expected).keys() == expected.keys()


def test_seeds_of_held_out_rows_are_not_those_of_training(parents: Path, tmp_path: Path) -> None:
    params = student_settings()
    objective = student(parents, params)
    assert objective._held_out is not None
    drawn = {int(s) for p in batch_of(objective, params, tmp_path).parts for s in p.seeds}
    assert drawn.isdisjoint(objective._held_out.part.seeds.tolist())
    assert len({int(hash_u64(s, 0)) for s in objective._held_out.part.seeds}) == 20


def test_one_group_of_all_rows_is_the_view_itself(parents: Path, tmp_path: Path) -> None:
    params = student_settings()
    objective = student(parents, params)
    parts = batch_of(objective, params, tmp_path).parts
    view = view_inputs(parts, 0, 8, objective.scales, dropout=0.0, device=objective.device)
    target = target_inputs(parts, objective.device)
    _, embedding = objective.module(*as_groups(view), target)
    assert torch.equal(embedding, objective.encoder(*view).detach())


def test_full_views_on_several_processes_are_refused_under_zero_3(
    parents: Path, tmp_path: Path
) -> None:
    params: Any = student_settings(
        full_view_share=1.0, steps=2, processes=2, deepspeed="infra/deepspeed/zero3.json"
    )
    ended = run(tmp_path / "work", parents, params, objective=student_for_run)
    assert all(ended.codes)
    assert "ZeRO 1 or 2" in ended.error
    assert "zero3.json" in ended.error
