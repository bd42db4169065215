"""A fused module takes the place of one that gives the same numbers, and of no other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from histrio_torch.fused import FusedRMSNorm, fuse_norms


class LlamaLikeRMSNorm(nn.Module):
    """Weight times norm."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40))
        self.variance_epsilon = 1e-5
        self.offset = offset

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (normed * (self.offset + self.weight.float())).to(hidden.dtype)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_both_kinds_are_fused(offset: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = LlamaLikeRMSNorm(offset).to(dtype).requires_grad_(False)
    model = nn.Sequential(norm)
    inputs = torch.randn(2, 3, 40).to(dtype)
    assert fuse_norms(model) == 1
    assert type(model[0]) is FusedRMSNorm
    assert fuse_norms(model) == 0
    error = (model(inputs).double() - norm(inputs).double()).abs().max() / norm(inputs).double().abs().max()
    assert error < 2 * torch.finfo(dtype).eps
    assert (model(inputs) - norm(inputs.flip(-1))).abs().max() > 0.1


@pytest.mark.parametrize("family", ["llama.LlamaRMSNorm", "qwen3.Qwen3RMSNorm", "gemma2.Gemma2RMSNorm"])
def test_norms_of_transformers_are_recognised(family: str) -> None:
    from importlib import import_module

    module, name = family.split(".")
    norm = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)(40, eps=1e-5)
    nn.init.normal_(norm.weight)
    inputs = torch.randn(3, 40)
    model = nn.Sequential(norm)
    wanted = norm(inputs).detach()
    assert fuse_norms(model) == 1
    torch.testing.assert_close(model(inputs), wanted, rtol=1e-6, atol=1e-6)


def test_another_formula_under_the_same_name_is_left_alone() -> None:
    model = nn.Sequential(LlamaLikeRMSNorm(offset=0.5))
    assert fuse_norms(model) == 0
    assert type(model[0]) is LlamaLikeRMSNorm
