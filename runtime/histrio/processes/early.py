"""The engine's process is started before its plan is known: front and engine then import side by side.

It does nothing with a model before its order comes, and one that no order comes to is ended.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from histrio.children.launch import launch
from histrio.config.topology import Topology
from histrio.errors import HistrioError

__all__ = ["early_engine"]

_PREPARE = "histrio.processes.device:prepare"


@contextmanager
def early_engine(topology: Topology) -> Iterator[subprocess.Popen[bytes] | None]:
    """A process that imports what an engine needs; None where another interpreter runs it, or none is needed, or the
    system starts none now: what cannot be is told when the plan is carried out."""
    process = None
    if topology.runtime.processes != "one" and topology.stages[0].python is None:
        with suppress(HistrioError):
            process = launch("engine", prepare=_PREPARE)
    try:
        yield process
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
