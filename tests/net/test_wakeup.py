from __future__ import annotations

import os
import select
import threading

import pytest

from histrio.net.wakeup import WakeUp


def is_readable(wake: WakeUp, timeout_s: float = 0.0) -> bool:
    return bool(select.select([wake.fd], [], [], timeout_s)[0])


def test_set_ends_a_poll_and_clear_arms_the_next() -> None:
    wake = WakeUp()
    assert not is_readable(wake)
    wake.set()
    wake.set()
    assert is_readable(wake)
    wake.clear()
    assert not is_readable(wake)
    wake.set()
    assert is_readable(wake)


def test_clear_without_set_does_not_block() -> None:
    wake = WakeUp()
    wake.clear()
    assert not is_readable(wake)


def test_no_change_is_slept_over() -> None:
    wake = WakeUp()
    done: list[int] = []

    def change() -> None:
        for number in range(5000):
            done.append(number)
            wake.set()

    thread = threading.Thread(target=change)
    thread.start()
    seen = 0
    while seen < 5000:
        assert is_readable(wake, timeout_s=5.0), "slept although something had changed"
        wake.clear()
        seen = len(done)
    thread.join()
    assert seen == 5000


def test_descriptors_are_freed_with_the_object() -> None:
    wake = WakeUp()
    number = wake.fd
    os.fstat(number)
    del wake
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
