"""Rest for one: what fails is made anew with everything that was started after it."""

from __future__ import annotations

import os

import pytest

from histrio.actors.mailbox import Actor
from histrio.actors.supervisor import Child, RestartIntensity, Supervisor
from histrio.errors import DoesNotFit
from histrio.messages import ChildFailed, Message, Stop
from histrio.testing.wait import eventually


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Part(Actor):
    """Logs its life."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.name, self.log, self.error = name, log, error

    def start(self) -> None:
        if self.error is not None:
            raise self.error
        self.log.append(f"start {self.name}")

    def receive(self, message: Message) -> None:
        assert isinstance(message, Stop)
        self.log.append(f"stop {self.name}")


def make(log: list[str], reports: list[ChildFailed], clock: Clock, error: Exception | None = None) -> Supervisor:
    names = ["stage0", "kv", "batching"]
    children = [Child(name, lambda name=name: Part(name, log, error if name == "kv" else None)) for name in names]
    return Supervisor(children, RestartIntensity(2, 10.0, clock), lambda _name, _actor: None, reports.append)


def test_children_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    supervisor = make(log, [], Clock())
    supervisor.start()
    supervisor.stop()
    assert log == ["start stage0", "start kv", "start batching", "stop batching", "stop kv", "stop stage0"]


def test_a_failed_child_takes_those_after_it_along_and_none_before() -> None:
    log: list[str] = []
    reports: list[ChildFailed] = []
    supervisor = make(log, reports, Clock())
    supervisor.start()
    log.clear()
    supervisor.failed("kv", ValueError("broken"))
    assert log == ["stop batching", "stop kv", "start kv", "start batching"]
    assert reports == [ChildFailed("kv", "ValueError: broken", dependants=["batching"])]


def test_more_failures_than_the_limit_are_final() -> None:
    reports: list[ChildFailed] = []
    supervisor = make([], reports, Clock())
    supervisor.start()
    for _ in range(3):
        supervisor.failed("batching", ValueError("again"))
    assert [report.is_final for report in reports] == [False, False, True]
    assert "2 restarts in 10 s" in reports[-1].error


def test_failures_far_apart_are_forgiven() -> None:
    reports: list[ChildFailed] = []
    clock = Clock()
    supervisor = make([], reports, clock)
    supervisor.start()
    for _ in range(6):
        clock.now += 6.0
        supervisor.failed("batching", ValueError("again"))
    assert not any(report.is_final for report in reports)


def test_a_model_that_cannot_be_served_is_not_tried_again() -> None:
    log: list[str] = []
    reports: list[ChildFailed] = []
    make(log, reports, Clock(), DoesNotFit("too large")).start()
    assert reports == [ChildFailed("kv", "too large", is_final=True)]
    assert log == ["start stage0"], "what depends on it must not start"


def test_every_child_has_a_mailbox_before_the_first_one_starts() -> None:
    log: list[str] = []
    names = ["stage0", "kv"]
    children = [Child(name, lambda name=name: Part(name, log)) for name in names]
    Supervisor(children, RestartIntensity(1, 1.0), lambda name, _actor: log.append(f"host {name}"), print).start()
    assert log == ["host stage0", "host kv", "start stage0", "start kv"]


def test_without_restarts_a_failure_ends_the_process_even_if_closing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("histrio.actors.supervisor._CLOSE_S", 0.01)
    log: list[str] = []
    reports: list[ChildFailed] = []
    children = [Child("batching", lambda: Part("batching", log))]
    supervisor = Supervisor(children, None, lambda _name, _actor: None, reports.append)
    supervisor.start()
    with pytest.raises(SystemExit) as caught:
        supervisor.failed("batching", ValueError("broken"))
    assert caught.value.code == 1
    assert (log, reports) == (["start batching"], []), "nothing is made anew here, and the exit says enough"
    eventually(lambda: ended == [1])
