"""What a link between two processes costs: ipc against loopback tcp, small messages against activations.

The other process answers on its main thread, as a device process does, so a round trip crosses four threads. Wall-clock
time: compare rows of one run. `cpu_us_per_message` is this process's CPU time, all threads.
"""

from __future__ import annotations

import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.messages import Close, Message, Step, StepResult, Stop, Tensor
from histrio.net.io_thread import Delivery, IoThread
from histrio.net.wakeup import WakeUp

NUM_BURST_MESSAGES = 2000
TIMEOUT_S = 30.0


class Ends:
    """This end of a link, and the process at the other end."""

    def __init__(self, endpoint: str) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.io = IoThread("front", endpoint, self._deliver, lambda _: None)
        self.io.start()
        self.peer = subprocess.Popen([sys.executable, __file__, str(self.io.endpoint)])
        self.inbox.get(timeout=TIMEOUT_S)

    def _deliver(self, batch: Delivery) -> None:
        for _, message, _ in batch:
            self.inbox.put(message)

    def ask(self, message: Message) -> Message:
        """Send and wait for the answer."""
        self.io.send("engine", "stage0", message)
        return self.inbox.get(timeout=TIMEOUT_S)

    def close(self) -> None:
        """End the other process and the link."""
        self.peer.kill()
        self.peer.wait()
        self.io.close()


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with tempfile.TemporaryDirectory() as folder:
        ends = Ends(f"ipc://{folder}/front" if request.param == "ipc" else "tcp://127.0.0.1:0")
        yield ends
        ends.close()


def test_round_trip(benchmark: BenchmarkFixture, ends: Ends) -> None:
    answer = benchmark(ends.ask, StepResult(1, 1, list(range(16))))

    assert answer == StepResult(1, 1, list(range(16)))


@pytest.mark.parametrize("num_tokens", [1, 16, 512])
def test_round_trip_of_activations(benchmark: BenchmarkFixture, ends: Ends, num_tokens: int) -> None:
    """[num_tokens, 1024] float32 there and back: 4 KiB, 64 KiB, 2 MiB."""
    values = np.ones((num_tokens, 1024), np.float32)

    answer = benchmark(ends.ask, Step(1, 1, [], [], [Tensor("float32", values.shape, values)]))

    assert isinstance(answer, Step)
    assert bytes(answer.hidden[0].data) == values.tobytes()


def test_burst_one_way(benchmark: BenchmarkFixture, ends: Ends) -> None:
    """2000 small messages to the other process, until it says that it has them all."""

    def burst() -> Message:
        for number in range(NUM_BURST_MESSAGES):
            ends.io.send("engine", "sink", Close(number))
        return ends.ask(Stop())

    started = time.process_time()
    answer = benchmark.pedantic(burst, rounds=20, warmup_rounds=1)
    num_messages = 21 * NUM_BURST_MESSAGES
    benchmark.extra_info["cpu_us_per_message"] = round((time.process_time() - started) / num_messages * 1e6, 2)

    assert answer == Stop()


def test_waking_a_thread_by_descriptor(benchmark: BenchmarkFixture) -> None:
    """The part of a hop that `IoThread.send` leaves to the system: wake a thread that polls, and be woken by it."""

    wake, woken = WakeUp(), threading.Semaphore(0)
    is_over = False

    def sleep() -> None:
        while not is_over:
            select.select([wake.fd], [], [])
            wake.clear()
            woken.release()

    thread = threading.Thread(target=sleep)
    thread.start()

    def there_and_back() -> bool:
        wake.set()
        return woken.acquire(timeout=TIMEOUT_S)

    assert benchmark(there_and_back)
    is_over = True
    wake.set()
    thread.join()


def _answer(endpoint: str) -> None:
    """The other process: give back what comes to `stage0`, swallow the rest."""
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def deliver(batch: Delivery) -> None:
        for actor, message, _ in batch:
            if actor == "stage0":
                inbox.put(message)

    io = IoThread("engine", None, deliver, lambda _: inbox.put(None))
    io.start()
    io.connect("front", endpoint)
    io.send("front", "root", Stop())
    while (message := inbox.get()) is not None:
        io.send("front", "stage0", message)
    io.close()


if __name__ == "__main__":
    _answer(sys.argv[1])
