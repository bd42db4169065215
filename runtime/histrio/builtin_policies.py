"""The policies that come with the core, registered through the same hooks as anybody's."""

from __future__ import annotations

from collections.abc import Callable

from histrio.errors import Overloaded
from histrio.gateway import Submission
from histrio.hooks import hookimpl
from histrio.messages import Generate
from histrio.policies import AdmissionPolicy, BatchingPolicy, Load, by_priority

__all__ = [
    "BoundedTokens",
    "ByPriority",
    "Credits",
    "InOrder",
    "ShortestFirst",
    "register_admission_policies",
    "register_batching_policies",
]

_TOKENS_PER_PLACE = 128
"""Prompt tokens for which one later request may overtake."""
_MOST_OVERTAKEN = 64


class ByPriority:
    """Requests of a lower number enter first; each step down lets at most 32 later ones overtake."""

    name = "priority"

    def handicap(self, order: Generate) -> int:
        """32 requests per priority."""
        return by_priority(order)


class InOrder:
    """Requests enter as they came, whatever their priority."""

    name = "fifo"

    def handicap(self, order: Generate) -> int:
        """None."""
        return 0


class ShortestFirst:
    """Short prompts enter before long ones, within one priority.

    A long one is overtaken by one later request for each 128 of its tokens, and by 64 at most. That serves most
    requests sooner wherever long prompts would otherwise hold the short ones up.
    """

    name = "shortest-first"

    def handicap(self, order: Generate) -> int:
        """By priority and known tokens."""
        by_length = min(len(order.ids) // _TOKENS_PER_PLACE, _MOST_OVERTAKEN)
        return by_priority(order) + by_length


class Credits:
    """Every request is accepted, as long as `max-unfinished-requests` leaves room for it."""

    name = "credits"

    def admit(self, submission: Submission, load: Load) -> None:
        """Never refuses."""


class BoundedTokens:
    """Refuses what would make the unfinished requests need more than a few times the tokens that the KV blocks hold.

    They wait for one another's blocks: with `times` 4 the last one waits for about three generations of others. An
    idle replica accepts whatever fits into it.
    """

    def __init__(self, name: str = "tokens", times: float = 4.0) -> None:
        self.name = name
        self._times = times

    def admit(self, submission: Submission, load: Load) -> None:
        """Raises `Overloaded`."""
        num_tokens = submission.num_choices * (len(submission.ids) + submission.max_new_tokens)
        most = int(self._times * load.num_cache_tokens)
        if load.num_requests == 0 or load.num_cache_tokens == 0 or load.num_tokens + num_tokens <= most:
            return

        raise Overloaded(
            f"the unfinished requests can come to {load.num_tokens} tokens, and this one to {num_tokens} more; {most} "
            "at a time are accepted, so try again shortly, or ask for a smaller max_tokens"
        )


@hookimpl
def register_batching_policies(register: Callable[[BatchingPolicy], None]) -> None:
    """Offer `priority`, `fifo` and `shortest-first`."""
    register(ByPriority())
    register(InOrder())
    register(ShortestFirst())


@hookimpl
def register_admission_policies(register: Callable[[AdmissionPolicy], None]) -> None:
    """Offer `credits` and `tokens`."""
    register(Credits())
    register(BoundedTokens())
