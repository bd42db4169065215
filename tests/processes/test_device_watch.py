"""What the beats of a process say of its device's thread, on a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from histrio.actors.mailbox import Actor, ThreadDispatcher
from histrio.messages import Message, Stop
from histrio.processes.device_watch import DeviceWatch
from histrio.stage.actor import Activity
from histrio.testing.wait import eventually


class Gate(Actor[Message]):
    """Handles a message once the test lets it."""

    def __init__(self) -> None:
        self.may_go_on = threading.Semaphore(0)

    def receive(self, message: Message) -> None:
        self.may_go_on.acquire()


class World:
    """A device's thread with one actor, and the watch on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch = DeviceWatch("engine.1", lambda: self.now)
        self.gate = Gate()
        self.dispatcher = ThreadDispatcher(lambda _name, _error, _message: None)
        self.dispatcher.host("gate", self.gate)
        self.watch.dispatcher = self.dispatcher
        self.thread = threading.Thread(target=self.dispatcher.run)

    def stuck_s(self, after_s: float = 0.5) -> float:
        """As the next beat tells."""
        self.now += after_s
        return self.watch.beat().stuck_s


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.thread.start()
    yield world
    world.dispatcher.stop()
    world.gate.may_go_on.release(10)
    world.thread.join()


def test_a_message_that_is_not_done_with_is_told_from_quiet(world: World) -> None:
    eventually(lambda: not world.dispatcher.has_work)
    assert [world.stuck_s() for _ in range(3)] == [0.0, 0.0, 0.0]
    world.dispatcher.post("gate", Stop())
    world.dispatcher.post("gate", Stop())
    eventually(lambda: world.dispatcher.num_handled == 1)
    assert [world.stuck_s() for _ in range(3)] == [0.0, 0.5, 1.0]
    world.gate.may_go_on.release()
    eventually(lambda: world.dispatcher.num_handled == 2)
    assert [world.stuck_s() for _ in range(2)] == [0.0, 0.5], "each message has its own time"
    world.gate.may_go_on.release()
    eventually(lambda: not world.dispatcher.has_work)
    assert world.stuck_s() == 0.0


def test_messages_that_no_thread_takes_are_told() -> None:
    world = World()
    world.dispatcher.post("gate", Stop())
    assert [world.stuck_s() for _ in range(3)] == [0.0, 0.5, 1.0]


def test_what_the_process_slept_through_does_not_count(world: World) -> None:
    world.dispatcher.post("gate", Stop())
    eventually(lambda: world.dispatcher.num_handled == 1)
    assert [world.stuck_s(), world.stuck_s(3600.0)] == [0.0, 1.0]


def test_a_running_step_is_told_with_its_time() -> None:
    world = World()
    activity = Activity(lambda: world.now)
    world.watch.add(0, activity)
    world.now = 1.0
    assert world.watch.beat().busy_s == 0.0
    activity.begin(7, 1, 1)
    world.now = 1.25
    world.watch.beat()
    world.now = 2.0
    beat = world.watch.beat()
    assert (beat.step, beat.busy_s, beat.expected_s) == (7, 1.0, 0.0)
    world.now = 3600.0
    assert world.watch.beat().busy_s == 2.0, "the process was stopped"
    activity.end()
    assert world.watch.beat().busy_s == 0.0
    activity.begin(8, 1, 1)
    world.now = 3600.5
    beat = world.watch.beat()
    assert (beat.step, beat.busy_s) == (8, 0.5)
    assert beat.expected_s > 0.0
