"""Start child processes, wait for them, end them: the parent's side of `histrio.children.child`."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress

import anyio
import msgspec
from anyio import to_thread

from histrio.children.child import PARENT_GONE, ChildSpec
from histrio.children.launch import launch

__all__ = ["ChildProcess", "ChildSpec", "describe_exit", "spawn"]

_ABANDON_AFTER_S = 2.0
"""Seconds that a killed process has to give back what it holds, such as its device's memory."""
_UNENDED = "was killed, but the system has not ended it"


_FAULTS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})


class ChildProcess:
    """A running child. Its output goes to the parent's; Ctrl-C in the terminal does not reach it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process
        self._is_killed = anyio.Event()
        self._code: Future[int] = Future()
        self._code.set_running_or_notify_cancel()  # a task that gives up waiting cancels nothing
        threading.Thread(target=self._wait, name=f"wait-{name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return not self._code.done()

    @property
    def died_of_itself(self) -> bool:
        """Whether the process ended by its own doing: an exit code or a fault of its code, no signal from outside."""
        code = self._code.result() if self._code.done() else 0
        return code > 0 or -code in _FAULTS

    async def wait(self) -> str:
        """Wait for its end and say in words how it ended. May be called by several tasks, also afterwards."""
        return describe_exit(await asyncio.wrap_future(self._code))

    async def wait_or_abandon(self) -> str:
        """`wait`, but only a moment longer once it was killed: the system cannot end a process that it is stuck in."""
        reason = _UNENDED
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._abandon, tasks.cancel_scope)
            reason = await self.wait()
            tasks.cancel_scope.cancel()
        return reason

    async def terminate(self, grace_s: float = 5.0) -> str:
        """SIGTERM, and after `grace_s` SIGKILL; says how it ended."""
        if self.is_running:
            self._process.terminate()
        with anyio.move_on_after(grace_s):
            return await self.wait()

        self.kill()
        return await self.wait_or_abandon()

    def kill(self) -> None:
        """SIGKILL, now."""
        if self.is_running:
            self._process.kill()
        self._is_killed.set()

    async def _abandon(self, waiting: anyio.CancelScope) -> None:
        await self._is_killed.wait()
        await anyio.sleep(_ABANDON_AFTER_S)
        waiting.cancel()

    def _wait(self) -> None:
        code = self._process.wait()
        self.cut_life_line()
        self._code.set_result(code)

    def cut_life_line(self) -> None:
        """Close the pipe that tells the child of its parent's life."""
        assert self._process.stdin is not None
        with suppress(OSError):  # of an order that it did not take
            self._process.stdin.close()

    async def begin(self, spec: ChildSpec) -> None:
        """Give the child its order. One that has ended already takes none; `wait` tells how it ended."""
        stdin = self._process.stdin
        assert stdin is not None

        def send() -> None:
            with suppress(OSError, ValueError):
                stdin.write(msgspec.json.encode(spec) + b"\n")
                stdin.flush()

        await to_thread.run_sync(send)


async def spawn(
    spec: ChildSpec,
    *,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> ChildProcess:
    """Carry out `spec` in a process of its own, by this interpreter or another one that has histrio installed.

    Call it from a thread that lives as long as the parent does: on Linux the child dies with that thread. The other
    parameters are those of `histrio.children.launch`, whose errors it raises.
    """
    child = ChildProcess(spec.name, launch(spec.name, python=python, env=env, pass_fds=pass_fds))
    await child.begin(spec)
    return child


def describe_exit(code: int) -> str:
    """An exit code of a process in words."""
    if code == 0:
        return "ended"

    if code == PARENT_GONE:
        return "ended because its life line was cut"

    if code > 0:
        return f"ended with exit code {code}"

    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
