"""`scheduler-wait-ms`: the first request waits for others while nothing runs, and no longer; on both dispatchers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from histrio.actors.mailbox import Actor, LoopDispatcher, ThreadDispatcher
from histrio.actors.refs import ToBatching
from histrio.batching.actor import BatchingActor, BatchingSpec
from histrio.config.settings import BatchingSettings
from histrio.messages import (
    Close,
    Generate,
    Granted,
    Match,
    Matched,
    Message,
    ReplicaSize,
    RequestState,
    Row,
    Start,
    Step,
    StepResult,
    Tokens,
    Tune,
)
from histrio.testing.wait import eventually

SIZE = ReplicaSize(num_blocks=64, block_size=4, max_slots=3, max_step_tokens=64, max_sequence_length=64)
WAIT_S = 0.5


class Desk:
    """A batching actor, the time it sees, and what it has told."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.now = 100.0
        self.told: list[Message] = []
        settings = BatchingSettings(scheduler_wait_ms=wait_s * 1000, prefix_cache=False)
        self.batching = BatchingActor(self._tell, BatchingSpec(settings=settings), clock=lambda: self.now)
        self.hear(Start(epoch=1, size=SIZE))

    def _tell(self, name: str, message: Message) -> None:
        if name in ("stage0", "kv", "admission"):
            self.told.append(message)

    def hear(self, *messages: ToBatching) -> list[list[Row]]:
        """The rows of the steps that follow these messages, with blocks granted as they are asked for."""
        self.told.clear()
        for message in messages:
            self.batching.receive(message)
        self.batching.flush()
        if self.batching.scheduler is not None and self.batching.scheduler.num_missing_blocks:
            self.batching.receive(Granted(list(range(32)), 32))
            self.batching.flush()
        return [each.rows for each in self.told if isinstance(each, Step)]


def request(number: int) -> Generate:
    return Generate(number, [1, 2, 3], 3, 8)


def test_without_a_wait_a_request_is_computed_at_once() -> None:
    desk = Desk(wait_s=0.0)
    assert len(desk.hear(request(1))) == 1
    assert desk.batching.pause_s() is None


def test_the_first_request_waits_for_others_and_all_are_computed_together() -> None:
    desk = Desk()
    assert desk.hear(request(1)) == []
    assert desk.batching.pause_s() == pytest.approx(WAIT_S)
    desk.now += 0.3
    assert desk.hear(request(2)) == []
    assert desk.batching.pause_s() == pytest.approx(WAIT_S - 0.3), "the second one does not prolong the wait"
    desk.now += 0.2
    (rows,) = desk.hear()
    assert [row.num_tokens for row in rows] == [3, 3]


def test_a_full_batch_waits_for_no_request() -> None:
    desk = Desk()
    assert desk.hear(request(1), request(2)) == []
    (rows,) = desk.hear(request(3))
    assert len(rows) == SIZE.max_slots
    assert desk.batching.pause_s() is None


def test_no_request_waits_beside_a_running_one() -> None:
    desk = Desk()
    desk.hear(request(1))
    desk.now += WAIT_S
    desk.hear()
    (rows,) = desk.hear(StepResult(1, 1, [5]), request(2))
    assert sorted(row.num_tokens for row in rows) == [1, 3]
    assert desk.batching.pause_s() is None


def test_the_next_request_after_all_have_ended_waits_anew() -> None:
    desk = Desk()
    desk.hear(Generate(1, [1, 2, 3], 3, 4))
    desk.now += WAIT_S
    desk.hear()
    desk.hear(StepResult(1, 1, [5]))
    (tokens,) = [each for each in desk.told if isinstance(each, Tokens)]
    assert tokens.rows[0].state is RequestState.FINISHED_MAX_LENGTH
    assert desk.hear(request(2)) == []
    assert desk.batching.pause_s() == pytest.approx(WAIT_S)


def test_a_request_that_has_waited_long_enough_is_not_flushed_again_and_again_until_kv_answers() -> None:
    desk = Desk()
    spec = BatchingSpec(settings=BatchingSettings(scheduler_wait_ms=WAIT_S * 1000))
    desk.batching = BatchingActor(desk._tell, spec, clock=lambda: desk.now)
    desk.hear(Start(epoch=1, size=ReplicaSize(64, 4, 3, 64, 64, ["prefix_share"])))
    desk.hear(request(1))
    desk.now += WAIT_S
    assert desk.hear() == []
    assert [each.request for each in desk.told if isinstance(each, Match)] == [1]
    assert desk.batching.pause_s() is None
    assert len(desk.hear(Matched(1, []))) == 1


# --- bounds that change while it runs ------------------------------------------------------------------------------


def test_fewer_run_together_once_told_and_none_that_runs_is_ended() -> None:
    desk = Desk(wait_s=0.0)
    (rows,) = desk.hear(request(1), request(2))
    assert len(rows) == 2
    desk.hear(Tune(max_batch_size=1), request(3))
    (rows,) = desk.hear(StepResult(1, 1, [5, 6]))
    assert len(rows) == 2, "those that run go on, and the third waits"
    assert desk.batching.scheduler is not None
    assert desk.batching.scheduler.num_waiting == 1
    (rows,) = desk.hear(Tune(max_batch_size=99), StepResult(2, 1, [5, 6]))
    assert len(rows) == SIZE.max_slots, "no more than there are slots, and the third enters"


def test_a_batch_is_full_by_the_bound_of_today_and_waits_as_long_as_told() -> None:
    desk = Desk()
    (rows,) = desk.hear(Tune(max_batch_size=2), request(1), request(2))
    assert len(rows) == 2
    desk = Desk(wait_s=0.0)
    assert desk.hear(Tune(scheduler_wait_ms=WAIT_S * 1000), request(1)) == []
    assert desk.batching.pause_s() == pytest.approx(WAIT_S)


# --- dispatchers -----------------------------------------------------------------------------------------------------


class Dozer(Actor[Message]):
    """Wants to be flushed again after `pause_s`, until the clock says `until`."""

    def __init__(self, pauses: list[float | None]) -> None:
        self.pauses = pauses
        self.num_flushes = 0

    def receive(self, message: Message) -> None:
        pass

    def flush(self) -> None:
        self.num_flushes += 1

    def pause_s(self) -> float | None:
        return self.pauses.pop(0) if self.pauses else None


def test_a_thread_flushes_an_actor_again_when_its_time_has_come_and_not_before() -> None:
    now = [50.0]
    dozer = Dozer([2.0, 0.5])
    dispatcher = ThreadDispatcher(lambda _name, error, _message: pytest.fail(str(error)), clock=lambda: now[0])
    dispatcher.host("dozer", dozer)
    dispatcher.post("dozer", Close(0))
    dispatcher._turn(8)
    assert (dozer.num_flushes, dispatcher._wait_s(was_active=False)) == (1, 2.0)
    now[0] = 51.9
    assert not dispatcher._flush_due()
    now[0] = 52.0
    assert dispatcher._flush_due()
    assert (dozer.num_flushes, dispatcher._wait_s(was_active=False)) == (2, 0.5)
    now[0] = 53.0
    assert dispatcher._flush_due()
    assert (dozer.num_flushes, dispatcher._wait_s(was_active=False)) == (3, None)


def test_a_message_that_comes_meanwhile_leaves_one_flush_to_come() -> None:
    now = [0.0]
    dozer = Dozer([2.0, 1.0])
    dispatcher = ThreadDispatcher(lambda _name, error, _message: pytest.fail(str(error)), clock=lambda: now[0])
    dispatcher.host("dozer", dozer)
    for now[0] in (0.0, 1.0):
        dispatcher.post("dozer", Close(0))
        dispatcher._turn(8)
    now[0] = 9.0
    assert dispatcher._flush_due()
    assert dozer.num_flushes == 3
    assert not dispatcher._flush_due()


def test_an_actor_that_was_replaced_is_not_flushed_any_more() -> None:
    now = [0.0]
    dozer, successor = Dozer([1.0]), Dozer([])
    dispatcher = ThreadDispatcher(lambda _name, error, _message: pytest.fail(str(error)), clock=lambda: now[0])
    dispatcher.host("dozer", dozer)
    dispatcher.post("dozer", Close(0))
    dispatcher._turn(8)
    dispatcher.host("dozer", successor)
    now[0] = 2.0
    dispatcher._flush_due()
    assert (dozer.num_flushes, successor.num_flushes) == (1, 0)


def test_a_running_thread_wakes_up_for_it_by_itself() -> None:
    dozer = Dozer([0.001, 0.001])
    dispatcher = ThreadDispatcher(lambda _name, error, _message: pytest.fail(str(error)))
    dispatcher.host("dozer", dozer)
    dispatcher.post("dozer", Close(0))
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    eventually(lambda: dozer.num_flushes == 3)
    dispatcher.stop()
    thread.join(5.0)
    assert not thread.is_alive()


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is told, or until only waiting is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10.0

    def time(self) -> float:
        return self.now


def turn(loop: Loop) -> None:
    """Let what is ready run."""
    for _ in range(3):
        loop.call_soon(loop.stop)
        loop.run_forever()


def test_a_loop_flushes_an_actor_again_when_its_time_has_come_and_not_before() -> None:
    loop = Loop()
    dozer = Dozer([2.0])
    dispatcher = LoopDispatcher(loop, lambda _name, error, _message: pytest.fail(str(error)))
    dispatcher.host("dozer", dozer)
    dispatcher.post("dozer", Close(0))
    flushes = []
    for loop.now in (10.0, 11.9, 12.1, 20.0):
        turn(loop)
        flushes.append(dozer.num_flushes)
    loop.close()
    assert flushes == [1, 1, 2, 2]
