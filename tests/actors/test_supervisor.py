"""Rest for one: what fails is made anew with everything that was started after it."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import NoReturn

import pytest

from histrio.actors.mailbox import Actor
from histrio.actors.supervisor import Child, Supervisor, end_process
from histrio.errors import BackendError, DoesNotFit, note_request_code
from histrio.messages import ChildFailed, Message, ReplicaSize, Start, Stop
from histrio.testing.wait import eventually

SIZE = ReplicaSize(num_blocks=8, block_size=4, max_slots=2, max_step_tokens=64, max_sequence_length=32)


class Part(Actor[Message]):
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


def make(log: list[str], reports: list[ChildFailed], error: Exception | None = None) -> Supervisor:
    names = ["stage0", "kv", "batching"]
    children = [Child(name, partial(Part, name, log, error if name == "kv" else None)) for name in names]
    return Supervisor(children, lambda _name, _actor: None, reports.append)


def test_children_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    supervisor = make(log, [])
    supervisor.start()
    supervisor.stop()
    assert log == ["start stage0", "start kv", "start batching", "stop batching", "stop kv", "stop stage0"]


def test_a_failed_child_takes_those_after_it_along_and_none_before() -> None:
    log: list[str] = []
    reports: list[ChildFailed] = []
    supervisor = make(log, reports)
    supervisor.start()
    log.clear()
    supervisor.failed("kv", ValueError("broken"))
    assert log == ["stop batching", "stop kv", "start kv", "start batching"]
    assert reports == [ChildFailed("kv", "ValueError: broken", dependants=["batching"])]


class Ended(BaseException):
    """In place of the end of a process."""


def end() -> NoReturn:
    raise Ended


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no blocks"), Start(2, SIZE)),  # it failed again before the replica was up
        (MemoryError("no memory"), Stop()),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Stop()),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), Stop()),
        (RuntimeError("could not create a primitive"), Stop()),
        (RuntimeError("std::bad_alloc"), Stop()),
        (RuntimeError("can't start new thread"), Stop()),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), Stop()),
    ],
)
def test_what_no_new_actor_mends_ends_the_process(error: Exception, message: Message) -> None:
    log: list[str] = []
    reports: list[ChildFailed] = []
    supervisor = make(log, reports)
    supervisor._end_process = end
    supervisor.start()
    log.clear()
    with pytest.raises(Ended):
        supervisor.failed("kv", error, message)
    assert (log, [report.ends_process for report in reports]) == ([], [True])
    assert str(error) in reports[0].error
    assert ("not enough memory" in reports[0].error) == (not isinstance(error, ValueError))
    supervisor.failed("kv", ValueError("broken"), Stop())
    assert log == ["stop batching", "stop kv", "start kv", "start batching"], "a control: this may be mended here"


def test_an_actor_that_cannot_start_ends_the_process_and_in_one_process_everything() -> None:
    reports: list[ChildFailed] = []
    supervisor = make([], reports, OSError("no such device"))
    supervisor._end_process = end
    with pytest.raises(Ended):
        supervisor.start()
    log: list[str] = []
    make(log, reports, OSError("no such device")).start()
    assert [(report.ends_process, report.is_final) for report in reports] == [(True, False), (False, True)]
    assert log == ["start stage0", "stop batching", "stop kv", "stop stage0"], "nothing is called behind its close"


def test_notes_name_whose_code_failed() -> None:
    reports: list[ChildFailed] = []
    supervisor = make([], reports)
    supervisor.start()
    error = ValueError("broken")
    note_request_code(error, "sampler 'dice' (games)")
    supervisor.failed("stage0", error)
    supervisor.failed("stage0", ValueError("broken"))
    assert "sampler 'dice' (games)" in reports[0].error
    assert [report.is_request_code for report in reports] == [True, False], "a control: a device may fail at any time"


@pytest.mark.parametrize("error", [DoesNotFit("too large"), ModuleNotFoundError("No module named 'torch'")])
def test_what_would_fail_in_the_same_way_is_not_tried_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    reports: list[ChildFailed] = []
    make(log, reports, error).start()
    assert reports == [ChildFailed("kv", str(error), is_final=True)]
    assert log == ["start stage0"], "what depends on it must not start"
    assert caplog.text == "", "the front says it, once"


def test_a_child_that_cannot_be_made_is_told_like_one_that_cannot_start() -> None:
    def refuse() -> Actor[Message]:
        raise BackendError("there is no torch here")

    log: list[str] = []
    reports: list[ChildFailed] = []
    children = [Child("stage0", refuse), Child("kv", lambda: Part("kv", log))]
    Supervisor(children, lambda _name, _actor: None, reports.append).start()
    assert reports == [ChildFailed("stage0", "there is no torch here", is_final=True)]
    assert log == []


def test_every_child_has_a_mailbox_before_the_first_one_starts() -> None:
    log: list[str] = []
    names = ["stage0", "kv"]
    children = [Child(name, partial(Part, name, log)) for name in names]
    Supervisor(children, lambda name, _actor: log.append(f"host {name}"), print).start()
    assert log == ["host stage0", "host kv", "start stage0", "start kv"]


def test_without_restarts_a_failure_ends_the_process_even_if_closing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("histrio.actors.supervisor._CLOSE_S", 0.01)
    log: list[str] = []
    reports: list[ChildFailed] = []
    children = [Child("batching", lambda: Part("batching", log))]
    supervisor = Supervisor(
        children, lambda _name, _actor: None, reports.append, end_process=end_process, can_mend=False
    )
    supervisor.start()
    with pytest.raises(SystemExit) as caught:
        supervisor.failed("batching", ValueError("broken"))
    assert caught.value.code == 1
    assert log == ["start batching"], "nothing is made anew here"
    assert reports == [ChildFailed("batching", "ValueError: broken", ends_process=True)]
    eventually(lambda: ended == [1])
