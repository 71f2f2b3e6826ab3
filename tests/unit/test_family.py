import json
from collections.abc import Sequence
from inspect import signature

import pytest
import torch
from typer.testing import CliRunner, Result

from models.cost import TYPICAL, Observations
from models.student import STUDENTS
from models.teacher import TEACHERS, Teacher
from tasks import cli
from tasks.commands import embedding
from tasks.family import Member, family, render


def _models(*options: str) -> Result:
    return CliRunner().invoke(cli.app, ["models", *options])


@pytest.fixture(scope="module")
def members() -> Sequence[Member]:
    return family()


def test_json_lists_every_preset_students_first() -> None:
    done = _models("--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [*STUDENTS, *TEACHERS] == [row["preset"] for row in rows]
    student, teacher = rows[0], rows[-1]
    assert (student["role"], student["num_parameters"]) == ("student", 1_066_402)
    assert student["embedding_bytes"] == {"16": 20, "32": 36, "64": 68, "128": 132}
    assert (teacher["role"], teacher["num_parameters"]) == ("teacher", 2_064_266_242)
    assert teacher["embedding_bytes"] == {"1024": 1028}
    with torch.device("meta"):
        branch = Teacher(TEACHERS["2b"]).s2_backbone
    weights = sum(parameter.numel() for parameter in branch.parameters())
    assert teacher["flops"] == pytest.approx(2 * weights * 173, rel=0.02)


def test_options_change_the_arithmetic_and_nothing_else() -> None:
    many, few = (
        json.loads(_models("--json", *o).stdout) for o in ([], ["--s2", "10", "--s1", "30"])
    )
    for row, fewer in zip(many, few, strict=True):
        assert fewer["observations"] == {"num_s2": 10, "num_s1": 30}
        assert fewer["flops"] < row["flops"]
        changed = {"observations", "flops"}
        assert {k: row[k] for k in row if k not in changed} == {
            k: fewer[k] for k in fewer if k not in changed
        }


def test_without_options_the_command_speaks_of_the_typical_dpixel() -> None:
    given = signature(embedding.models).parameters
    assert Observations(given["s2"].default, given["s1"].default) == TYPICAL


def test_impossible_observations_are_an_error_of_the_user() -> None:
    done = _models("--s2", "-1")
    assert isinstance(done.exception, ValueError)
    assert "got -1 Sentinel-2" in str(done.exception)


def test_table_fits_a_terminal_and_names_every_preset(members: Sequence[Member]) -> None:
    lines = render(members).splitlines()
    assert max(len(line) for line in lines) <= 100
    first_words = [line.split()[0] for line in lines if line]
    for preset in (*STUDENTS, *TEACHERS):
        assert preset in first_words
    assert "  16:20 32:36 64:68 128:132 " in next(line for line in lines if line.startswith("M "))


def test_memory_is_more_than_the_weights(members: Sequence[Member]) -> None:
    for member in members:
        assert member.memory_bytes > member.float32_bytes == 2 * member.bfloat16_bytes
