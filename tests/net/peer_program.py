"""A process of its own at the other end of a link: `peer_program.py ROLE NAME PEER ENDPOINT`. Ends with its stdin."""

import os
import sys
import threading

from histrio.messages import Beat, Close, Hello, Message
from histrio.net.io_thread import IoThread


def main(role: str, process: str, peer: str, endpoint: str) -> None:
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


main(*sys.argv[1:])
