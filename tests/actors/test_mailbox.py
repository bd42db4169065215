"""A message is handled after the current handler has returned; an actor is flushed when its mailbox is empty."""

from __future__ import annotations

import asyncio
import threading

import pytest

from histrio.actors.mailbox import Actor, Dispatcher, LoopDispatcher, ThreadDispatcher
from histrio.messages import Close, Message
from histrio.testing.wait import eventually, eventually_async


class Recorder(Actor[Message]):
    """Writes down what happens, and tells itself more while it handles slot 1."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.dispatcher: Dispatcher | None = None

    def receive(self, message: Message) -> None:
        assert isinstance(message, Close)
        self.log.append(f"begin {message.slot}")
        if message.slot == 1 and self.dispatcher is not None:
            self.dispatcher.post("recorder", Close(3))
        if message.slot == 13:
            raise ValueError("unlucky")
        self.log.append(f"end {message.slot}")

    def flush(self) -> None:
        self.log.append("flush")


def run_on_thread(slots: list[int], failures: list[str]) -> list[str]:
    log: list[str] = []
    dispatcher = ThreadDispatcher(lambda name, error, _message: failures.append(f"{name}: {error}"))
    recorder = Recorder(log)
    recorder.dispatcher = dispatcher
    dispatcher.host("recorder", recorder)
    for slot in slots:
        dispatcher.post("recorder", Close(slot))
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    eventually(lambda: "flush" in log)
    dispatcher.stop()
    thread.join(5.0)
    assert not thread.is_alive()
    return log


def test_a_handler_is_never_interrupted_by_what_it_tells() -> None:
    log = run_on_thread([1, 2], [])
    assert log[:6] == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


def test_an_actor_is_flushed_once_for_everything_that_arrived() -> None:
    log = run_on_thread([2, 2, 2], [])
    assert log.count("flush") == 1
    assert log[-1] == "flush"


def test_a_failing_handler_is_reported_with_its_name_and_the_next_message_is_handled() -> None:
    failures: list[str] = []
    log = run_on_thread([13, 2], failures)
    assert failures == ["recorder: unlucky"]
    assert "end 2" in log
    assert "end 13" not in log


def test_a_message_for_an_actor_that_is_not_here_is_dropped() -> None:
    async def run() -> list[str]:
        log: list[str] = []
        dispatcher = LoopDispatcher(asyncio.get_running_loop(), lambda _name, error, _message: pytest.fail(str(error)))
        dispatcher.host("other", Recorder(log))
        dispatcher.post("recorder", Close(7))
        dispatcher.post("other", Close(8))
        await eventually_async(lambda: "flush" in log)
        return log

    assert asyncio.run(run()) == ["begin 8", "end 8", "flush"]


def test_other_threads_may_post_to_a_loop() -> None:
    async def run() -> list[str]:
        log: list[str] = []
        dispatcher = LoopDispatcher(asyncio.get_running_loop(), lambda _name, error, _message: pytest.fail(str(error)))
        dispatcher.host("recorder", Recorder(log))

        def post() -> None:
            for slot in range(20, 1020):
                dispatcher.post("recorder", Close(slot))

        await asyncio.to_thread(post)
        await eventually_async(lambda: len(log) >= 2000)
        return [line for line in log if line.startswith("end")]

    assert asyncio.run(run()) == [f"end {slot}" for slot in range(20, 1020)]


def test_actors_hear_once_that_nothing_comes_any_more() -> None:
    class Idler(Recorder):
        def idle(self) -> None:
            self.log.append("idle")

    log: list[str] = []
    dispatcher = ThreadDispatcher(lambda _name, error, _message: pytest.fail(str(error)))
    dispatcher.host("idler", Idler(log))
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    dispatcher.post("idler", Close(5))
    eventually(lambda: "idle" in log)
    dispatcher.post("idler", Close(6))
    eventually(lambda: log.count("idle") == 2)
    dispatcher.stop()
    thread.join(5.0)
    assert log == ["begin 5", "end 5", "flush", "idle", "begin 6", "end 6", "flush", "idle"]
