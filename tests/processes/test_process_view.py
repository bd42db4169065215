"""What the operating system says of a process that works, waits, is stopped, or lets another one work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from histrio.processes.process_view import look
from histrio.testing.wait import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

WORK = "while True: pass"
WAIT = "input()"
LET_WORK = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORK!r}])"


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True))
        return started[-1].pid

    yield run
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def work_s(pid: int) -> float:
    view = look(pid)
    assert view is not None
    return view.work_s()


@pytest.mark.parametrize("code", [WORK, LET_WORK])
def test_work_is_seen_wherever_it_is_done(start: Callable[[str], int], code: str) -> None:
    working, waiting = start(code), start(WAIT)
    first = work_s(working)
    eventually(lambda: work_s(working) > first + 0.3)
    assert work_s(waiting) < 0.3, "a control"


def test_a_stopped_process_is_seen(start: Callable[[str], int]) -> None:
    pid = start(WAIT)
    view = look(pid)
    assert view is not None
    assert not view.is_stopped
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: getattr(look(pid), "is_stopped", False))


def test_of_a_process_that_is_gone_nothing_is_known(start: Callable[[str], int]) -> None:
    pid = start(WAIT)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: look(pid) is None)
