"""A process that opens one stage after the other: `python -m histrio.testing.conformance.worker DESCRIPTOR`.

The driver's calls come through the socket with this file descriptor: the name of a method of the open host, and its
arguments. Hidden states come and go as frames, as they do between all processes. Every call is answered, with a
`Failure` where it raised. The process ends when the driver closes its end, or dies.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from histrio.contracts.backend import StageSpec
from histrio.messages import StageCapacity, Step
from histrio.net import wire
from histrio.testing.chain import Logits
from histrio.testing.conformance.hosts import HERE, LocalHost
from histrio.testing.conformance.remote import Failure
from histrio.testing.conformance.resolve import factory_at

__all__ = ["WorkerHost", "main"]


class WorkerHost(LocalHost):
    """A host with calls for what cannot leave a process as it is."""

    def step_frames(self, frames: list[bytes]) -> None:
        """`step`, of a step in frames."""
        _, step = wire.decode(frames)
        assert isinstance(step, Step), step
        self.step(step)

    def take_frames(self, number: int) -> tuple[list[bytes], Logits | None, Logits | None]:
        """`take`, with the hidden state in the frames of a step."""
        taken = self.take(number)
        frames = wire.encode(HERE, Step(number, 0, [], [], taken.hidden))
        return [bytes(frame) for frame in frames], taken.logits, taken.states

    def close(self) -> None:
        """`close`; what remains of the backend's imports is no longer looked through whenever garbage is collected."""
        super().close()
        gc.collect()
        gc.freeze()


class _Worker:
    """The host of this process. A driver closes one stage before it opens the next."""

    def open(self, reference: str, spec: StageSpec) -> StageCapacity:
        """Make a backend by the factory at `reference`, and open it."""
        self._host = WorkerHost(factory_at(reference), spec)
        return self._host.open()

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """One call."""
        return self.open(*arguments) if method == "open" else getattr(self._host, method)(*arguments)


def main(descriptor: int) -> None:
    """Answer until the driver is gone."""
    worker = _Worker()
    with Connection(descriptor) as driver:
        while (call := _next(driver)) is not None:
            try:
                answer = worker.answer(*call)
            except Exception as error:  # whatever it is, the driver raises it
                answer = Failure(type(error).__name__, str(error), traceback.format_exc())
            driver.send(answer)
    sys.stdout.flush()
    os._exit(0)  # with every thread that a backend may have left


def _next(driver: Connection) -> tuple[str, tuple[Any, ...]] | None:
    try:
        call: tuple[str, tuple[Any, ...]] = driver.recv()
    except EOFError:
        return None
    return call


if __name__ == "__main__":
    main(int(sys.argv[1]))
