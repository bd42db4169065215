"""A request that brings the engine down is found by trying suspects alone; no other request ends."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from histrio.batching.sequence import Sequence
from histrio.contracts.gateway import Submission
from histrio.errors import EngineError, RequestTimeout
from histrio.front.requests import RequestTable, Ticket
from histrio.front.trials import TRIAL_TOKENS
from histrio.messages import Ask, Extras, Generate, RequestState, TokenLogprobs, TokenRow


class Front:
    """A request table and an engine that says the position of each token, and dies at poisoned ones."""

    def __init__(self) -> None:
        self.table = RequestTable(100)
        self.engine: dict[int, Generate] = {}
        self.heard: dict[int, list[TokenRow]] = {}
        self.poison: dict[int, int] = {}
        """Request → the number of known tokens at which it kills the engine."""
        self.num_failures = 0

    def submit(self, num_tokens: int = 30, *, poison: int | None = None, **fields: Any) -> int:
        (command,) = self.table.accept(Submission([1, 2], num_tokens, Ask(**fields)))
        heard = self.heard[command.request] = []
        if poison is not None:
            self.poison[command.request] = poison
        self.table.add(Ticket(command, 100.0, heard.append))
        self.send()
        return command.request

    def send(self) -> None:
        for command in self.table.next_commands():
            assert command.request not in self.engine
            self.engine[command.request] = msgspec.structs.replace(command, ids=list(command.ids))

    def step(self) -> None:
        """One token for each request in the engine, or its end; then whatever may follow."""
        on_trial = self.table.on_trial
        assert not on_trial or list(self.engine) == [on_trial], "the request on trial is alone"
        if any(self.poison.get(each.request) == len(each.ids) for each in self.engine.values()):
            self.fail(on_trial)
            return
        for command in list(self.engine.values()):
            token = len(command.ids)
            command.ids.append(token)
            is_end = len(command.ids) == (command.trial_end or command.max_total_tokens)
            state = RequestState.FINISHED_MAX_LENGTH if is_end else RequestState.DECODING
            if is_end:
                del self.engine[command.request]
            self.table.deliver(TokenRow(command.request, [token], state))
        self.send()

    def fail(self, convicted: int = 0, suspects: list[int] | None = None, culprits: Ids[int] = ()) -> None:
        self.num_failures += 1
        self.engine.clear()
        self.table.down(convicted, suspects, culprits)
        self.send()

    def run(self) -> None:
        for _ in range(5000):
            if not len(self.table):
                return
            self.step()
        raise AssertionError("requests never end")

    def ids(self, request: int) -> list[int]:
        return [token for row in self.heard[request] for token in row.ids]

    def codes(self) -> dict[int, str]:
        return {request: rows[-1].extras.code for request, rows in self.heard.items() if rows and rows[-1].extras}


def test_only_the_poisoned_end_each_by_two_failures_at_most() -> None:
    front = Front()
    good = [front.submit() for _ in range(8)]
    front.step()
    poisoned = [front.submit(poison=position) for position in (2, 5, 20)]
    front.run()
    assert front.codes() == dict.fromkeys(poisoned, "request_broke_engine")
    assert all(front.ids(request) == list(range(2, 32)) for request in good)
    assert front.num_failures <= 2 * len(poisoned)
    assert [len(front.ids(request)) for request in poisoned] == [0, 3, 18], "what it said before is delivered"


def test_a_killed_engine_costs_no_request_a_token() -> None:
    front = Front()
    good = [front.submit() for _ in range(5)]
    for _ in range(3):
        front.step()
    front.fail()
    front.run()
    assert all(front.ids(request) == list(range(2, 32)) for request in good)
    assert front.codes() == {}
    assert all(sum(row.state.is_finished for row in rows) == 1 for rows in front.heard.values())


def test_those_that_come_during_trials_wait_for_their_end() -> None:
    front = Front()
    first = front.submit()
    front.fail()
    second = front.submit()
    assert list(front.engine) == [first]
    assert front.engine[first].trial_end == 2 + TRIAL_TOKENS
    for _ in range(TRIAL_TOKENS):
        front.step()
    assert sorted(front.engine) == [first, second]
    assert front.engine[first].trial_end == 0, "a control: no request is on trial any more"


def test_a_failure_that_blames_no_request_tries_the_same_request_first() -> None:
    front = Front()
    requests = [front.submit() for _ in range(3)]
    front.fail()
    for _ in range(TRIAL_TOKENS + 2):
        front.step()
    assert front.table.on_trial == requests[1]
    front.fail(convicted=0)
    assert front.table.on_trial == requests[1]
    assert front.table.num_suspects == 1, "the first was not in the engine"
    front.run()
    assert front.codes() == {}


def test_those_that_were_not_in_the_failed_step_are_not_tried() -> None:
    front = Front()
    requests = [front.submit() for _ in range(4)]
    front.fail(suspects=requests[1:2])
    assert list(front.engine) == requests[1:2]
    assert front.table.num_suspects == 0
    for _ in range(TRIAL_TOKENS):
        front.step()
    assert sorted(front.engine) == requests
    front.run()
    assert all(front.ids(request) == list(range(2, 32)) for request in requests)


def test_a_culprit_ends_at_once_and_the_others_go_on_together() -> None:
    front = Front()
    requests = [front.submit() for _ in range(4)]
    front.step()
    front.fail(suspects=[], culprits=requests[2:3])
    assert sorted(front.engine) == [*requests[:2], requests[3]]
    assert front.table.on_trial == 0
    front.fail(suspects=[], culprits=requests[2:3])
    front.run()
    assert front.codes() == {requests[2]: "request_broke_engine"}


def test_a_conviction_that_comes_too_late_hits_no_request() -> None:
    front = Front()
    requests = [front.submit() for _ in range(2)]
    front.fail()
    for _ in range(TRIAL_TOKENS):
        front.step()
    front.fail(convicted=requests[0])
    front.run()
    assert front.codes() == {}


def test_one_that_is_cancelled_on_trial_stays_on_trial_until_the_engine_is_done_with_it() -> None:
    front = Front()
    first, second = front.submit(), front.submit()
    front.fail()
    assert front.table.remove(first)
    assert not front.table.needs_cancel(first)
    assert len(front.table) == 1, "its credit is back at once"
    front.step()
    assert front.table.on_trial == first
    for _ in range(TRIAL_TOKENS - 1):
        front.step()
    assert front.table.on_trial == second
    assert front.table.needs_cancel(first)
    front.run()
    assert front.ids(second) == list(range(2, 32))


def test_one_that_was_cancelled_on_trial_alone_is_at_fault() -> None:
    front = Front()
    first, second = front.submit(poison=4), front.submit()
    front.step()
    front.fail()
    front.table.expire(1000.0)
    third = front.submit()
    front.run()
    assert front.codes() == {first: RequestTimeout.code, second: RequestTimeout.code}
    assert front.ids(third) == list(range(2, 32))


def test_a_suspect_that_leaves_is_not_tried() -> None:
    front = Front()
    first, second, third = (front.submit() for _ in range(3))
    front.fail()
    front.table.remove(second)
    for _ in range(TRIAL_TOKENS):
        front.step()
    assert front.table.on_trial == third
    front.run()
    assert front.ids(first) == front.ids(third) == list(range(2, 32))


def test_what_cannot_be_bounded_runs_on_after_its_first_token() -> None:
    front = Front()
    front.table.can_continue = lambda fields: not fields
    first, second = front.submit(sampling={"temperature": 1}), front.submit()
    front.fail()
    assert front.engine[first].trial_end == 0
    front.step()
    assert list(front.engine) == [first, second]
    assert front.table.on_trial == second
    assert front.engine[second].trial_end == 2 + TRIAL_TOKENS, "a control: this one can be continued"


def test_one_that_cannot_be_bounded_is_cancelled_in_the_engine() -> None:
    front = Front()
    front.table.can_continue = lambda fields: not fields
    first, second = front.submit(sampling={"temperature": 1}), front.submit()
    front.fail()
    front.table.remove(first)
    assert front.table.needs_cancel(first)
    del front.engine[first]
    front.send()
    assert front.table.on_trial == second


def test_an_end_during_a_trial_is_an_end() -> None:
    front = Front()
    short, long = front.submit(5), front.submit()
    front.fail()
    front.run()
    assert front.ids(short) == list(range(2, 7))
    assert [row.state for row in front.heard[short]][-1] is RequestState.FINISHED_MAX_LENGTH
    assert len(front.ids(long)) == 30


def test_what_the_last_step_of_a_trial_gives_beyond_its_end_is_delivered() -> None:
    front = Front()
    request = front.submit()
    front.fail()
    ids = list(range(2, 2 + TRIAL_TOKENS + 5))
    front.table.deliver(TokenRow(request, ids, RequestState.FINISHED_MAX_LENGTH))
    (command,) = front.table.next_commands()
    assert (command.ids[2:], command.trial_end) == (ids, 0)
    sequence = Sequence.from_command(msgspec.structs.replace(command, trial_end=len(command.ids) + 4))
    assert (sequence.take([1, 2]), sequence.state) == ([1, 2], RequestState.DECODING)
    assert (sequence.take([3, 4, 5]), sequence.state) == ([3, 4, 5], RequestState.FINISHED_MAX_LENGTH)


def test_a_command_that_cannot_be_sent_delays_no_other() -> None:
    front = Front()
    first, second = front.submit(), front.submit()
    front.fail()
    del front.engine[first]
    front.table.fail(first, EngineError("it cannot be sent"))
    front.table.unsent(first)
    front.send()
    assert front.table.on_trial == second
    front.run()
    assert front.codes() == {first: EngineError.code}


def test_the_prompt_is_accounted_for_once() -> None:
    front = Front()
    request = front.submit(num_prompt_logprobs=0)
    scores = [TokenLogprobs(-1.0)]
    front.table.deliver(
        TokenRow(request, [2], RequestState.DECODING, Extras(prompt_logprobs=scores, num_cached_tokens=1))
    )
    front.fail()
    assert front.engine[request].num_prompt_logprobs is None
    front.table.deliver(TokenRow(request, [3], RequestState.DECODING, Extras(num_cached_tokens=3)))
    assert [row.extras and row.extras.num_cached_tokens for row in front.heard[request]] == [1, 0]


ACTIONS = ["submit", "poison", "step", "step", "step", "kill", "remove", "expire"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(ACTIONS),
            st.integers(0, 30),
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_innocent_get_every_token(actions: list[tuple[str, int]]) -> None:
    front = Front()
    asked: list[int] = []
    left: set[int] = set()
    for action, number in actions:
        match action:
            case "submit":
                asked.append(front.submit(1 + number))
            case "poison":
                front.submit(40, poison=2 + number)
            case "step":
                front.step()
            case "kill":
                front.fail()
            case "expire":
                for request in front.table.expire(1000.0):
                    left.add(request)
                    if front.table.needs_cancel(request):
                        front.engine.pop(request, None)
                front.send()
            case "remove" if asked:
                request = asked[number % len(asked)]
                if front.table.remove(request):
                    left.add(request)
                    if front.table.needs_cancel(request):
                        front.engine.pop(request, None)
                    front.send()
    front.run()
    assert front.table.num_tokens == 0
    for request in set(asked) - left:
        ids = front.ids(request)
        assert ids == list(range(2, 2 + len(ids)))
        assert front.heard[request][-1].state is RequestState.FINISHED_MAX_LENGTH
