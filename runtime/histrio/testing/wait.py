"""Bounded waiting for tests: no test sleeps for a guessed time.

The bound is for tests that fail: it is far above what a busy machine needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

__all__ = ["eventually", "eventually_async"]


def eventually(holds: Callable[[], object], timeout_s: float = 45.0) -> None:
    """Return when `holds()` is true; AssertionError after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"did not become true within {timeout_s} s"
        time.sleep(0.005)


async def eventually_async(holds: Callable[[], object], timeout_s: float = 45.0) -> None:
    """The same on an event loop."""
    with anyio.fail_after(timeout_s):
        while not holds():  # noqa: ASYNC110 - the predicate is a stranger's, nothing announces its change
            await anyio.sleep(0.005)
