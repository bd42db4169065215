"""How much a benchmark does: as much as measuring needs, more with `--long`, or once and little, to see that it runs.

`--benchmark-disable` runs each once. `conftest.py` says so here before the benchmarks are imported.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["VOCAB_SIZE", "Extent", "amount", "choose_extent", "is_long", "is_once"]


VOCAB_SIZE = 151_936
"""Of the fixture `qwen3_06b`."""


class Extent(Enum):
    """How much is done."""

    ONCE = "once"
    USUAL = "usual"
    LONG = "long"


_state = {"extent": Extent.USUAL}


def choose_extent(extent: Extent) -> None:
    """Set what `amount` answers from now on."""
    _state["extent"] = extent


def is_once() -> bool:
    """Whether nothing is measured: no ratio means anything."""
    return _state["extent"] is Extent.ONCE


def is_long() -> bool:
    """Whether there is time for small differences."""
    return _state["extent"] is Extent.LONG


def amount(usual: int, *, once: int, long: int | None = None) -> int:
    """`usual`; `once` where nothing is measured; `long`, if there is one, where small differences are."""
    if is_once():
        return once
    return long if is_long() and long is not None else usual
