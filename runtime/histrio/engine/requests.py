"""The table of unfinished requests: credits, deadlines, and the tokens already delivered.

It is what makes a crash of the engine invisible: `replay` gives every unfinished request again, with the prompt
followed by the tokens its client already has, so that generation goes on where it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from histrio.errors import EngineError, EngineRestarted, Overloaded, RequestTimeout
from histrio.gateway import Submission
from histrio.messages import Generate, RequestState, SamplerState, TokenRow
from histrio.observed import FinishedRequest
from histrio.policies import AdmissionPolicy, HearsOfEnds, Load

__all__ = ["RequestTable", "Ticket"]


@dataclass(slots=True, eq=False)
class Ticket:
    """One accepted request: its order, what was delivered, and who listens."""

    order: Generate
    deadline: float
    """Clock at which the request ends with ERROR."""
    listener: Callable[[TokenRow], None]
    delivered: list[int] = field(default_factory=list)
    sampler_state: SamplerState = field(default_factory=dict)
    """After the last token delivered."""
    accepted_s: float = 0.0
    """On the clock of `deadline`, as `first_token_s`."""
    first_token_s: float | None = None
    num_cached_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0

    def record(self, submission: Submission, state: RequestState, code: str, now: float) -> FinishedRequest:
        """What is told of it at its end."""
        return FinishedRequest(
            request=self.order.request,
            choice=self.order.choice,
            id=submission.id,
            key=submission.key,
            user=submission.user,
            state=state,
            code=code,
            num_prompt_tokens=self.order.num_prompt_tokens,
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
        max_unfinished: int,
        draw_seed: Callable[[], int] | None = None,
        policy: AdmissionPolicy | None = None,
    ) -> None:
        self.max_unfinished = max_unfinished
        self.num_tokens = 0
        """Most tokens that the unfinished requests can come to, prompt and output."""
        self.num_cache_tokens = 0
        """Tokens that the KV blocks of the replica hold; 0 before there is one."""
        self._draw_seed = draw_seed or (lambda: random.getrandbits(63))
        self._policy = policy
        self._counting = policy if isinstance(policy, HearsOfEnds) else None
        self._tickets: dict[int, Ticket] = {}
        self._accepted: dict[int, _Accepted] = {}
        """By the request of the first choice."""
        self._next_request = 1
        self.clock: Callable[[], float] = lambda: 0.0
        """That of the tickets' deadlines."""
        self.on_finished: Callable[[FinishedRequest], None] = lambda _record: None
        """Told of every request at its end."""

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def load(self) -> Load:
        """What policies go by."""
        return Load(len(self._tickets), self.max_unfinished, self.num_tokens, self.num_cache_tokens)

    def accept(self, submission: Submission) -> list[Generate]:
        """An order per choice, with credits taken for all of them. Raises `Overloaded` and takes none."""
        if len(self._tickets) + submission.num_choices > self.max_unfinished:
            raise Overloaded(f"all {self.max_unfinished} request slots are taken; try again shortly")
        if self._policy is not None:
            self._policy.admit(submission, self.load)

        seed = submission.seed if submission.seed is not None else self._draw_seed()
        first = self._next_request
        self._next_request += submission.num_choices
        orders = [self._order(submission, first + choice, seed, choice) for choice in range(submission.num_choices)]
        self._accepted[first] = _Accepted(submission, submission.num_choices)
        leader = first if len(orders) > 1 else 0
        return [msgspec.structs.replace(order, leader=leader) for order in orders] if leader else orders

    def add(self, ticket: Ticket) -> None:
        """An accepted order gets its listener."""
        self._tickets[ticket.order.request] = ticket
        self.num_tokens += ticket.order.max_total_tokens

    def deliver(self, row: TokenRow) -> None:
        """Pass new tokens to the listener; the credit returns with the last ones."""
        ticket = self._tickets.get(row.request)
        if ticket is None:
            return  # cancelled meanwhile

        if ticket.first_token_s is None and row.ids:
            ticket.first_token_s = self.clock()
        ticket.delivered.extend(row.ids)
        ticket.sampler_state = row.sampler_state
        ticket.num_cached_tokens += row.num_cached_tokens
        ticket.num_drafted += row.num_drafted
        ticket.num_accepted += row.num_accepted
        if row.state.is_finished:
            self._end(ticket, row.state, row.code)
        ticket.listener(row)

    def remove(self, request: int, state: RequestState = RequestState.CANCELLED) -> bool:
        """The client does not want it any more, and takes it as ended in `state`; False if it had ended."""
        ticket = self._tickets.get(request)
        if ticket is None:
            return False

        self._end(ticket, state, "")
        return True

    def replay(self) -> list[Generate]:
        """Every unfinished request, to be opened again on a chain that knows nothing of it."""
        return [
            msgspec.structs.replace(
                ticket.order,
                ids=ticket.order.ids + ticket.delivered,
                sampler_state=ticket.sampler_state,
                # They were told with the first tokens.
                num_prompt_logprobs=None if ticket.delivered else ticket.order.num_prompt_logprobs,
            )
            for ticket in self._tickets.values()
        ]

    def end_begun(self, can_continue: Callable[[dict[str, Any]], bool]) -> None:
        """The engine is gone: end begun answers with sampling fields for which another could not go on."""
        for request, ticket in list(self._tickets.items()):
            if ticket.delivered and not can_continue(ticket.order.sampling):
                text = "the engine was lost, and another cannot continue this answer; send the request again"
                self._fail(request, EngineRestarted(text))

    def end_scoring(self) -> None:
        """The engine that comes back cannot score prompts: end the requests whose prompts still have to be."""
        for order in self.replay():
            if order.num_prompt_logprobs is not None:
                text = "the engine was lost, and the one that follows cannot score prompts; send the request again"
                self._fail(order.request, EngineRestarted(text))

    def expire(self, now: float) -> list[int]:
        """End requests whose time is over; their ids, for the engine to forget them."""
        expired = [request for request, ticket in self._tickets.items() if ticket.deadline <= now]
        for request in expired:
            self._fail(request, RequestTimeout("the request did not finish within its time limit"))
        return expired

    def fail_all(self, reason: str) -> None:
        """No engine will come back: every listener hears why."""
        for request in list(self._tickets):
            self._fail(request, EngineError(reason))

    def _end(self, ticket: Ticket, state: RequestState, code: str) -> None:
        """The credit returns, and who counts hears of it."""
        order = ticket.order
        del self._tickets[order.request]
        self.num_tokens -= order.max_total_tokens
        first = order.leader or order.request
        accepted = self._accepted.get(first)
        if accepted is None:
            return

        self.on_finished(ticket.record(accepted.submission, state, code, self.clock()))
        accepted.num_unfinished -= 1
        if accepted.num_unfinished == 0:
            del self._accepted[first]
            if self._counting is not None:
                self._counting.finished(accepted.submission)

    def _fail(self, request: int, error: EngineError) -> None:
        self.deliver(TokenRow(request, [], RequestState.ERROR, str(error), error.code))

    @staticmethod
    def _order(submission: Submission, request: int, seed: int, choice: int) -> Generate:
        return Generate(
            request=request,
            ids=submission.ids,
            num_prompt_tokens=len(submission.ids),
            max_total_tokens=len(submission.ids) + submission.max_new_tokens,
            eos_ids=submission.eos_ids,
            stop_ids=submission.stop_ids,
            seed=seed,
            choice=choice,
            sampling=submission.sampling,
            priority=submission.priority,
            cache_salt=submission.cache_salt,
            grammar=submission.grammar,
            num_logprobs=submission.num_logprobs,
            is_seeded=submission.seed is not None,
            # Told once, whatever the number of choices.
            num_prompt_logprobs=submission.num_prompt_logprobs if choice == 0 else None,
            max_speculation=submission.max_speculation,
        )
