"""The table of unfinished requests: credits, deadlines, and the tokens already delivered.

It is what makes a crash of the replica invisible: `next_commands` gives every unfinished request again, with the prompt
followed by the tokens its client already has, so that generation goes on where it was. `trials.py` says in which order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from histrio.contracts.gateway import Submission
from histrio.contracts.observed import FinishedRequest
from histrio.contracts.policy import AdmissionPolicy, Load
from histrio.errors import EngineError, EngineRestarted, HistrioError, Overloaded, RequestBrokeEngine, RequestTimeout
from histrio.front.trials import LAG_TOKENS, TRIAL_TOKENS, Trials
from histrio.messages import Extras, Generate, RequestState, SamplerState, TokenRow
from histrio.policies.guard import AdmissionGuard

__all__ = ["RequestTable", "Ticket"]


_BROKE_ENGINE = (
    "the engine failed{where} while it worked on this request, and again when it worked on nothing else, so the "
    "request is not tried again; the server's log tells more under "
)


@dataclass(slots=True, eq=False)
class Ticket:
    """One accepted request: its command, the delivered tokens, and its listener."""

    command: Generate
    deadline: float
    """Clock at which the request ends with ERROR."""
    listener: Callable[[TokenRow], None]
    delivered: list[int] = field(default_factory=list)
    sampler_state: SamplerState = field(default_factory=dict)
    """State of the samplers after the last delivered token."""
    accepted_s: float = 0.0
    """On the clock of `deadline`, as `first_token_s`."""
    first_token_s: float | None = None
    num_cached_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def num_known_tokens(self) -> int:
        """Prompt and delivered tokens."""
        return len(self.command.ids) + len(self.delivered)

    @property
    def end(self) -> int:
        """Length at which the request has all tokens that it asked for."""
        return self.command.max_total_tokens

    def note(self, extras: Extras) -> None:
        """Keep what its end is told with, and what a replay needs."""
        self.sampler_state = extras.sampler_state or self.sampler_state
        self.num_cached_tokens += extras.num_cached_tokens
        self.num_drafted += extras.num_drafted
        self.num_accepted += extras.num_accepted

    def record(self, submission: Submission, state: RequestState, code: str, now: float) -> FinishedRequest:
        """The record of the request for hooks, at its end."""
        return FinishedRequest(
            request=self.command.request,
            choice=self.command.choice,
            id=submission.id,
            key=submission.key,
            user=submission.user,
            state=state,
            code=code,
            num_prompt_tokens=self.command.num_prompt_tokens,
            num_tokens=len(self.delivered),
            num_cached_tokens=self.num_cached_tokens,
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
            first_token_s=None if self.first_token_s is None else self.first_token_s - self.accepted_s,
            elapsed_s=now - self.accepted_s,
        )


@dataclass(slots=True)
class _Accepted:
    """A submission of which some choices have not ended."""

    submission: Submission
    num_unfinished: int


class RequestTable:
    """Every accepted and unfinished request of a front process."""

    def __init__(
        self,
        max_unfinished_requests: int,
        draw_seed: Callable[[], int] | None = None,
        policy: AdmissionPolicy | None = None,
    ) -> None:
        self.max_unfinished_requests = max_unfinished_requests
        self.num_tokens = 0
        """Most tokens that the unfinished requests can have, prompt and output."""
        self.num_cache_tokens = 0
        """Tokens that the KV blocks of the replica hold; 0 before there is one."""
        self._draw_seed = draw_seed or (lambda: random.getrandbits(63))
        self._policy = AdmissionGuard(policy)
        self._tickets: dict[int, Ticket] = {}
        self._accepted: dict[int, _Accepted] = {}
        """Submissions by the request of their first choice."""
        self._next_request = 1
        self._trials = Trials()
        self._is_trial_bounded = True
        self.can_continue: Callable[[dict[str, Any]], bool] = lambda _fields: True
        """Whether another replica can go on with a begun answer that has these sampling fields."""
        self.clock: Callable[[], float] = lambda: 0.0
        """The clock of the tickets' deadlines."""
        self.on_finished: Callable[[FinishedRequest], None] = lambda _record: None
        """Called with the record of every request at its end."""

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def load(self) -> Load:
        """The load that policies see."""
        return Load(len(self._tickets), self.max_unfinished_requests, self.num_tokens, self.num_cache_tokens)

    def accept(self, submission: Submission) -> list[Generate]:
        """A command per choice, with credits taken for all of them. Raises `Overloaded` and takes none."""
        if len(self._tickets) + submission.num_choices > self.max_unfinished_requests:
            raise Overloaded(f"all {self.max_unfinished_requests} request slots are taken; try again shortly")
        self._policy.admit(submission, self.load)

        seed = submission.ask.seed if submission.ask.seed is not None else self._draw_seed()
        first = self._next_request
        self._next_request += submission.num_choices
        choices = range(submission.num_choices)
        commands = [self._make_command(submission, first + choice, seed, choice) for choice in choices]
        self._accepted[first] = _Accepted(submission, submission.num_choices)
        leader = first if len(commands) > 1 else 0
        return [replace(command, leader=leader) for command in commands] if leader else commands

    def add(self, ticket: Ticket) -> None:
        """An accepted command gets its listener."""
        self._tickets[ticket.command.request] = ticket
        self._trials.add(ticket.command.request)
        self.num_tokens += ticket.command.max_total_tokens

    def deliver(self, row: TokenRow) -> None:
        """Pass new tokens to the listener; the credit returns with the last ones."""
        ticket = self._tickets.get(row.request)
        if row.request == self._trials.current:
            row = self._tried(row, ticket)
        if ticket is None:
            return  # cancelled meanwhile

        self._pass_on(row)

    def _pass_on(self, row: TokenRow) -> None:
        ticket = self._tickets[row.request]
        if ticket.delivered and row.extras is not None and row.extras.num_cached_tokens:
            # Of a replay: its blocks hold the answer, too.
            row = replace(row, extras=replace(row.extras, num_cached_tokens=0))
        if ticket.first_token_s is None and row.ids:
            ticket.first_token_s = self.clock()
        ticket.delivered.extend(row.ids)
        if row.extras is not None:
            ticket.note(row.extras)
        if row.state.is_finished:
            self._end(ticket, row.state, "" if row.extras is None else row.extras.code)
        ticket.listener(row)

    def remove(self, request: int, state: RequestState = RequestState.CANCELLED) -> bool:
        """The client has left or has all it wants: the request ends in `state`. False if it had ended."""
        ticket = self._tickets.get(request)
        if ticket is None:
            return False

        self._end(ticket, state, "")
        return True

    @property
    def on_trial(self) -> int:
        """The request that is alone in the replica, because it may have brought the last one down; 0 for none."""
        return self._trials.current

    @property
    def has_got_on(self) -> bool:
        """Whether the request on trial has come further than where it was when the replica before failed."""
        return self._trials.num_tokens > LAG_TOKENS

    @property
    def num_suspects(self) -> int:
        """Requests that have yet to be tried alone."""
        return self._trials.num_suspects

    def next_commands(self) -> list[Generate]:
        """Requests to send to the replica now; ask again after every event that may have ended a trial. Suspects come
        alone and are bounded to a few tokens, at which the replica itself ends them."""
        commands = [_resumed(self._tickets[request]) for request in self._trials.take()]
        if not commands or not self._trials.current:
            return commands

        (command,) = commands
        self._is_trial_bounded = self.can_continue(command.ask.sampling)
        end = len(command.ids) + TRIAL_TOKENS
        if not self._is_trial_bounded or end >= command.max_total_tokens:
            return commands
        return [replace(command, trial_end=end)]

    def needs_cancel(self, request: int) -> bool:
        """Whether the replica must be told that a request has ended for its client. A request on a trial that has an
        end stays in the replica: no other may be tried before it has left."""
        if request != self._trials.current:
            return True
        if self._is_trial_bounded:
            return False
        self._trials.over()
        return True

    def down(
        self,
        convicted: int = 0,
        suspects: Collection[int] | None = None,
        culprits: Collection[int] = (),
        code: str = "",
    ) -> dict[int, RequestBrokeEngine]:
        """The replica is gone. The one convicted, if it was alone there, and the culprits end with the errors returned;
        so do begun answers with which another replica could not go on. Of the others `suspects` may be at fault, or
        any if that is None. `code` is what failed, for the text of the errors."""
        errors = {}
        for request in [*culprits, *([convicted] if convicted and convicted == self._trials.current else ())]:
            if request in self._tickets:
                text = _BROKE_ENGINE.format(where=f" in {code}" if code else "")
                errors[request] = RequestBrokeEngine(text + self._reference(request))
                self.fail(request, errors[request])
        self._trials.down(suspects, is_current_alive=self._trials.current in self._tickets)
        for request, ticket in list(self._tickets.items()):
            if ticket.delivered and not self.can_continue(ticket.command.ask.sampling):
                text = "the engine was lost, and another cannot continue this answer; send the request again"
                self.fail(request, EngineRestarted(text))
        return errors

    def end_what_needs(self, *, scores: bool, vectors: bool) -> None:
        """The replica that comes back cannot score prompts, or make vectors: end the requests that still need it."""
        for request, ticket in list(self._tickets.items()):
            command, lacks = _resumed(ticket), ""
            if scores and command.num_prompt_logprobs is not None:
                lacks = "score prompts"
            elif vectors and command.ask.pooling is not None:
                lacks = "make vectors of prompts"
            if lacks:
                text = f"the engine was lost, and the one that follows cannot {lacks}; send the request again"
                self.fail(request, EngineRestarted(text))

    def expire(self, now: float) -> list[int]:
        """End requests whose time is over; their ids, for the replica to forget them."""
        expired = [request for request, ticket in self._tickets.items() if ticket.deadline <= now]
        for request in expired:
            self.fail(request, RequestTimeout("the request did not finish within its time limit"))
        return expired

    def fail_all(self, reason: str) -> None:
        """No replica will come back: every listener hears why."""
        for request in list(self._tickets):
            self.fail(request, EngineError(reason))

    def fail(self, request: int, error: HistrioError) -> None:
        """End one request with an error whose text is safe to show."""
        self._pass_on(TokenRow.failed(request, str(error), error.code))

    def unsent(self, request: int) -> None:
        """A command could not be handed on: whatever becomes of its request, the replica does not have it."""
        if request == self._trials.current:
            self._trials.over()

    def _tried(self, row: TokenRow, ticket: Ticket | None) -> TokenRow:
        """A row of the request on trial. The end of the trial is no end of the request."""
        self._trials.num_tokens += len(row.ids)
        if ticket is None:  # ended for its client, and now for the replica
            if row.state.is_finished:
                self._trials.over()
            return row
        if row.state is RequestState.FINISHED_MAX_LENGTH and ticket.num_known_tokens + len(row.ids) < ticket.end:
            self._trials.proven(is_sent=False)
            return replace(row, state=RequestState.DECODING)
        if row.state.is_finished:
            self._trials.over()
        elif row.ids and not self._is_trial_bounded:
            self._trials.proven(is_sent=True)
        return row

    def _reference(self, request: int) -> str:
        """The id by which client and log name a request."""
        command = self._tickets[request].command
        accepted = self._accepted.get(command.leader or request)
        return (accepted.submission.id if accepted is not None else "") or f"request {request}"

    def _end(self, ticket: Ticket, state: RequestState, code: str) -> None:
        """Return the credit, and tell the policies and hooks that count."""
        command = ticket.command
        del self._tickets[command.request]
        self._trials.forget(command.request)
        self.num_tokens -= command.max_total_tokens
        first = command.leader or command.request
        accepted = self._accepted.get(first)
        if accepted is None:
            return

        self.on_finished(ticket.record(accepted.submission, state, code, self.clock()))
        accepted.num_unfinished -= 1
        if accepted.num_unfinished == 0:
            del self._accepted[first]
            self._policy.finished(accepted.submission)

    @staticmethod
    def _make_command(submission: Submission, request: int, seed: int, choice: int) -> Generate:
        return Generate(
            request=request,
            ids=submission.ids,
            num_prompt_tokens=len(submission.ids),
            max_total_tokens=len(submission.ids) + submission.max_new_tokens,
            ask=submission.ask,
            seed=seed,
            choice=choice,
        )


def _resumed(ticket: Ticket) -> Generate:
    """The command of a request for a new replica: its prompt and its delivered tokens."""
    command, delivered = ticket.command, ticket.delivered
    if not delivered:
        return command
    return replace(
        command,
        ids=command.ids + delivered,
        sampler_state=ticket.sampler_state,
    )
