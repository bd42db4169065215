"""The keys, or the values, of one layer in the pool: as the numbers they are, or as int8 beside scales.

An int8 code is `round(number / scale)`, and the scale is the largest magnitude of one token's head, divided by 127. So
what is stored of a token depends on that token alone, and however prompts are cut or rows batched, the same is read. A
scale has the dtype of the activations: rounding it costs nothing, for the codes are made with the rounded one.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["FloatStore", "Int8Store", "Scratch", "Store"]

_LARGEST_CODE = 127
_CHUNK_VALUES = 2**24
"""Codes that are gathered at once before they become numbers: few enough for a CPU's cache, plenty for a GPU."""


class Store(Protocol):
    """Flat from the layer's part of block 0 on: heads of a block one after the other, each [block's tokens, dim]."""

    def write(self, rows: Tensor, new: Tensor) -> Tensor:
        """Put [tokens, heads, dim] into rows [tokens * heads] of the store seen as […, dim].

        Returns what `read` will give of it, [tokens, heads, dim].
        """

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Gather rows [count] of the store seen as […, a block's tokens * dim] into `out`, of count times that size."""


class FloatStore:
    """Numbers in the dtype of the activations."""

    def __init__(self, values: Tensor, block_size: int, dim: int) -> None:
        self._tokens = values.view(-1, dim)
        self._blocks = values.view(-1, block_size * dim)

    def write(self, rows: Tensor, new: Tensor) -> Tensor:
        """As they are."""
        self._tokens.index_copy_(0, rows, new.reshape(-1, new.shape[-1]))
        return new

    def read(self, rows: Tensor, out: Tensor) -> None:
        """As they are."""
        torch.index_select(self._blocks, 0, rows, out=out.view(-1, self._blocks.shape[1]))


class Scratch:
    """Memory for codes that are being read, one for all layers; grows to what a chunk takes."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.int8)

    def take(self, num_values: int, device: torch.device) -> Tensor:
        """A flat int8 tensor that the next call reuses."""
        if self._memory.numel() < num_values or self._memory.device != device:
            self._memory = torch.empty(num_values, dtype=torch.int8, device=device)
        return self._memory[:num_values]


class Int8Store:
    """Codes of one byte, and a scale for each head of each token."""

    def __init__(self, codes: Tensor, scales: Tensor, block_size: int, scratch: Scratch) -> None:
        dim = codes.numel() // scales.numel()
        self._block_size, self._dim, self._scratch = block_size, dim, scratch
        self._tokens = codes.view(-1, dim)
        self._blocks = codes.view(-1, block_size * dim)
        self._token_scales = scales.view(-1, 1)
        self._block_scales = scales.view(-1, block_size)

    def write(self, rows: Tensor, new: Tensor) -> Tensor:
        """Rounded to codes; a number that isn't finite stays so, and reaches only its own row."""
        codes, scales = _quantize(new.reshape(-1, self._dim))
        self._tokens.index_copy_(0, rows, codes)
        self._token_scales.index_copy_(0, rows, scales)
        return codes.to(new.dtype).mul_(scales).view(new.shape)

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Codes times scales, the same operations as in `write`: the results are equal to the last bit."""
        scales = self._block_scales.index_select(0, rows)[..., None]
        numbers = out.view(len(rows), self._block_size, self._dim)
        num_chunk_rows = max(1, _CHUNK_VALUES // self._blocks.shape[1])
        for first in range(0, len(rows), num_chunk_rows):
            chunk = slice(first, first + num_chunk_rows)
            codes = self._scratch.take(numbers[chunk].numel(), rows.device).view(numbers[chunk].shape)
            torch.index_select(self._blocks, 0, rows[chunk], out=codes.view(-1, self._blocks.shape[1]))
            # One product of both types takes a CPU ten times as long.
            numbers[chunk].copy_(codes).mul_(scales[chunk])


def _quantize(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, dim] → int8 codes [rows, dim] and scales [rows, 1] in the numbers' dtype; computed in float32."""
    exact = numbers.float()
    scales = (exact.abs().amax(-1, keepdim=True) / _LARGEST_CODE).to(numbers.dtype)
    scales = scales.masked_fill_(scales == 0, 1)  # of zeros alone
    codes = (exact / scales).round_().clamp_(-_LARGEST_CODE, _LARGEST_CODE).to(torch.int8)
    return codes, scales
