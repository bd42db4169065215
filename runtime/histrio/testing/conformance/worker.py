"""A process with one stage: `python -m histrio.testing.conformance.worker ENDPOINT MODULE:FACTORY SPEC`.

Every request is a message of the line, and every one is answered: `Hello` opens the stage, `StepResult` takes the
output of the step with its number, logits as a tensor of that name.
"""

from __future__ import annotations

import os
import sys
import threading

import msgspec
import zmq

from histrio.backend import StageSpec
from histrio.errors import HistrioError, WireError
from histrio.messages import (
    ChildFailed,
    Close,
    Copy,
    Hello,
    Message,
    Open,
    Opened,
    Start,
    Step,
    StepResult,
    Stop,
    Tensor,
)
from histrio.net import wire
from histrio.testing.conformance.hosts import HERE, LocalHost
from histrio.testing.conformance.resolve import factory_at

__all__ = ["main"]


def main(endpoint: str, reference: str, spec: str) -> None:
    """Answer until told to stop, and live until standard input ends."""
    parent = threading.Thread(target=_end_with_parent, daemon=True)
    parent.start()
    host = LocalHost(factory_at(reference), msgspec.json.decode(spec, type=StageSpec))
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    socket.bind(endpoint)
    order: Message | None = None
    while not isinstance(order, Stop):
        _, order = wire.decode(socket.recv_multipart())
        try:
            answer = _answer(host, order)
        except (HistrioError, AssertionError, ArithmeticError, LookupError, RuntimeError, ValueError) as error:
            answer = ChildFailed(type(error).__name__, str(error))
        socket.send_multipart(wire.encode(HERE, answer))
    parent.join()


def _answer(host: LocalHost, order: Message) -> Message:
    match order:
        case Hello():
            return Opened(0, host.open())
        case StepResult(number):
            return _output(host, number)
        case Start(_, size):
            host.start(size)
        case Open() | Close() | Copy():
            host.tell(order)
        case Step():
            host.step(order)
        case Stop():
            host.close()
        case _:
            raise WireError(f"a worker does not understand {type(order).__name__}")
    return order


def _output(host: LocalHost, number: int) -> Step:
    taken = host.take(number)
    tensors = list(taken.hidden)
    if taken.logits is not None:
        tensors.append(Tensor("float32", taken.logits.shape, taken.logits, "logits"))
    return Step(number, 0, [], [], tensors)


def _end_with_parent() -> None:
    """Standard input ends when the driver closes it, or dies."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
