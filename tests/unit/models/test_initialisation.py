import torch
from torch import nn

from models.initialisation import initialise
from models.student import STUDENTS, Student
from models.teacher import TEACHERS, Teacher


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    one, two, other = Student(STUDENTS["N"]), Student(STUDENTS["N"]), Student(STUDENTS["N"])
    initialise(one, seed=1)
    initialise(two, seed=1)
    initialise(other, seed=2)
    for name, weight in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], weight)
    name = "dim_reducer.0.weight"
    assert not torch.isclose(other.state_dict()[name], one.state_dict()[name]).all()


def test_global_random_state_is_neither_read_nor_moved() -> None:
    module = nn.Linear(5, 5)
    before = torch.get_rng_state()
    initialise(module, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_starting_values_follow_the_table() -> None:
    teacher = Teacher(TEACHERS["demo"])
    initialise(teacher, seed=1)
    state = teacher.state_dict()
    assert not state["fusion_modality_embed"].any()
    he = 6**0.5
    for name, gain in (
        ("s2_backbone.embedding.0.weight", 4 * he),
        ("s2_backbone.embedding.2.weight", he),
        ("dim_reducer.0.weight", 1),
    ):
        weight = state[name]
        bound = gain * weight.shape[1] ** -0.5
        assert bound * 0.99 < weight.abs().max() <= bound, name
    for norm in ("norm1", "q_norm"):
        weight = state[f"fusion_transformer.layers.0.{norm}.weight"]
        assert torch.equal(weight, torch.ones_like(weight))
    assert not state["s2_backbone.embedding.2.bias"].any()
    assert not state["fusion_transformer.layers.0.norm1.bias"].any()


def test_starting_weights_are_stable() -> None:
    module = nn.Linear(3, 1)
    initialise(module, seed=20260101)
    expected = torch.tensor([[-0.5673720836639404, 0.11413369327783585, -0.5035580992698669]])
    torch.testing.assert_close(module.weight.detach(), expected, atol=1e-6, rtol=0)
