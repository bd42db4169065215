"""Faster forms of small modules of transformers' modelling code, put in place only where they give the same numbers.

Which formula a class uses is not guessed from its name: each candidate is compared with the module's own forward on
random input, and a module that equals none of them stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FusedRMSNorm", "fuse_norms"]

_MOST_EPS = 4
"""Largest relative difference, in units of the dtype's rounding, at which two norms count as the same."""


class FusedRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last axis, in float32 inside (Zhang & Sennrich, 2019)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., dim] → [..., dim]."""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.eps)


def fuse_norms(model: nn.Module) -> int:
    """Replace RMS norms below `model` in place, whichever family's; returns how many."""
    num_replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            fused = _fused_norm(child)
            if fused is not None:
                setattr(parent, name, fused)
                num_replaced += 1

    return num_replaced


def _fused_norm(module: nn.Module) -> FusedRMSNorm | None:
    """The replacement that gives the module's own numbers, or None."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" not in type(module).__name__ or isinstance(module, FusedRMSNorm):
        return None

    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(eps, float) or weight.is_meta:
        return None

    # Gemma's weights are kept as differences to one.
    candidates = [FusedRMSNorm(weight, eps), FusedRMSNorm((weight.float() + 1).to(weight.dtype), eps)]
    return next((candidate for candidate in candidates if _is_same(candidate, module)), None)


def _is_same(candidate: FusedRMSNorm, module: nn.Module) -> bool:
    generator = torch.Generator().manual_seed(0)
    weight = candidate.weight
    inputs = torch.randn(3, len(weight), generator=generator).mul_(torch.tensor([[1e-3], [1.0], [30.0]]))
    inputs = inputs.to(weight)
    with torch.inference_mode():
        wanted, result = module(inputs), candidate(inputs)
    if wanted.dtype != result.dtype or wanted.shape != result.shape:
        return False

    error = (result.double() - wanted.double()).abs().amax(-1)
    return bool((error <= _MOST_EPS * torch.finfo(weight.dtype).eps * wanted.double().abs().amax(-1)).all())
