"""Linear layers on a CPU through oneDNN's packed weights.

`F.linear` hands a bf16 weight over row by row and reaches a third of the memory's bandwidth at one token; the packed
form is 2–3 times faster from one token to a long prompt (float32 gains as much on AMD). Linears that read the same
input (query, key and value; gate and up) become one product. The two operators are private to torch, so a probe
compares each element with the exact one, once per dtype; where they are missing or wrong, the module stays as it was.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["JoinedPart", "PackedLinear", "can_pack", "pack_linears"]

_MOST_EXACT_ROWS = 32
_FINE_FROM_ROWS = 256
_JOINED = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]
"""Siblings under these names read the same input, in this order."""
_PROBED = [(1, 80), (5, 80), (33, 640)]
"""Rows and inputs of the products that are tried: one token, a few, and a padded prompt over a long sum."""
_PROBED_OUTPUTS = 48
_MOST_SUM_EPS = 32
"""Largest error of a sum in float32, in units of rounding what is added; up to 9 was measured, over 8192 numbers."""


class PackedLinear(nn.Module):
    """`nn.Linear` for inference whose weight exists only in oneDNN's order; CPU, bf16 or float32.

    Takes [..., in_features], gives [..., out_features]. Reading `weight` unpacks it, which is slow.
    """

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = _pack(weight)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        return _apply(inputs, self.packed, self.bias)

    @property
    def weight(self) -> Tensor:
        """[out_features, in_features] a copy, for models that ask for its dtype or use it directly."""
        weight: Tensor = self.packed.to_dense()
        return weight

    def extra_repr(self) -> str:
        """Sizes as `nn.Linear` prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class JoinedPart(nn.Module):
    """One of several linears that were joined into one product.

    The part that is called first with an input computes all of them; the others, called with the very same tensor, only
    take their columns. A call with another tensor, or in another order, gets the right result later.
    """

    def __init__(self, product: _JoinedProduct, index: int) -> None:
        super().__init__()
        # Kept out of the module tree: the parts share it.
        vars(self)["product"] = product
        self.index = index
        self.in_features = product.linear.in_features
        self.out_features = product.sizes[index]

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features], a view of the joined result."""
        product: _JoinedProduct = vars(self)["product"]
        return product.take(inputs, self.index)


class _JoinedProduct:
    """The packed weights of all parts below each other, and the last result until its last part is taken."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        self.sizes = [linear.out_features for linear in linears]
        bias = None
        if any(linear.bias is not None for linear in linears):
            bias = torch.cat([_bias_or_zeros(linear) for linear in linears])
        self.linear = PackedLinear(torch.cat([linear.weight.detach() for linear in linears]), bias)
        self._inputs: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()

    def take(self, inputs: Tensor, index: int) -> Tensor:
        """Columns of part `index`."""
        if inputs is not self._inputs:
            self._inputs = inputs
            self._parts = self.linear(inputs).split(self.sizes, dim=-1)
        part = self._parts[index]
        if index == len(self.sizes) - 1:
            self._inputs, self._parts = None, ()

        return part


def pack_linears(module: nn.Module) -> int:
    """Replace every `nn.Linear` in and below `module` by packed ones in place; returns how many.

    Subclasses of `nn.Linear`, weights on other devices and dtypes that the probe refuses stay as they are. A weight
    that is shared (tied embeddings) keeps its original for the other owner; every other original is dropped.
    """
    num_replaced = 0
    for parent in list(module.modules()):
        for names in _JOINED:
            num_replaced += _join(parent, names)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and _is_packable(child):
                setattr(parent, name, PackedLinear(child.weight.detach(), child.bias))
                num_replaced += 1

    return num_replaced


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU compute packed products of `dtype`, and compute them right."""
    if not torch._C._has_mkldnn:
        return False

    return all(_is_right(num_rows, num_inputs, dtype) for num_rows, num_inputs in _PROBED)


def _is_right(num_rows: int, num_inputs: int, dtype: torch.dtype) -> bool:
    """Whether each element of a product is as near to the exact one as sums in float32 bring it."""
    weight, bias, inputs = (tensor.to(dtype) for tensor in _probe(num_rows, num_inputs))
    try:
        result = _apply(inputs, _pack(weight), bias)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False

    if result.dtype != dtype:
        return False

    expected = F.linear(inputs.double(), weight.double(), bias.double())
    magnitudes = F.linear(inputs.double().abs(), weight.double().abs(), bias.double().abs())
    # What is added up is rounded in float32, the sum once more in its own dtype: an outlier excuses its own sums only.
    allowed = _MOST_SUM_EPS * torch.finfo(torch.float32).eps * magnitudes + torch.finfo(dtype).eps * expected.abs()
    error = (result.double() - expected).abs()
    # Beyond the largest number of float16 nothing can be compared.
    return bool(((error <= allowed) | (expected.abs() > torch.finfo(dtype).max)).all())


def _probe(num_rows: int, num_inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, bias and inputs whose rows span decades, with single elements far beyond the others."""
    generator = torch.Generator().manual_seed(0)
    weight = (
        torch.randn(_PROBED_OUTPUTS, num_inputs, generator=generator)
        * 10 ** torch.linspace(-2, 1, _PROBED_OUTPUTS)[:, None]
    )
    weight[::7, 3] = 100
    inputs = torch.randn(1, num_rows, num_inputs, generator=generator) * 10 ** torch.linspace(-2, 1, num_rows)[:, None]
    inputs[..., 5] *= 100
    return weight, torch.randn(_PROBED_OUTPUTS, generator=generator) * weight.abs().mean(1), inputs


def _is_packable(linear: nn.Linear) -> bool:
    # Subclasses may compute something else.
    return type(linear) is nn.Linear and linear.weight.device.type == "cpu" and can_pack(linear.weight.dtype)


def _join(parent: nn.Module, names: tuple[str, ...]) -> int:
    children = dict(parent.named_children())
    linears = [child for name in names if isinstance(child := children.get(name), nn.Linear) and _is_packable(child)]
    if len(linears) < len(names) or len({(linear.in_features, linear.weight.dtype) for linear in linears}) > 1:
        return 0

    product = _JoinedProduct(linears)
    for index, name in enumerate(names):
        setattr(parent, name, JoinedPart(product, index))
    return len(names)


def _bias_or_zeros(linear: nn.Linear) -> Tensor:
    bias: Tensor | None = linear.bias
    return linear.weight.new_zeros(linear.out_features) if bias is None else bias.detach()


def _pack(weight: Tensor) -> Tensor:
    # The hint is the number of rows; packs made with 1, 16 and 512 run equally fast at all three.
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
    return packed


def _apply(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    rows = inputs.numel() // inputs.shape[-1]
    padded = _padded_rows(rows)
    if padded == rows:
        return _product(inputs, packed, bias)

    padding = inputs.new_zeros(padded, inputs.shape[-1])
    padding[:rows] = inputs.reshape(rows, -1)
    return _product(padding, packed, bias)[:rows].view(*inputs.shape[:-1], -1)


def _product(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return result


def _padded_rows(rows: int) -> int:
    """Rows to compute for that many.

    oneDNN compiles a kernel for each number of rows, in about 2 ms, and keeps 0.4 MB of it. Prompts come in all
    lengths, so above 32 rows are rounded up to 8 sizes per doubling, from 256 on to 16.
    """
    if rows <= _MOST_EXACT_ROWS:
        return rows

    multiple = 1 << (rows.bit_length() - (4 if rows < _FINE_FROM_ROWS else 5))
    return -(-rows // multiple) * multiple
