"""Start child processes, wait for them, end them: the parent's side of `histrio.children.child`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import anyio
import anyio.abc
import msgspec

from histrio.children.child import PARENT_GONE, ChildSpec
from histrio.errors import BackendError, EngineError

__all__ = ["ChildProcess", "ChildSpec", "describe_exit", "spawn"]

_ABANDON_AFTER_S = 2.0
"""Seconds that a killed process has to give back what it holds, such as its device's memory."""
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC})
"""Errors of a system that lacks something only for the moment, such as descriptors."""
_UNENDED = "was killed, but the system has not ended it"


_FAULTS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})


class ChildProcess:
    """A running child. Its output goes to the parent's; Ctrl-C in the terminal does not reach it."""

    def __init__(self, name: str, process: anyio.abc.Process) -> None:
        self.name = name
        self._process = process
        self._is_killed = anyio.Event()

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.returncode is None

    @property
    def died_of_itself(self) -> bool:
        """Whether the process ended by its own doing: an exit code or a fault of its code, no signal from outside."""
        code = self._process.returncode
        return code is not None and (code > 0 or -code in _FAULTS)

    async def wait(self) -> str:
        """Wait for its end and say in words how it ended. May be called by several tasks, also afterwards."""
        code = await self._process.wait()
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        return describe_exit(code)

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


async def spawn(
    spec: ChildSpec,
    *,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> ChildProcess:
    """Carry out `spec` in a process of its own, by this interpreter or another one that has histrio installed.

    Call it from a thread that lives as long as the parent does: on Linux the child dies with that thread. `env` is
    added to the parent's environment; `pass_fds` are descriptors that the child has too, under the same numbers.
    Raises `BackendError` if the interpreter cannot be started, and `EngineError` if only the system cannot do it now.
    """
    interpreter = python or sys.executable
    try:
        process = await anyio.open_process(
            [interpreter, "-m", "histrio.children.child"],
            stdout=None,
            stderr=None,
            env=_environment(env or {}),
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except OSError as error:
        refusal = f"cannot start process {spec.name!r} with {interpreter}: {error.strerror}"
        raise (EngineError(refusal) if error.errno in _PASSING else BackendError(refusal)) from error

    assert process.stdin is not None
    try:
        await process.stdin.send(msgspec.json.encode(spec) + b"\n")
    except anyio.BrokenResourceError:
        # It has ended already; `wait` tells how.
        pass
    return ChildProcess(spec.name, process)


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


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", **os.environ, **extra}
