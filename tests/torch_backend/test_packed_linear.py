"""Packed linears equal `F.linear`; where they can't be had, modules stay what they were."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histrio_torch import linear
from histrio_torch.linear import JoinedPart, PackedLinear, can_pack, pack_linears


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    """The probe runs again in this test and after it."""
    can_pack.cache_clear()
    yield
    can_pack.cache_clear()


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((result.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leading", [(1,), (7,), (1, 65), (2, 3, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_packed_equals_plain(dtype: torch.dtype, leading: tuple[int, ...], has_bias: bool) -> None:
    if not can_pack(dtype):
        pytest.skip("this CPU or torch has no packed products of this dtype")

    torch.manual_seed(0)
    plain = nn.Linear(96, 80, bias=has_bias).to(dtype).requires_grad_(False)
    inputs = torch.randn(*leading, 96).to(dtype)
    expected = F.linear(inputs.double(), plain.weight.double(), None if plain.bias is None else plain.bias.double())
    packed = PackedLinear(plain.weight, plain.bias)
    assert relative_error(packed(inputs), expected) < 4 * torch.finfo(dtype).eps
    assert relative_error(packed(inputs.roll(1, -1)), expected) > 0.01


def test_no_tokens_give_no_outputs() -> None:
    packed = PackedLinear(torch.randn(8, 16))
    assert packed(torch.empty(0, 16)).shape == (0, 8)


def test_every_linear_below_a_module_is_replaced() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 2, bias=False)))
    inputs = torch.randn(3, 4)
    expected = model(inputs)
    assert pack_linears(model) == 2
    assert not [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert not list(model.parameters())
    torch.testing.assert_close(model(inputs), expected)


def test_subclasses_of_linear_are_left_alone() -> None:
    class Odd(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    model = nn.Sequential(Odd(4, 4))
    assert pack_linears(model) == 0
    assert type(model[0]) is Odd


class Attention(nn.Module):
    """Three linears that read the same input."""

    def __init__(self, biases: tuple[bool, bool, bool] = (False, False, False)) -> None:
        super().__init__()
        self.q_proj = nn.Linear(16, 24, bias=biases[0])
        self.k_proj = nn.Linear(16, 8, bias=biases[1])
        self.v_proj = nn.Linear(16, 8, bias=biases[2])

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.q_proj(inputs), self.k_proj(inputs), self.v_proj(inputs)


@pytest.mark.parametrize("biases", [(False, False, False), (True, True, True), (True, False, True)])
def test_linears_of_one_input_are_joined(biases: tuple[bool, bool, bool]) -> None:
    model = Attention(biases).requires_grad_(False)
    first, second = torch.randn(2, 5, 16).unbind()
    expected = model(first), model(second)
    assert pack_linears(model) == 3
    assert isinstance(model.v_proj, JoinedPart)
    for inputs, want in zip((first, second), expected, strict=True):
        torch.testing.assert_close(model(inputs), want)
    assert (model(first)[0] - expected[1][0]).abs().max() > 0.01


def test_joined_parts_may_be_called_in_any_order_and_alone() -> None:
    model = Attention().requires_grad_(False)
    first, second = torch.randn(2, 5, 16).unbind()
    expected = {
        name: (getattr(model, name)(first), getattr(model, name)(second)) for name in ("q_proj", "k_proj", "v_proj")
    }
    pack_linears(model)
    for name in ("v_proj", "q_proj", "k_proj", "q_proj", "v_proj"):
        torch.testing.assert_close(getattr(model, name)(first), expected[name][0])
        torch.testing.assert_close(getattr(model, name)(second), expected[name][1])


def test_joined_parts_keep_no_activations() -> None:
    model = Attention().requires_grad_(False)
    pack_linears(model)
    inputs = torch.randn(5, 16)
    alive = weakref.ref(inputs)
    model(inputs)
    del inputs
    assert alive() is None


@pytest.mark.usefixtures("fresh_probe")
def test_an_operator_that_miscalculates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = linear._apply
    monkeypatch.setattr(linear, "_apply", lambda *args: right(*args) * 1.01)
    model = nn.Sequential(nn.Linear(4, 4))
    assert pack_linears(model) == 0
    assert type(model[0]) is nn.Linear


@pytest.mark.usefixtures("fresh_probe")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_operator_that_is_wrong_where_values_are_small_is_not_used(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = linear._apply

    def wrong(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        result = right(inputs, packed, bias)
        return torch.where(result.abs() < 1e-3 * result.abs().max(), result * 1.02, result)

    if dtype is not torch.float32 and not can_pack(dtype):
        pytest.skip(f"this processor computes no packed products of {dtype}")
    assert can_pack(dtype)
    can_pack.cache_clear()
    monkeypatch.setattr(linear, "_apply", wrong)
    assert not can_pack(dtype)


@pytest.mark.usefixtures("fresh_probe")
def test_a_missing_operator_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: Tensor) -> Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(linear, "_pack", missing)
    assert not can_pack(torch.float32)


def test_row_counts_are_rounded_to_few_sizes_and_never_down() -> None:
    sizes = {rows: linear._padded_rows(rows) for rows in range(1, 2049)}
    assert all(rows <= size <= rows * 1.125 + 1 for rows, size in sizes.items())
    assert all(sizes[rows] == rows for rows in [*range(1, 33), 64, 128, 256, 512, 1024, 2048])
    assert len(set(sizes.values())) < 120


def test_a_padded_product_equals_the_plain_one() -> None:
    plain = nn.Linear(24, 40)
    packed = linear.PackedLinear(plain.weight, plain.bias)
    inputs = torch.randn(3, 13, 24)
    with torch.inference_mode():
        assert packed(inputs).shape == (3, 13, 40)
        torch.testing.assert_close(packed(inputs), plain(inputs))
