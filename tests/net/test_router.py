from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import zmq

from histrio.net.peer import LinkLimits
from histrio.net.router import LinkChange, Ready, Router, Sending
from histrio.net.wakeup import WakeUp
from histrio.net.wire import Frame
from histrio.testing.wait import eventually

Routers: TypeAlias = tuple[Router, Router, str]
"""The one that listens, the one that dials, and the endpoint between them."""


@pytest.fixture
def routers(sockets: Path) -> Iterator[Routers]:
    """Two routers of this thread, the second connected to the first."""
    root, engine = Router("root.1", LinkLimits()), Router("engine.1", LinkLimits(high_water_mark=2))
    endpoint = root.bind(f"ipc://{sockets}/root.1")
    engine.dial("root.1", endpoint)
    eventually(lambda: root.send("engine.1", [b""]) is not Sending.UNKNOWN)
    yield root, engine, endpoint
    engine.close(0)
    root.close(0)


def received(router: Router) -> tuple[str, list[Frame]]:
    came: list[tuple[str, list[Frame]]] = []

    def has_come() -> bool:
        message = router.receive()
        came.extend([] if message is None else [message])
        return bool(came)

    eventually(has_come)
    return came[0]


def is_sent(socket: zmq.Socket[bytes], frames: list[bytes]) -> bool:
    """Whether the socket knows the receiver by now."""
    try:
        socket.send_multipart(frames)
    except zmq.ZMQError:
        return False
    return True


def test_frames_arrive_as_they_were_sent(routers: Routers) -> None:
    root, engine, _ = routers
    frames: list[Frame] = [b"header", b"small", memoryview(bytes(range(256)) * 1024), b""]
    assert engine.send("root.1", frames) is Sending.DONE
    sender, came = received(root)
    assert sender == "engine.1"
    assert [bytes(frame) for frame in came] == [bytes(frame) for frame in frames]
    assert came != frames[::-1]


def test_a_stranger_is_told_from_a_process_of_the_run_and_cannot_take_its_name(sockets: Path) -> None:
    stage = Router("stage1.1", LinkLimits(), "secret")
    endpoint = stage.bind(f"ipc://{sockets}/stage1.1")
    context = zmq.Context()
    stranger = context.socket(zmq.ROUTER)
    stranger.setsockopt(zmq.IDENTITY, b"engine.2")
    stranger.setsockopt(zmq.ROUTER_MANDATORY, 1)
    engine = Router("engine.2", LinkLimits(), "secret")
    try:
        stranger.connect(endpoint)
        # It hears under which name the listener presents itself: no secret is in it.
        eventually(lambda: is_sent(stranger, [b"stage1.1", b"forged"]))
        assert received(stage) == ("", [b"forged"])
        assert engine.dial("stage1.1", endpoint)
        assert engine.send("stage1.1", [b"real"]) is Sending.DONE
        assert received(stage) == ("engine.2", [b"real"])
        assert stage.send("engine.2", [b"answer"]) is Sending.DONE
        assert received(engine) == ("stage1.1", [b"answer"])
    finally:
        engine.close(0)
        context.destroy(linger=0)
        stage.close(0)


def test_unknown_peer_is_told_from_a_full_one(routers: Routers) -> None:
    root, engine, _ = routers
    assert root.send("absent", [b"x"]) is Sending.UNKNOWN
    # The dialler is not read from, so that sooner or later its buffers and the system's are full.
    large = b"x" * 1_000_000
    assert any(engine.send("root.1", [large]) is Sending.FULL for _ in range(20_000))


def test_connected_process_is_not_dialled_again(routers: Routers, sockets: Path) -> None:
    root, engine, endpoint = routers
    assert not root.dial("engine.1", f"ipc://{sockets}/engine.1")
    assert not engine.dial("root.1", endpoint)
    assert root.dial("other", f"ipc://{sockets}/other")


def test_connections_that_come_and_go_are_told(routers: Routers) -> None:
    root, engine, endpoint = routers
    seen: list[LinkChange] = []

    def has_gone() -> bool:
        # A socket does its part of hanging up when it is used.
        assert engine.receive() is None
        seen.extend(root.changes())
        return LinkChange(endpoint, is_up=False) in seen

    engine.hang_up(endpoint)
    eventually(has_gone)
    assert seen[0] == LinkChange(endpoint, is_up=True)


def test_poll_tells_what_is_ready(routers: Routers) -> None:
    root, engine, _ = routers
    wake = WakeUp()
    root.changes()
    assert root.poll(wake.fd, 0) == Ready(has_messages=False, has_changes=False, is_woken=False)
    engine.send("root.1", [b"x"])
    assert root.poll(wake.fd, 10_000) == Ready(has_messages=True, has_changes=False, is_woken=False)
    wake.set()
    assert root.poll(wake.fd, 10_000).is_woken
