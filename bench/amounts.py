"""How much a benchmark does: as much as measuring needs, or once and little, to see that it still runs.

`--benchmark-disable` runs each once. `conftest.py` says so here before the benchmarks are imported.
"""

from __future__ import annotations

__all__ = ["amount", "is_once", "run_once"]

_state = {"is_once": False}


def run_once(is_once: bool) -> None:
    """Set what `amount` answers from now on."""
    _state["is_once"] = is_once


def is_once() -> bool:
    """Whether nothing is measured: no ratio means anything."""
    return _state["is_once"]


def amount(usual: int, *, once: int) -> int:
    """`usual`, or `once` where nothing is measured."""
    return once if is_once() else usual
