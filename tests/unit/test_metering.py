import json
import resource
from pathlib import Path

import pytest
import torch

from models.training_cost import StepCost
from tasks.errors import ParamsError
from tasks.params import read_params
from tasks.settings.training import PretrainParams
from tasks.training.collapse import LOW_SHARE, CollapseWatch
from tasks.training.metering import (
    SPEED,
    WINDOW_STEPS,
    Metering,
    Tariff,
    measure_peak,
    peak_memory_mb,
    summarise,
)
from tasks.training.records import Record, Recorder

COST = StepCost(dpixels=16, tokens=96, encoder=1000, head=200, loss=50)
LOOKS = 5


@pytest.fixture
def params() -> PretrainParams:
    return read_params(Path(__file__).parents[2] / "params.yaml").pretrain


def run(work: Path, params: PretrainParams, steps: int, world: int = 1) -> list[Record]:
    metering = Metering(work, params, world, is_first=True)
    for step in range(steps):
        metering.begin()
        metering.end(step, COST)
    metering.flush()
    return Recorder(work / SPEED).read()


def test_steps_are_written_in_windows_and_the_rest_at_the_end(
    tmp_path: Path, params: PretrainParams
) -> None:
    rows = run(tmp_path, params, WINDOW_STEPS + 3)
    assert [(row["step"], row["steps"]) for row in rows] == [
        (WINDOW_STEPS - 1, WINDOW_STEPS),
        (WINDOW_STEPS + 2, 3),
    ]
    assert [row["flops"] for row in rows] == [1250 * WINDOW_STEPS, 1250 * 3]


def test_rates_are_counts_over_times(tmp_path: Path, params: PretrainParams) -> None:
    (row,) = run(tmp_path, params, 4)
    for name in ("dpixels", "tokens", "flops"):
        assert row[f"{name}_per_second"] * row["seconds"] == pytest.approx(row[name])
    assert row["utilisation"] * row["peak_flops"] == pytest.approx(row["flops"])


def test_processes_count_together_and_utilisation_is_of_all_their_peaks(
    tmp_path: Path, params: PretrainParams
) -> None:
    (row,) = run(tmp_path, params, 4, world=8)
    assert row["dpixels"] == 8 * 4 * 16
    assert row["tokens"] == 8 * 4 * 96
    assert row["utilisation"] * row["peak_flops"] == pytest.approx(8 * 4 * 1250)


def test_only_the_first_process_writes(tmp_path: Path, params: PretrainParams) -> None:
    metering = Metering(tmp_path, params, 2, is_first=False)
    metering.begin()
    metering.end(0, COST)
    metering.flush()
    assert list(tmp_path.iterdir()) == []


def test_work_of_an_interrupted_attempt_counts_in_the_sum(
    tmp_path: Path, params: PretrainParams
) -> None:
    run(tmp_path, params, 7)
    rows = run(tmp_path, params, 5)
    total = summarise(rows)
    assert total["steps"] == 12
    assert total["dpixels"] == 12 * 16
    assert total["seconds"] == sum(row["seconds"] for row in rows)
    assert total["dpixels_per_second"] == pytest.approx(12 * 16 / total["seconds"])
    assert total["peak_memory_mb"] == max(row["peak_memory_mb"] for row in rows)
    assert "step" not in total


def test_nothing_measured_sums_to_nothing() -> None:
    assert summarise([]) == {}


def test_energy_and_price_follow_from_the_tariff(
    tmp_path: Path, params: PretrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_WATTS", "360")
    monkeypatch.setenv("TESSERA_PRICE_PER_HOUR", "7.2")
    (row,) = run(tmp_path, params, 3, world=2)
    assert row["energy_wh"] == pytest.approx(2 * 0.1 * row["seconds"])
    assert row["price"] == pytest.approx(2 * 0.002 * row["seconds"])


@pytest.mark.parametrize(
    ("device", "threads", "expected"),
    [("cpu", 4, Tariff(40.0, 0.2)), ("cuda", 4, Tariff(700.0, 2.5))],
)
def test_defaults_are_those_that_are_stated(
    device: str, threads: int, expected: Tariff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TESSERA_WATTS", raising=False)
    monkeypatch.delenv("TESSERA_PRICE_PER_HOUR", raising=False)
    assert Tariff.of_process(device, threads) == expected


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_tariff_that_is_no_number_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_WATTS", text)
    with pytest.raises(ParamsError, match="TESSERA_WATTS"):
        Tariff.of_process("cpu", 1)


def test_the_line_says_speed_and_utilisation(tmp_path: Path, params: PretrainParams) -> None:
    metering = Metering(tmp_path, params, 1, is_first=True)
    assert metering.note == ""
    metering.begin()
    metering.end(0, COST)
    assert "px/s" in metering.note
    assert "of peak" in metering.note


def test_the_peak_is_above_what_a_product_reaches_that_is_too_small() -> None:
    assert measure_peak() > 1e8


def test_measuring_the_peak_draws_no_random_number(params: PretrainParams, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Metering(tmp_path, params, 1, is_first=True)
    assert torch.rand(1) == expected


def test_peak_memory_has_what_is_held_and_no_more_than_the_system_saw() -> None:
    block = torch.ones(15_000_000)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert block.nbytes / 1e6 < peak_memory_mb("cpu") <= largest + 1


def test_windows_are_plain_json(tmp_path: Path, params: PretrainParams) -> None:
    run(tmp_path, params, 1)
    (line,) = (tmp_path / SPEED).read_text().splitlines()
    assert json.loads(line)["processes"] == 1


def look(share: float) -> Record:
    return {"effective_rank": 128 * share, "effective_rank_share": share}


def test_a_collapse_that_lasts_is_said_once() -> None:
    watch = CollapseWatch()
    warnings = [watch.observe(look(LOW_SHARE / 2)) for _ in range(3 * LOOKS)]
    said = [at for at, warning in enumerate(warnings) if warning]
    assert said == [LOOKS - 1]
    assert "effective rank 1.3" in str(warnings[LOOKS - 1])


def test_steps_without_a_look_do_not_count() -> None:
    watch = CollapseWatch()
    records: list[Record] = [look(0.0), {"loss": 1.0}] * (LOOKS - 1)
    assert not any(watch.observe(record) for record in records)


def test_a_low_rank_that_passes_is_not_said_and_a_second_collapse_is() -> None:
    watch = CollapseWatch()
    shares = [0.0] * (LOOKS - 1) + [0.5] + [0.0] * LOOKS + [0.5] + [0.0] * LOOKS
    said = [at for at, share in enumerate(shares) if watch.observe(look(share))]
    assert said == [2 * LOOKS - 1, 3 * LOOKS]


def test_a_line_that_a_crash_cut_short_makes_room_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / SPEED
    for whole in ("", '{"step": 0}\n', '{"step": 0}\n{"step": 1}\n'):
        path.write_text(whole + '{"step": 9, "seco')
        assert len(Recorder(path).read()) == whole.count("\n")
        Recorder(path).add({"step": 2})
        assert path.read_text() == whole + '{"step": 2}\n'


def test_a_number_that_json_cannot_say_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Recorder(tmp_path / SPEED).add({"step": 0, "seconds": float("nan")})
    assert list(tmp_path.iterdir()) == []
