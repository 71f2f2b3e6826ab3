import numpy as np
import pytest
import torch
from torch import nn

from models.encoder import (
    AttentionPooling,
    LayerStack,
    PostNormLayer,
    QkNormLayer,
    RmsNorm,
    SensorBranch,
    doy_code,
    recompute_layers,
)
from models.initialisation import initialise


def _branch(layer: nn.Module, num_bands: int = 10) -> SensorBranch:
    branch = SensorBranch(num_bands, 32, LayerStack([layer]))
    initialise(branch, seed=3)
    return branch


def _layer(kind: str) -> nn.Module:
    if kind == "post":
        return PostNormLayer(32, 4, 48)
    return QkNormLayer(32, 4, 48, pre_norm=kind == "qk-pre")


def _tokens(batch: int, time: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, time, 10, generator=generator)
    return values, torch.randint(1, 367, (batch, time), generator=generator).float()


KINDS = ("post", "qk-post", "qk-pre")


@pytest.mark.parametrize(
    ("day", "channels"),
    [
        (1, [0.841471, 0.540302, 0.099833, 0.995004, 0.0099998, 0.99995, 0.001, 0.9999995]),
        (45, [0.850904, 0.525322, -0.977530, -0.210796, 0.434965, 0.900447, 0.044985, 0.998988]),
        (365, [0.544046, 0.839055, -0.931718, 0.363182, -0.486787, -0.873521, 0.356949, 0.934124]),
    ],
)
def test_day_code_agrees_with_the_released_code(day: int, channels: list[float]) -> None:
    code = doy_code(torch.tensor([[float(day)]]), 8)[0, 0]
    np.testing.assert_allclose(code.numpy(), channels, atol=2e-6)


def test_day_code_is_computed_in_float32_for_half_precision_input() -> None:
    assert doy_code(torch.ones(1, 1, dtype=torch.bfloat16), 8).dtype == torch.float32


def test_day_code_refuses_an_odd_width() -> None:
    with pytest.raises(ValueError, match="even width"):
        doy_code(torch.ones(1, 1), 7)


def test_post_norm_layer_equals_the_layer_of_torch_with_copied_weights() -> None:
    layer = PostNormLayer(32, 4, 48)
    initialise(layer, seed=1)
    truth = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    truth.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer(x), truth(x), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_qk_norm_layer_equals_a_plain_numpy_version(pre_norm: bool) -> None:
    layer = QkNormLayer(16, 4, 24, pre_norm=pre_norm)
    initialise(layer, seed=1)
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(2))
    w = {name: value.double().numpy() for name, value in layer.state_dict().items()}

    def linear(name: str, y: np.ndarray) -> np.ndarray:
        return np.asarray(y @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    def norm(name: str, y: np.ndarray) -> np.ndarray:
        scaled = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])

    def attend(y: np.ndarray) -> np.ndarray:
        out = []
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            q, k, v = (linear(f"{n}_proj", y)[:, part] for n in "qkv")
            q = q / np.sqrt((q**2).mean(-1, keepdims=True)) * w["q_norm.weight"]
            k = k / np.sqrt((k**2).mean(-1, keepdims=True)) * w["k_norm.weight"]
            weight = np.exp(q @ k.T / 2)
            out.append(weight / weight.sum(-1, keepdims=True) @ v)
        return linear("out_proj", np.concatenate(out, axis=-1))

    def feed(y: np.ndarray) -> np.ndarray:
        return linear("linear2", np.maximum(linear("linear1", y), 0))

    y = x[0].double().numpy()
    if pre_norm:
        y = y + attend(norm("norm1", y))
        y = y + feed(norm("norm2", y))
    else:
        y = norm("norm1", y + attend(y))
        y = norm("norm2", y + feed(y))
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), y, atol=1e-5)


def test_rms_norm_is_computed_in_float32_for_half_precision_input() -> None:
    x = torch.full((2, 4), 3.0, dtype=torch.bfloat16)
    normal = RmsNorm(4)(x)
    assert normal.dtype == torch.bfloat16
    torch.testing.assert_close(normal, torch.ones_like(x))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_tokens_are_encoded_as_the_single_token(kind: str) -> None:
    branch = _branch(_layer(kind))
    one = branch(torch.zeros(2, 1, 10), torch.zeros(2, 1))
    many = branch(torch.zeros(2, 16, 10), torch.zeros(2, 16))
    torch.testing.assert_close(many, one, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_observations_does_not_matter_and_their_dates_do(kind: str) -> None:
    branch = _branch(_layer(kind))
    values, doy = _tokens(3, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    straight = branch(values, doy)
    torch.testing.assert_close(
        branch(values[:, order], doy[:, order]), straight, atol=2e-6, rtol=1e-4
    )
    assert (branch(values, doy[:, order]) - straight).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_row_is_encoded_independently_of_the_other_rows(kind: str) -> None:
    branch = _branch(_layer(kind))
    values, doy = _tokens(6, 5)
    whole = branch(values, doy)
    torch.testing.assert_close(branch(values[2:3], doy[2:3]), whole[2:3], atol=2e-6, rtol=1e-4)


def test_pooling_of_one_token_is_the_token() -> None:
    token = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(AttentionPooling(8)(token), token[:, 0])


def test_sensor_without_any_token_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        _branch(_layer("post"))(torch.zeros(2, 0, 10), torch.zeros(2, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_have_the_same_gradient_to_the_bit_and_keep_less(kind: str) -> None:
    values, doy = _tokens(8, 6)
    branch = _branch(_layer(kind))
    kept, gradients = _kept_and_gradients(branch, values, doy)
    recompute_layers(branch)
    less, again = _kept_and_gradients(branch, values, doy)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert less < 0.5 * kept


def _kept_and_gradients(
    branch: SensorBranch, values: torch.Tensor, doy: torch.Tensor
) -> tuple[int, list[torch.Tensor]]:
    """Return how many numbers the graph keeps beside the weights, and the gradients."""
    weights = {parameter.data_ptr() for parameter in branch.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = branch(values, doy).square().sum()
    numbers = sum(kept.values())
    return numbers, list(torch.autograd.grad(loss, list(branch.parameters())))
