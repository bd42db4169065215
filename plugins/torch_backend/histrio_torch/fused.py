"""Faster forms of small modules of transformers' modelling code, put in place only where they give the same numbers.

Which formula a class uses is not guessed from its name, and not told from a model's own weights either: the module runs
with weights and inputs that are made to tell the formulas apart, each result is compared with its own element, and what
equals no formula stays as it is.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FusedRMSNorm", "fuse_norms"]

_MOST_EPS = {torch.float32: 32, torch.bfloat16: 4, torch.float16: 4}
"""Largest difference of an element, in units of its dtype's rounding at the element's own size; in float32 the order in
which squares are added up shows."""
_MOST_FLIPPED = 0.02
"""Most elements of a half precision that may differ at all: the same float32 number, but for its last bit, is rounded
to the same one nearly always; a weight that is multiplied before instead of behind the rounding changes one in four."""
_OUTLIERS = (0.0, -1.0, 1.0, 55.0, -0.01, 788.0)
"""Weights as real norms have them, and those at which w and 1 + w differ most."""
_ROW_SCALES = (1e-3, 1.0, 30.0, 1e3)
_LARGEST_INPUT = 6e4
"""Just below the largest number of float16."""


class FusedRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich, 2019) in few operators.

    `is_rounded_first` says what is done in float32: the norm alone, which is rounded to the input's dtype before it
    meets a weight of the model's dtype (Llama), or the product as well, with a weight in float32 (Gemma, OLMo 2).
    """

    def __init__(self, weight: Tensor, eps: float, *, is_rounded_first: bool) -> None:
        super().__init__()
        weight = weight.detach() if is_rounded_first else weight.detach().float()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self.is_rounded_first = is_rounded_first

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., dim] → [..., dim]."""
        shape = self.weight.shape
        if self.is_rounded_first:
            return self.weight * F.rms_norm(hidden_states, shape, None, self.eps)

        return F.rms_norm(hidden_states.float(), shape, self.weight, self.eps).to(hidden_states.dtype)


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

    if len(inspect.signature(module.forward).parameters) != 1:
        return None  # a gate beside the hidden state

    for formula in (_rounded_first, _in_float32, _one_more_in_float32):
        if all(_is_same(formula(tried, eps), module, tried) for tried in (_probe_weight(weight), weight)):
            return formula(weight, eps)

    return None


def _rounded_first(weight: Tensor, eps: float) -> FusedRMSNorm:
    return FusedRMSNorm(weight, eps, is_rounded_first=True)


def _in_float32(weight: Tensor, eps: float) -> FusedRMSNorm:
    return FusedRMSNorm(weight, eps, is_rounded_first=False)


def _one_more_in_float32(weight: Tensor, eps: float) -> FusedRMSNorm:
    # Gemma's weights are kept as differences to one; one more than a small one is not a number of half a precision.
    return FusedRMSNorm(weight.float() + 1, eps, is_rounded_first=False)


def _is_same(candidate: FusedRMSNorm, module: nn.Module, weight: Tensor) -> bool:
    """Whether the module would give the candidate's numbers if `weight` were its own."""
    # A norm whose weight is float32 in a model of half precision shows in what other inputs become.
    for dtype in dict.fromkeys((weight.dtype, torch.float32, torch.bfloat16)):
        inputs = _probe_inputs(len(weight)).to(weight.device, dtype)
        with torch.inference_mode():
            expected = torch.func.functional_call(module, {"weight": weight}, (inputs,))
            if not _are_same(candidate(inputs), expected):
                return False

    return True


def _are_same(result: Tensor, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or expected.dtype != result.dtype or expected.shape != result.shape:
        return False

    flipped = result != expected
    error = (result.double() - expected.double()).abs()
    allowed = _MOST_EPS.get(expected.dtype, 0) * torch.finfo(expected.dtype).eps * expected.double().abs()
    # Beyond the largest number of a half precision both are infinite, and equal.
    if bool((flipped & ~(error <= allowed)).any()):
        return False

    return expected.dtype == torch.float32 or float(flipped.float().mean()) <= _MOST_FLIPPED


@cache
def _probe_inputs(dim: int) -> Tensor:
    """[rows, dim] over decades, with a few elements far beyond the others, as hidden states are."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(len(_ROW_SCALES), dim, generator=generator)
    inputs[:, :: max(dim // 4, 2)] *= 100
    return (inputs * torch.tensor(_ROW_SCALES)[:, None]).clamp(-_LARGEST_INPUT, _LARGEST_INPUT)


def _probe_weight(like: Tensor) -> Tensor:
    """[dim] of both signs over decades, with outliers; the same for every norm of this size."""
    generator = torch.Generator().manual_seed(1)
    decades = torch.empty(len(like)).uniform_(-2, 1, generator=generator)
    weight = torch.randn(len(like), generator=generator) * 10**decades
    weight[: len(_OUTLIERS)] = torch.tensor(_OUTLIERS[: len(like)])
    return weight.to(like)
