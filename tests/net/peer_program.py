"""A process of its own at the other end of a link; ends with its stdin.

`peer_program.py ROLE NAME PEER ENDPOINT` dials, `peer_program.py listen NAME PATH` listens.
"""

from __future__ import annotations

import os
import sys
import threading

from histrio.messages import Beat, Close, Hello, Message
from histrio.net.io_thread import IoThread


def listen(process: str, path: str) -> None:
    """Send everything back to where it came from."""

    def deliver(batch: list[tuple[str, Message, str]]) -> None:
        for actor, message, sender in batch:
            io.send(sender, actor, message)

    io = IoThread(process, f"ipc://{path}", deliver, lambda _: None)
    io.start()
    sys.stdin.read()


def main(role: str, process: str, peer: str, endpoint: str) -> None:
    """Dial a listener."""
    heard = threading.Event()

    def deliver(batch: list[tuple[str, Message, str]]) -> None:
        heard.set()
        for actor, message, sender in batch:
            io.send(sender, actor, message)

    io = IoThread(process, None, deliver, lambda _: os._exit(3))
    io.start()
    io.connect(peer, endpoint)
    io.send(peer, "root", Hello(process=process, pid=os.getpid(), protocol=1))
    if role == "busy":
        io.beat(peer, lambda: Beat(process=process, step=1, busy_s=1.0, expected_s=0.0), every_s=0.02)
        while True:
            sum(range(1000))

    if role == "last-words":
        heard.wait()
        for slot in range(1000):
            io.send(peer, "root", Close(slot=slot))
    else:
        sys.stdin.read()
    io.close()


if sys.argv[1] == "listen":
    listen(*sys.argv[2:])
else:
    main(*sys.argv[1:])
