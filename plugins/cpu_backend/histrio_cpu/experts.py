"""Experts that are stored in one tensor, under a name for each: `…experts.3.gate_proj.weight`.

MLX stacks each projection. gpt-oss has gate and up in turns in one tensor, and its plain weights are [experts, inputs,
outputs], where every other linear is [outputs, inputs].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from histrio_cpu.abi import Format
from histrio_cpu.quantized.tensor import Array, BuiltTensor
from histrio_cpu.weights import Bytes, MappedTensor, StoredTensor, from_float32

__all__ = ["unstack", "unstacked_name"]

_STACK = re.compile(r"(.+)\.(?:switch_mlp|experts)\.(gate|up|down)_proj\.(weight|bias)")
_IN_TURNS = re.compile(r"(.+)\.experts\.(gate_up|down)_proj(_bias)?")
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
_ROWS_OF = {"gate_up": (("gate_proj", 0, 2), ("up_proj", 1, 2)), "down": (("down_proj", 0, 1),)}
"""Stored projection → the parts in it, with the first row of each and the step from row to row."""


def unstacked_name(stem: str, expert: int) -> str:
    """The stem of one expert's tensor, of the stem of a stack such as `…switch_mlp.gate_proj`."""
    module, _, part = stem.rpartition(".")
    layer = module.rpartition(".")[0]
    own = _MIXTRAL[part.removesuffix("_proj")] if layer.endswith("block_sparse_moe") else part
    return f"{layer}.experts.{expert}.{own}"


def unstack(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors, with one for each expert in place of stacks."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        own = list(_experts_of(name, tensor)) if isinstance(tensor, MappedTensor) else []
        found |= {each.name: each for each in own or [tensor]}
    return found


def _experts_of(name: str, stack: MappedTensor) -> Iterator[StoredTensor]:
    """Of a stack; none of another tensor."""
    piled, in_turns = _STACK.fullmatch(name), _IN_TURNS.fullmatch(name)
    num_dimensions = 2 if name.endswith("bias") else 3
    if (piled is None and in_turns is None) or len(stack.shape) != num_dimensions:
        return

    for expert in range(stack.shape[0]):
        own = stack.nth(expert)
        if piled is not None:
            stem, _, suffix = name.rpartition(".")
            yield own.named(f"{unstacked_name(stem, expert)}.{suffix}")
            continue
        assert in_turns is not None
        suffix = "bias" if in_turns[3] else "weight"
        for part, first, step in _ROWS_OF[in_turns[2]]:
            rows = own.shape[-1] // step
            shape = (rows,) if in_turns[3] else (rows, own.shape[0])
            convert = partial(_convert, own.format, first, step)
            yield BuiltTensor(f"{in_turns[1]}.experts.{expert}.{part}.{suffix}", shape, own.format, (own,), convert)


def _convert(
    form: Format, first: int, step: int, arrays: Sequence[Array], begin: int, end: int
) -> tuple[Format, Bytes]:
    """The transposed rows `first`, `first + step` …, and of them those from `begin` to `end`."""
    return form, from_float32(np.ascontiguousarray(arrays[0].T[first::step][begin:end]).reshape(-1), form)
