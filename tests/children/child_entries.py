"""Entries that the tests of child processes start: `tests.launch` is not installed, so they name this file's folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio

from histrio.children.spawn import ChildSpec, spawn


def write_facts(payload: dict[str, Any]) -> None:
    """Say what this process sees."""
    facts = [
        payload["text"],
        os.environ["PYTHONUNBUFFERED"],
        str(os.getsid(0) == os.getpid()),
        str(signal.getsignal(signal.SIGINT) == signal.SIG_IGN),
        sys.stdin.read(),
        Path("/proc/self/comm").read_text().strip() if sys.platform == "linux" else "rt:facts.1",
    ]
    Path(payload["file"]).write_text("\n".join(facts))


def fail(payload: Any) -> None:
    """End with a traceback, as any bug would."""
    raise RuntimeError("a bug in the child")


def get_ready() -> None:
    """Prepare for an order."""
    _publish(os.environ["PREPARED_FILE"])


def wait_for_ever(file: str) -> None:
    """End only because the parent did."""
    _publish(file)
    threading.Event().wait()


def stop_in_order(file: str) -> None:
    """End in order when told so."""
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    _publish(file)
    is_over.wait()
    Path(file).write_text("stopped")


def refuse_to_stop(file: str) -> None:
    """Go on whatever is asked."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _publish(file)
    while True:
        time.sleep(1)


def stall(file: str) -> None:
    """Never let another Python thread run, so that only the kernel can end this process."""
    sys.setswitchinterval(1000)
    _publish(file)
    while True:
        pass


def start_grandchildren(payload: dict[str, Any]) -> None:
    """Be a parent that gets killed."""

    async def start() -> None:
        for entry, file in payload["grandchildren"]:
            await spawn(ChildSpec(entry=entry, payload=file))
        _publish(payload["file"])
        await anyio.sleep_forever()

    anyio.run(start)


def _publish(file: str) -> None:
    """Write this process's number, complete at once."""
    Path(f"{file}.new").write_text(str(os.getpid()))
    os.replace(f"{file}.new", file)
