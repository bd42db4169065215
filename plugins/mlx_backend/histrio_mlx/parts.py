"""What the layers of a family hand on, as a flat set of arrays that another stage can make the same of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from histrio.errors import UnsupportedModel

__all__ = ["Parts", "arrays_in", "flatten", "rebuild"]

Parts = dict[str, mx.array]
"""What goes from stage to stage: under "" the summed residual stream [rows, tokens, hidden]; what else the layers
hand on, under its index in the tuple that they return, such as "1" or "1.0". An array of no size is None."""


def flatten(output: Any, path: str = "") -> Iterator[tuple[str, mx.array]]:
    """What a layer returned as parts; the first of a tuple is the residual stream."""
    if output is None:
        yield path, mx.zeros(0)
    elif isinstance(output, mx.array):
        yield ("" if path in ("", "0") else path), _swap_heads(path, output)
    elif isinstance(output, (tuple, list)):
        for index, item in enumerate(output):
            yield from flatten(item, f"{path}.{index}" if path else str(index))
    else:
        raise UnsupportedModel(f"a layer returns a {type(output).__name__}, which can't be sent to another stage")


def rebuild(parts: Parts) -> Any:
    """What a layer would have returned; inverse of `_flatten`."""
    # A fresh array each time: models add to it in place.
    residual = parts[""].reshape(parts[""].shape)
    if len(parts) == 1:
        return residual

    items: list[Any] = [residual]
    for name, part in parts.items():
        if name:
            *outer, last = (int(index) for index in name.split("."))
            _reach(items, outer).insert(last, _swap_heads(name, part) if part.size else None)
    return tuple(items)


def _swap_heads(path: str, part: mx.array) -> mx.array:
    """Pairs of keys and values [rows, heads, tokens, width] travel as [rows, tokens, heads, width], as all parts do."""
    return part.swapaxes(1, 2) if "." in path and part.ndim == 4 else part


def _reach(items: list[Any], path: list[int]) -> list[Any]:
    for index in path:
        if index == len(items):
            items.append([])
        items = items[index]
    return items


def arrays_in(value: Any) -> Iterator[mx.array]:
    """All arrays in nested tuples, lists and dicts."""
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)
    elif type(value) is dict:
        yield from arrays_in(list(value.values()))
