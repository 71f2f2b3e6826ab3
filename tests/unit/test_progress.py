import pytest

from tasks import progress
from tasks.progress import Line, Meter, track


@pytest.fixture
def _chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line at every step; output is captured here, so it is no terminal."""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", -1.0)


def test_a_short_work_says_that_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", label="pack", total=3, unit="shards")) == ["a", "b", "c"]
    assert capsys.readouterr().out == "pack: 3/3 shards\n"


@pytest.mark.usefixtures("_chatty")
def test_a_line_has_the_remark_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Line("train", 200, start=100, unit="steps") as line:
        line.show(150, "loss 1.25")
    before, remark, left = capsys.readouterr().out.strip().split("  ")
    assert (before, remark) == ("train: 150/200 steps", "loss 1.25")
    assert left.endswith("s left")


@pytest.mark.usefixtures("_chatty")
def test_work_that_went_back_before_its_start_tells_no_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Line("train", 200, start=100, unit="steps") as line:
        line.show(90)
    assert capsys.readouterr().out == "train: 90/200 steps\n"


@pytest.mark.usefixtures("_chatty")
def test_what_was_skipped_does_not_make_the_rest_look_fast(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter("embed", 1000)
    meter.skip(400)
    meter.skip_to(500)
    now[0] += 10.0
    meter.advance(100, 2000)  # 10 a second, 400 to do
    assert capsys.readouterr().out == (
        "embed: 600/1,000 d-pixels  10 px/s 200 tokens/s  40 s left\n"
    )


def test_in_a_terminal_it_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Line("train", 2, unit="steps") as line:
        line.show(2, "loss 1.25")
    out = capsys.readouterr().out
    assert "train" in out
    assert "2/2" in out
    assert "steps loss 1.25" in out
