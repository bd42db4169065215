"""A thread with an asyncio loop of its own, for engines that live on one while the main thread waits for messages.

It also sees at once when one of the processes that an engine has started ends, whatever the engine makes of that.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["LoopThread"]

_STOP_TIMEOUT_S = 10.0


class LoopThread:
    """Runs its loop from `start` to `stop`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._prepared: Future[None] = Future()
        self._prepare: Callable[[], None] = lambda: None
        self._watched: list[int] = []

    def start(self, prepare: Callable[[], None]) -> None:
        """Run `prepare` on the thread, then the loop. Raises what `prepare` raises, and then there is no loop."""
        self._prepare = prepare
        self._thread.start()
        self._prepared.result()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call it soon on the loop; from any thread, and from signal handlers. After `stop`, nothing happens."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)

    def watch_children(self, on_ended: Callable[[str], None]) -> None:
        """From `prepare`: call `on_ended` with a process's name, on the loop, when one that runs now has ended."""
        for child in multiprocessing.active_children():
            name = f"process {child.name} (pid {child.pid})"
            self._watched.append(child.sentinel)
            self.loop.add_reader(child.sentinel, self._on_ended, child.sentinel, on_ended, name)

    def end_children(self) -> None:
        """Kill what still runs; their end is expected."""
        for sentinel in self._watched:
            self.call(self.loop.remove_reader, sentinel)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    def stop(self) -> None:
        """Cancel every task and end the thread. Safe to call twice."""
        self.call(self.loop.stop)
        self._thread.join(_STOP_TIMEOUT_S)

    def _on_ended(self, sentinel: int, on_ended: Callable[[str], None], name: str) -> None:
        self.loop.remove_reader(sentinel)
        on_ended(name)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._prepare()
        except BaseException as error:
            self._prepared.set_exception(error)
        else:
            self._prepared.set_result(None)
            self.loop.run_forever()
        self.loop.run_until_complete(_cancel_tasks())
        self.loop.close()


async def _cancel_tasks() -> None:
    """Everything that still runs beside this."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
