from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zmq

from histrio.errors import WireError
from histrio.messages import Beat, Cancel, Close, Hello, Message, Open, Step, Stop, Tensor
from histrio.net.io_thread import MOST_BATCH_MESSAGES, Delivery, IoThread
from histrio.net.peer import LinkLimits
from histrio.net.router import LinkChange

if TYPE_CHECKING:
    from tests.net.conftest import MakeNode, StartPeer, Until


def slots(messages: Sequence[object]) -> list[int]:
    closes = [message for message in messages if isinstance(message, Close)]
    assert closes == messages, "nothing else among them"
    return [message.slot for message in closes]


def test_message_arrives_with_actor_and_sender(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    engine.io.send("root.1", "admission", Close(slot=7))
    until(lambda: root.heard)
    assert root.heard == [("admission", Close(slot=7), "engine.1")]
    assert root.heard != [("admission", Close(slot=8), "engine.1")]


def test_both_directions_share_the_connection_the_later_process_dialled(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    # No process of that name is connected yet; the message waits for the dialler.
    root.io.send("engine.1", "batching", Stop())
    engine = node("engine.1", dials=root)
    until(lambda: engine.heard)
    assert engine.heard == [("batching", Stop(), "root.1")]
    assert engine.io.endpoint is None


def test_order_is_kept_per_sending_thread(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)

    def send(first: int) -> None:
        for slot in range(first, first + 1000):
            engine.io.send("root.1", "kv", Close(slot=slot))

    threads = [threading.Thread(target=send, args=(first,)) for first in (0, 10_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(root.heard) == 2000)
    heard = slots(root.messages("engine.1"))
    assert [slot for slot in heard if slot < 10_000] == list(range(1000))
    assert [slot for slot in heard if slot >= 10_000] == list(range(10_000, 11_000))


def test_deliveries_are_bounded(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    for slot in range(3000):
        engine.io.send("root.1", "kv", Close(slot=slot))
    until(lambda: len(root.heard) == 3000)
    assert max(map(len, root.batches)) <= MOST_BATCH_MESSAGES
    assert slots(root.messages("engine.1")) == list(range(3000))


@pytest.mark.parametrize("num_tokens", [1, 5000], ids=["copied", "zero-copy"])
def test_tensors_cross_processes_unchanged(node: MakeNode, child: StartPeer, until: Until, num_tokens: int) -> None:
    root = node("root.1")
    child("echo", "engine.1", root)
    values = np.arange(num_tokens * 7, dtype=np.float32).reshape(num_tokens, 7)
    root.io.send("engine.1", "stage0", Step(1, 1, [], [], [Tensor("float32", values.shape, values)]))
    until(lambda: len(root.heard) == 2)
    _, step = root.messages("engine.1")
    assert isinstance(step, Step)
    (tensor,) = step.hidden
    echoed = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)
    assert echoed.flags.aligned
    np.testing.assert_array_equal(echoed, values)
    assert not np.array_equal(echoed[:, ::-1], values)


def test_small_tensor_may_be_reused_after_send(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    values = np.ones(4, np.int32)
    root.io.send("engine.1", "stage0", Step(1, 1, [], [], [Tensor("int32", (4,), values)]))
    values[:] = 2
    engine = node("engine.1", dials=root)
    until(lambda: engine.heard)
    (step,) = engine.messages("root.1")
    assert isinstance(step, Step)
    assert bytes(step.hidden[0].data) == np.ones(4, np.int32).tobytes() != values.tobytes()


def test_full_receiver_delays_but_loses_nothing(node: MakeNode, until: Until) -> None:
    limits = LinkLimits(high_water_mark=100)
    root = node("root.1", limits=limits)
    may_go_on = threading.Event()
    heard: Delivery = []

    def deliver(batch: Delivery) -> None:
        may_go_on.wait(45)
        heard.extend(batch)

    engine = IoThread("engine.1", None, deliver, lambda _: None, limits=limits)
    engine.start()
    try:
        engine.connect("root.1", root.endpoint)
        for slot in range(5000):
            root.io.send("engine.1", "kv", Close(slot=slot))
        root_peer = root.io._peers["engine.1"]
        until(lambda: 0 < len(root_peer.waiting) < 5000)
        may_go_on.set()
        until(lambda: len(heard) == 5000)
    finally:
        may_go_on.set()
        engine.close()
    assert slots([message for _, message, _ in heard]) == list(range(5000))


def test_queue_over_its_limit_raises_and_loses_the_peer_once(node: MakeNode, until: Until) -> None:
    root = node("root.1", limits=LinkLimits(max_queued_messages=3))
    for slot in range(3):
        root.io.send("engine.1", "kv", Close(slot=slot))
    with pytest.raises(WireError, match=r"engine\.1 takes no more: 3 messages"):
        root.io.send("engine.1", "kv", Close(slot=3))
    until(lambda: root.lost)
    root.io.send("engine.1", "kv", Close(slot=4))
    engine = node("engine.1", dials=root)
    engine.io.send("root.1", "kv", Close(slot=5))
    other = node("engine.2", dials=root)
    other.io.send("root.1", "kv", Close(slot=6))
    until(lambda: root.messages("engine.2"))
    assert root.lost == ["engine.1"]
    assert root.messages("engine.1") == []
    assert engine.heard == []


def test_queue_limit_counts_bytes(node: MakeNode) -> None:
    root = node("root.1", limits=LinkLimits(max_queued_bytes=1000))
    large = Open(0, [70_000] * 1000, 0)
    # A single message may be larger, or it could never be sent.
    root.io.send("engine.1", "stage0", large)
    with pytest.raises(WireError, match="bytes wait"):
        root.io.send("engine.1", "stage0", large)


@pytest.mark.parametrize("num_messages", [0, 3])
def test_dialled_process_that_never_answers_is_lost(
    node: MakeNode, sockets: Path, until: Until, num_messages: int
) -> None:
    engine = node("engine.1", limits=LinkLimits(connect_timeout_s=0.3))
    engine.io.connect("root.1", f"ipc://{sockets}/absent")
    for slot in range(num_messages):
        engine.io.send("root.1", "kv", Close(slot=slot))
    until(lambda: engine.lost)
    assert engine.lost == ["root.1"]


def test_process_that_never_dials_is_lost_with_what_waits_for_it(node: MakeNode, until: Until) -> None:
    root = node("root.1", limits=LinkLimits(connect_timeout_s=0.3))
    root.io.send("engine.1", "kv", Stop())
    until(lambda: root.lost)
    assert root.lost == ["engine.1"]


def test_dialler_may_come_before_the_listener(node: MakeNode, sockets: Path, until: Until) -> None:
    engine = node("engine.1")
    engine.io.connect("root.1", f"ipc://{sockets}/root.1")
    engine.io.send("root.1", "admission", Stop())
    root = node("root.1")
    until(lambda: root.heard)
    assert root.heard == [("admission", Stop(), "engine.1")]
    assert engine.lost == []


def test_connect_twice_keeps_one_connection(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    for slot in range(20):
        engine.io.connect("root.1", root.endpoint)
        engine.io.send("root.1", "kv", Close(slot=slot))
    until(lambda: len(root.heard) == 20)
    # The listener knows the dialler already, and dialling it back would be a second connection.
    root.io.connect("engine.1", "ipc:///nowhere")
    root.io.send("engine.1", "kv", Stop())
    until(lambda: engine.heard)
    assert root.lost == engine.lost == []


def test_silent_dialler_is_not_dialled_back(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    changes: list[LinkChange] = []
    root.io._note = lambda change, now: changes.append(change)  # type: ignore[method-assign]
    engine = node("engine.1", dials=root)
    until(lambda: changes)
    del root.io._note
    # Nothing has come from it, so that only the socket knows it.
    assert "engine.1" not in root.io._peers
    root.io.connect("engine.1", "ipc:///nowhere")
    root.io.send("engine.1", "kv", Stop())
    until(lambda: engine.heard)
    engine.io.close()
    until(lambda: root.lost)
    assert root.lost == ["engine.1"]
    assert root.io._thread.is_alive()


def test_killed_process_is_lost_once_and_others_stay(node: MakeNode, child: StartPeer, until: Until) -> None:
    root = node("root.1")
    killed = child("echo", "engine.1", root)
    child("echo", "engine.2", root)
    until(lambda: len(root.heard) == 2)
    killed.kill()
    until(lambda: root.lost)
    root.io.send("engine.1", "kv", Stop())
    root.io.send("engine.2", "kv", Stop())
    until(lambda: root.messages("engine.2")[1:])
    assert root.lost == ["engine.1"]


def test_dialler_sees_that_the_listener_was_killed(node: MakeNode, child: StartPeer, until: Until) -> None:
    root = node("root.1")
    program = child("echo", "engine.1", root)
    until(lambda: root.heard)
    # The peer program leaves with 3 when it loses its root.
    root.io.close()
    assert program.wait(45) == 3


def test_dialler_sees_that_a_process_it_dialled_was_killed(node: MakeNode, sockets: Path, until: Until) -> None:
    context = zmq.Context()
    listener = context.socket(zmq.ROUTER)
    listener.setsockopt(zmq.IDENTITY, b"root.1")
    listener.bind(f"ipc://{sockets}/raw")
    engine = node("engine.1")
    engine.io.connect("root.1", f"ipc://{sockets}/raw")
    engine.io.send("root.1", "kv", Stop())
    assert listener.recv_multipart()[0] == b"engine.1"
    context.destroy(linger=0)
    until(lambda: engine.lost)
    assert engine.lost == ["root.1"]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a signal that stops a process")
def test_stopped_process_is_lost(node: MakeNode, child: StartPeer, until: Until) -> None:
    root = node("root.1", limits=LinkLimits(heartbeat_timeout_ms=2000))
    stopped = child("echo", "engine.1", root)
    until(lambda: root.heard)
    assert root.lost == []
    os.kill(stopped.pid, signal.SIGSTOP)
    until(lambda: root.lost)
    os.kill(stopped.pid, signal.SIGCONT)
    # What it says after its loss is not heard: it has to come back under a new name.
    program = child("echo", "engine.2", root)
    until(lambda: root.messages("engine.2"))
    assert root.lost == ["engine.1"]
    assert root.messages("engine.1") == root.messages("engine.1")[:1]
    assert program.poll() is None


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a signal that stops a process")
def test_a_stopped_parent_is_not_lost(sockets: Path, until: Until) -> None:
    # Both dial the same stopped process: to one it is the parent, to the other it is not.
    limits = LinkLimits(heartbeat_interval_ms=200, heartbeat_timeout_ms=1000)
    command = [sys.executable, str(Path(__file__).with_name("peer_program.py")), "listen", "root.1", f"{sockets}/root"]
    program = subprocess.Popen(command, stdin=subprocess.PIPE)
    lost: list[str] = []
    heard: Delivery = []

    def lose(name: str, _process: str) -> None:
        lost.append(name)

    nodes = [IoThread(name, None, heard.extend, partial(lose, name), limits=limits) for name in "ab"]
    try:
        for one in nodes:
            one.start()
            one.connect("root.1", f"ipc://{sockets}/root", is_parent=one.process == "a")
            one.send("root.1", "kv", Stop())
        until(lambda: len(heard) == 2)
        os.kill(program.pid, signal.SIGSTOP)
        until(lambda: lost)
        nodes[0].send("root.1", "kv", Close(slot=1))
        os.kill(program.pid, signal.SIGCONT)
        until(lambda: len(heard) == 3)
    finally:
        program.kill()
        program.wait()
        assert program.stdin is not None
        program.stdin.close()
        for one in nodes:
            one.close(0.0)
    assert lost[0] == "b"
    assert heard[2] == ("kv", Close(slot=1), "root.1")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a signal that stops a process")
def test_stopped_process_with_full_buffers_is_lost(node: MakeNode, child: StartPeer, until: Until) -> None:
    root = node("root.1", limits=LinkLimits(high_water_mark=1, stall_timeout_s=0.5))
    stopped = child("echo", "engine.1", root)
    until(lambda: root.heard)
    os.kill(stopped.pid, signal.SIGSTOP)
    values = np.zeros(1 << 20, np.float32)
    for step in range(4):
        root.io.send("engine.1", "stage0", Step(step, 1, [], [], [Tensor("float32", values.shape, values)]))
    until(lambda: root.lost)
    assert root.lost == ["engine.1"]


def test_last_words_are_heard_before_the_loss(node: MakeNode, child: StartPeer, until: Until) -> None:
    root = node("root.1")
    received: list[Message | str] = []
    root.io._deliver = lambda batch: received.extend(message for _, message, _ in batch)
    root.io._on_lost = received.append
    child("last-words", "engine.1", root)
    until(lambda: received)
    root.io.send("engine.1", "kv", Stop())
    until(lambda: "engine.1" in received)
    assert isinstance(received[0], Hello)
    assert received[1] == Stop()
    assert slots(received[2:-1]) == list(range(1000))


def test_beats_come_while_the_main_thread_computes(node: MakeNode, child: StartPeer, until: Until) -> None:
    root = node("root.1")
    child("busy", "engine.1", root)
    until(lambda: len(root.messages("engine.1")) >= 5)
    actors = {actor for actor, message, _ in root.heard if isinstance(message, Beat)}
    assert actors == {"root"}
    assert root.lost == []


def test_beat_stops_with_its_peer(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    made: list[int] = []

    def make() -> Beat:
        made.append(1)
        return Beat("engine.1", len(made), 0.0, 0.0)

    engine.io.beat("root.1", make, every_s=0.01)
    until(lambda: len(root.heard) >= 3)
    root.io.close()
    until(lambda: engine.lost)
    until(lambda: not engine.io._beats)
    assert engine.lost == ["root.1"]


def test_disconnected_process_is_neither_heard_nor_lost(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    engine.io.send("root.1", "kv", Close(slot=0))
    until(lambda: root.heard)
    root.io.disconnect("engine.1")
    root.io.disconnect("engine.1")
    engine.io.send("root.1", "kv", Close(slot=1))
    root.io.send("engine.1", "kv", Close(slot=2))
    other = node("engine.2", dials=root)
    other.io.send("root.1", "kv", Close(slot=3))
    until(lambda: root.messages("engine.2"))
    engine.io.disconnect("root.1")
    other.io.disconnect("root.1")
    until(lambda: root.lost)
    assert slots(root.messages("engine.1")) == [0]
    # The control: the one that was not disconnected here is lost.
    assert root.lost == ["engine.2"]
    assert engine.heard == []
    assert engine.lost == other.lost == []


def test_name_of_a_lost_process_is_not_used_again(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    engine.io.send("root.1", "kv", Stop())
    until(lambda: root.heard)
    root.io.close()
    until(lambda: engine.lost)
    with pytest.raises(WireError, match="a name is used once"):
        engine.io.connect("root.1", root.endpoint)


def test_garbage_loses_its_sender_only(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    engine.io.send("root.1", "kv", Close(slot=0))
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.IDENTITY, b"\xff stranger")
    stranger.setsockopt(zmq.LINGER, 0)
    try:
        stranger.connect(root.endpoint)
        for frames in ([b"garbage"], [b"\x92\xa2kv\x91\xa4Stop", b"one frame too many"], [b"", b""]):
            stranger.send_multipart(frames)
        until(lambda: root.lost)
        engine.io.send("root.1", "kv", Close(slot=1))
        until(lambda: len(root.heard) == 2)
    finally:
        context.destroy(linger=0)
    assert root.lost == ["\\xff stranger"]
    assert slots(root.messages("engine.1")) == [0, 1]


def test_failing_consumer_loses_every_link(node: MakeNode, until: Until, caplog: pytest.LogCaptureFixture) -> None:
    lost: list[str] = []

    def deliver(batch: Delivery) -> None:
        raise RuntimeError("a bug in deliver")

    root = node("root.1")
    other = IoThread("engine.1", None, deliver, lost.append)
    other.start()
    try:
        other.connect("root.1", root.endpoint)
        root.io.send("engine.1", "kv", Stop())
        until(lambda: lost)
        until(lambda: root.lost)
        assert (other.has_failed, root.io.has_failed) == (True, False)
    finally:
        other.close()
    assert (lost, root.lost) == (["root.1"], ["engine.1"])
    assert "a bug in deliver" in caplog.text


def test_a_removed_socket_is_replaced_by_another_and_connections_stay(
    node: MakeNode, sockets: Path, until: Until
) -> None:
    root = node("root.1")
    before = node("engine.1", dials=root)
    before.io.send("root.1", "kv", Close(slot=0))
    until(lambda: root.heard)
    (sockets / "root.1").unlink()
    root.io.listen_also(f"ipc://{sockets}/again")
    after = node("engine.2")
    after.io.connect("root.1", f"ipc://{sockets}/again")
    after.io.send("root.1", "kv", Close(slot=1))
    until(lambda: root.messages("engine.2"))
    before.io.send("root.1", "kv", Close(slot=2))
    until(lambda: len(root.heard) == 3)
    assert slots(root.messages("engine.1")) == [0, 2]
    assert root.lost == before.lost == after.lost == []


def test_close_sends_what_waits(node: MakeNode, until: Until) -> None:
    root = node("root.1")
    engine = node("engine.1", dials=root)
    for slot in range(2000):
        engine.io.send("root.1", "kv", Close(slot=slot))
    engine.io.close(linger_s=5.0)
    engine.io.close()
    engine.io.send("root.1", "kv", Close(slot=-1))
    until(lambda: root.lost)
    assert slots(root.messages("engine.1")) == list(range(2000))


def test_close_does_not_wait_for_the_unreachable(node: MakeNode, sockets: Path) -> None:
    engine = node("engine.1")
    engine.io.connect("root.1", f"ipc://{sockets}/absent")
    engine.io.send("root.1", "kv", Stop())
    engine.io.close(linger_s=0.2)
    assert not engine.io._thread.is_alive()


def test_close_without_start_and_from_the_io_thread(node: MakeNode, until: Until) -> None:
    IoThread("never.1", None, lambda _: None, lambda _: None).close()
    root = node("root.1")
    engine = node("engine.1", dials=root)
    engine.io._deliver = lambda _: engine.io.close()
    root.io.send("engine.1", "kv", Stop())
    until(lambda: not engine.io._thread.is_alive())
    assert engine.lost == []


def test_tcp_port_0_becomes_a_free_one(until: Until) -> None:
    heard: Delivery = []
    root = IoThread("root.1", "tcp://127.0.0.1:0", heard.extend, lambda _: None)
    engine = IoThread("engine.1", None, heard.extend, lambda _: None)
    root.start()
    engine.start()
    try:
        assert root.endpoint
        assert not root.endpoint.endswith(":0")
        engine.connect("root.1", root.endpoint.replace("127.0.0.1", "localhost"))
        engine.send("root.1", "kv", Stop())
        until(lambda: heard)
        with pytest.raises(WireError, match="cannot listen"):
            IoThread("root.2", root.endpoint, heard.extend, lambda _: None).start()
        root.close()
        until(lambda: engine._peers["root.1"].is_final)
    finally:
        root.close()
        engine.close()
    assert heard == [("kv", Stop(), "engine.1")]


@pytest.mark.parametrize("process", ["", "x" * 256, "\0auto"])
def test_impossible_process_names_are_refused(process: str) -> None:
    with pytest.raises(WireError, match="cannot name a process"):
        IoThread(process, None, lambda _: None, lambda _: None).start()


def test_what_a_thread_sends_goes_out_at_once_when_its_wake_ups_are_put_off(node: MakeNode, until: Until) -> None:
    listener = node("a")
    sender = node("b", dials=listener)
    sender.io.send("a", "batching", Cancel(1))
    until(lambda: listener.messages("b") == [Cancel(1)])
    wakes: list[Callable[[], None]] = []
    sender.io.put_off_wakes(wakes.append)

    for request in range(2, 5):
        sender.io.send("a", "batching", Cancel(request))
    assert len(wakes) == 1, "one for all of them"
    wakes.pop()()
    until(lambda: listener.messages("b") == [Cancel(request) for request in range(1, 5)])

    sender.io.send("a", "batching", Cancel(5))
    assert len(wakes) == 1, "and another one for what comes later"
    thread = threading.Thread(target=sender.io.send, args=("a", "batching", Cancel(6)))
    thread.start()
    thread.join()
    assert len(wakes) == 1, "a control: the wake-ups of other threads are not put off"
    until(lambda: listener.messages("b")[-1] == Cancel(6))
