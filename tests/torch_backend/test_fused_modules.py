"""Norms are replaced by faster ones only where those give the same numbers, whatever the weights are."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histrio_torch import fused
from histrio_torch.fused import FusedRMSNorm, fuse_norms

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDED_FIRST, IN_FLOAT32, ONE_MORE = "rounded first", "in float32", "one more, in float32"
CLASSES = {
    "llama.LlamaRMSNorm": ROUNDED_FIRST,
    "qwen3.Qwen3RMSNorm": ROUNDED_FIRST,
    "deepseek_v3.DeepseekV3RMSNorm": ROUNDED_FIRST,
    "gpt_oss.GptOssRMSNorm": IN_FLOAT32,
    "olmo2.Olmo2RMSNorm": IN_FLOAT32,
    "gemma4.Gemma4RMSNorm": IN_FLOAT32,
    "gemma.GemmaRMSNorm": ONE_MORE,
    "gemma2.Gemma2RMSNorm": ONE_MORE,
    "gemma3.Gemma3RMSNorm": ONE_MORE,
}
"""Class of transformers → what it does with its weight."""


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_with_outliers_keep_their_numbers(name: str, dtype: torch.dtype) -> None:
    norm = make_norm(name, real_weight(640), dtype)
    inputs = real_inputs(640, dtype)
    model = nn.Sequential(norm)
    assert fuse_norms(model) == 1
    assert formula_of(replaced_in(model), norm) == CLASSES[name] or dtype == torch.float32
    assert fuse_norms(model) == 0
    expected = norm(inputs)
    assert mismatches(model(inputs), expected) == 0
    assert mismatches(model(inputs.flip(-1)), expected) > 1000


def test_an_error_relative_to_the_largest_element_would_let_the_wrong_norm_pass() -> None:
    norm = make_norm("gemma3.Gemma3RMSNorm", real_weight(640), torch.bfloat16)
    plain = FusedRMSNorm(weight_of(norm), 1e-6, is_rounded_first=False)
    inputs = torch.randn(3, 640, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected, result = norm(inputs).double(), plain(inputs).double()
    by_row = (result - expected).abs().amax(-1) / expected.abs().amax(-1)

    assert float(by_row.max()) <= 4 * torch.finfo(torch.bfloat16).eps
    assert mismatches(plain(inputs), norm(inputs)) > 1000


@pytest.mark.parametrize("name", ["llama.LlamaRMSNorm", "olmo2.Olmo2RMSNorm"])
def test_where_it_is_rounded_is_told_apart(name: str) -> None:
    norm = make_norm(name, real_weight(640), torch.bfloat16)
    inputs = real_inputs(640, torch.bfloat16)
    other = FusedRMSNorm(weight_of(norm), 1e-6, is_rounded_first=CLASSES[name] != ROUNDED_FIRST)

    assert mismatches(other(inputs), norm(inputs)) > 100


def test_small_differences_to_one_are_not_rounded_away() -> None:
    norm = make_norm("gemma3.Gemma3RMSNorm", torch.full((64,), 1e-3), torch.bfloat16)
    model = nn.Sequential(norm)
    fuse_norms(model)

    fused_weight = replaced_in(model).weight
    assert torch.equal(fused_weight, torch.full((64,), 1e-3).bfloat16().float() + 1)
    assert fused_weight.max() > 1
    assert (1 + weight_of(norm)).max() == 1


@pytest.mark.parametrize("name", ["llama.LlamaRMSNorm", "gemma3.Gemma3RMSNorm"])
def test_a_norm_kept_in_float32_serves_a_model_of_half_precision(name: str) -> None:
    norm = make_norm(name, real_weight(64), torch.float32)
    model = nn.Sequential(norm)
    inputs = real_inputs(64, torch.bfloat16)
    assert fuse_norms(model) == 1
    assert model(inputs).dtype == norm(inputs).dtype
    assert mismatches(model(inputs), norm(inputs)) == 0


class OddRMSNorm(nn.Module):
    """A formula that no candidate has."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40), requires_grad=False)
        self.variance_epsilon = 1e-6
        self.formula = formula

    def forward(self, hidden: Tensor) -> Tensor:
        return self.formula(F.rms_norm(hidden.float(), (40,), None, self.variance_epsilon), self.weight).to(hidden)


class GatedRMSNorm(OddRMSNorm):
    """Takes a second argument, which a plain norm would not."""

    def forward(self, hidden: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(hidden)


@pytest.mark.parametrize(
    "formula",
    [
        lambda normed, weight: normed * (0.5 + weight),
        lambda normed, weight: normed * weight.abs(),
        lambda normed, weight: normed * weight + 1e-3,
        lambda normed, weight: normed.flip(-1) * weight,
    ],
    ids=["half more", "magnitude", "offset", "order"],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_formula_under_the_same_name_is_left_alone(
    formula: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    # With weights of zero and one, half of these formulas say what a known one says.
    model = nn.Sequential(OddRMSNorm(formula).to(dtype))
    assert fuse_norms(model) == 0
    assert type(model[0]) is OddRMSNorm


def test_a_gated_norm_is_left_alone() -> None:
    assert fuse_norms(nn.Sequential(GatedRMSNorm(lambda normed, weight: normed * weight))) == 0
    assert fuse_norms(nn.Sequential(OddRMSNorm(lambda normed, weight: normed * weight))) == 1


def make_norm(name: str, weight: Tensor, dtype: torch.dtype) -> nn.Module:
    module, kind = name.split(".")
    norm: Any = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), kind)(len(weight))
    norm.eps = norm.variance_epsilon = 1e-6
    norm.weight.data.copy_(weight)
    made: nn.Module = norm.to(dtype).requires_grad_(False)
    return made


def weight_of(norm: nn.Module) -> Tensor:
    return norm.get_parameter("weight")


def replaced_in(model: nn.Sequential) -> FusedRMSNorm:
    """The fused norm in the place of the model's first module."""
    replaced = model[0]
    assert isinstance(replaced, FusedRMSNorm)
    return replaced


def real_weight(dim: int) -> Tensor:
    """As in Gemma 3 270M: most within a few units, a few between 55 and 788."""
    weight = torch.randn(dim, generator=torch.Generator().manual_seed(7)) * 3
    weight[5], weight[17], weight[23 % dim] = 788.0, 55.0, 192.0
    return weight


def real_inputs(dim: int, dtype: torch.dtype) -> Tensor:
    """[16, dim] hidden states over three decades, in which a few channels stand out."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(16, dim, generator=generator) * 10 ** torch.linspace(-2, 1, 16)[:, None]
    inputs[:, 11] *= 300
    return inputs.to(dtype)


def mismatches(result: Tensor, expected: Tensor) -> int:
    """Elements that differ by more than rounding in the last place, of the element itself."""
    allowed = 4 * torch.finfo(expected.dtype).eps * expected.double().abs()
    num_beyond = int(((result.double() - expected.double()).abs() > allowed).sum())
    if expected.dtype == torch.float32:
        return num_beyond

    # In half precisions the same float32 numbers are rounded to the same ones.
    num_flipped = int((result != expected).sum())
    return num_beyond + (num_flipped if num_flipped > expected.numel() // 1000 else 0)


def formula_of(replaced: FusedRMSNorm, norm: nn.Module) -> str:
    if replaced.is_rounded_first:
        return ROUNDED_FIRST

    return ONE_MORE if torch.equal(replaced.weight, weight_of(norm).float() + 1) else IN_FLOAT32


def test_the_probe_has_outliers_of_both_kinds() -> None:
    weight, inputs = fused._probe_weight(torch.zeros(640)), fused._probe_inputs(640)
    assert weight.abs().max() > 500 * weight.abs().median()
    assert inputs[1].abs().max() > 50 * inputs[1].abs().median()
    assert {0.0, -1.0} <= set(weight.tolist())
