"""Nothing accepted is lost: the table gives every unfinished request again with what was delivered."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import pytest

from histrio.contracts.gateway import Submission
from histrio.contracts.observed import FinishedRequest
from histrio.contracts.options import NoOptions
from histrio.contracts.policy import Load
from histrio.errors import Overloaded
from histrio.front.requests import RequestTable, Ticket
from histrio.messages import Ask, Extras, RequestState, TokenRow


def accept(table: RequestTable, submission: Submission, heard: list[TokenRow]) -> int:
    (command,) = table.accept(submission)
    table.add(Ticket(command, 100.0, heard.append))
    return command.request


def test_a_replay_carries_the_delivered_tokens_and_the_same_seed() -> None:
    table = RequestTable(4, draw_seed=lambda: 77)
    request = accept(table, Submission([1, 2], 10), [])
    table.deliver(TokenRow(request, [5], RequestState.DECODING))
    table.deliver(TokenRow(request, [6], RequestState.DECODING))
    table.next_commands()
    table.down()
    (command,) = table.next_commands()
    assert command.ids == [1, 2, 5, 6]
    assert (command.num_prompt_tokens, command.max_total_tokens, command.seed) == (2, 12, 77)


def test_a_finished_request_is_not_replayed_and_its_credit_returns() -> None:
    table = RequestTable(1)
    request = accept(table, Submission([1], 10), [])
    with pytest.raises(Overloaded):
        table.accept(Submission([1], 10))
    table.deliver(TokenRow(request, [5], RequestState.FINISHED_EOS))
    assert table.next_commands() == []
    assert len(table.accept(Submission([1], 10))) == 1


def test_all_choices_get_credits_or_none() -> None:
    table = RequestTable(3)
    accept(table, Submission([1], 10), [])
    with pytest.raises(Overloaded) as refused:
        table.accept(Submission([1], 10, num_choices=3))
    assert refused.value.retry_after_s >= 1
    commands = table.accept(Submission([1], 10, Ask(seed=5), num_choices=2))
    assert [(command.seed, command.choice) for command in commands] == [(5, 0), (5, 1)]


def test_a_request_without_a_seed_gets_one_that_differs() -> None:
    table = RequestTable(4)
    seeds = {table.accept(Submission([1], 1))[0].seed for _ in range(4)}
    assert len(seeds) == 4


def test_time_outs_end_with_an_error_once() -> None:
    heard: list[TokenRow] = []
    table = RequestTable(4)
    request = accept(table, Submission([1], 10), heard)
    assert table.expire(99.0) == []
    assert table.expire(100.0) == [request]
    table.deliver(TokenRow(request, [5], RequestState.DECODING))
    text = "the request did not finish within its time limit"
    assert heard == [TokenRow.failed(request, text, "request_timeout")]


def test_a_begun_answer_ends_where_no_other_engine_can_go_on() -> None:
    heard: list[TokenRow] = []
    table = RequestTable(4)
    greedy, drawn, waiting = (
        accept(table, Submission([1], 10, Ask({"temperature": heat})), heard) for heat in (0.0, 0.7, 0.8)
    )
    table.deliver(TokenRow(greedy, [5], RequestState.DECODING))
    table.deliver(TokenRow(drawn, [6], RequestState.DECODING))
    heard.clear()
    table.next_commands()
    table.can_continue = lambda fields: bool(fields["temperature"] == 0)
    table.down()
    (ended,) = heard
    assert ended.extras is not None
    assert (ended.request, ended.state, ended.extras.code) == (drawn, RequestState.ERROR, "engine_restarted")
    assert "send the request again" in ended.extras.reason
    assert [command.request for command in table.next_commands()] == [greedy]
    assert (len(table), table.num_suspects) == (2, 1), "what has not begun can begin anew"
    table.deliver(TokenRow(greedy, [5], RequestState.FINISHED_EOS))
    assert [command.request for command in table.next_commands()] == [waiting]


def test_the_last_five_states_are_final() -> None:
    assert [state.is_finished for state in RequestState] == [False] * 3 + [True] * 5
    assert RequestState(4).is_finished


class Counting:
    """An admission policy that follows what it let in."""

    name: ClassVar[str] = "counting"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        self.running: list[str] = []

    def admit(self, submission: Submission, load: Load) -> None:
        if submission.key in self.running:
            raise Overloaded("one at a time")
        self.running.append(submission.key)

    def finished(self, submission: Submission) -> None:
        self.running.remove(submission.key)


def test_a_policy_hears_of_the_end_once_all_choices_have_ended() -> None:
    policy = Counting(NoOptions())
    table = RequestTable(9, policy=policy)
    commands = table.accept(Submission([1], 10, num_choices=2, key="a"))
    for command in commands:
        table.add(Ticket(command, 100.0, lambda _row: None))
    other = accept(table, Submission([1], 10, key="b"), [])
    with pytest.raises(Overloaded):
        table.accept(Submission([1], 10, key="a"))

    table.deliver(TokenRow(commands[0].request, [5], RequestState.FINISHED_EOS))
    assert policy.running == ["a", "b"], "the other choice still runs"
    assert table.remove(commands[1].request)
    assert not table.remove(commands[1].request)
    assert policy.running == ["b"]
    table.fail_all("over")
    assert policy.running == []
    assert not table.remove(other)


def test_a_record_of_each_request_is_told_at_its_end() -> None:
    records: list[FinishedRequest] = []
    table = RequestTable(9)
    table.on_finished, now = records.append, iter([3.0, 7.0, 8.0])
    table.clock = lambda: next(now)
    submission = Submission([1, 2, 3], 10, id="cmpl-1", key="label", user="ada")
    (command,) = table.accept(submission)
    table.add(Ticket(command, 100.0, lambda _row: None, accepted_s=1.0))
    table.deliver(TokenRow(command.request, [], RequestState.PREFILLING, Extras(num_cached_tokens=2)))
    table.deliver(TokenRow(command.request, [5, 6], RequestState.DECODING, Extras(num_drafted=3, num_accepted=1)))
    assert records == []
    table.deliver(TokenRow(command.request, [7], RequestState.FINISHED_EOS))
    expected = FinishedRequest(
        request=command.request,
        id="cmpl-1",
        key="label",
        user="ada",
        state=RequestState.FINISHED_EOS,
        num_prompt_tokens=3,
        num_tokens=3,
        num_cached_tokens=2,
        num_drafted=3,
        num_accepted=1,
        first_token_s=2.0,
        elapsed_s=6.0,
    )
    assert records == [expected]

    request = accept(table, Submission([1], 10), [])
    table.remove(request, RequestState.FINISHED_STOP)
    assert (records[1].state, records[1].num_tokens, records[1].first_token_s) == (RequestState.FINISHED_STOP, 0, None)
    assert {type(value) for value in msgspec.structs.astuple(records[0])} <= {int, str, float, RequestState}
