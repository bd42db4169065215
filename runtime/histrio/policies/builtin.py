"""The policies that come with the core, registered through the same hooks as those of plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from histrio.contracts.gateway import Submission
from histrio.contracts.hooks import hookimpl
from histrio.contracts.options import NoOptions
from histrio.contracts.policy import PLACES_PER_PRIORITY, AdmissionPolicy, BatchingPolicy, Load, by_priority
from histrio.errors import Overloaded
from histrio.messages import Generate

__all__ = [
    "BoundedTokens",
    "BoundedTokensOptions",
    "ByPriority",
    "Credits",
    "InOrder",
    "PriorityOptions",
    "ShortestFirst",
    "ShortestFirstOptions",
    "register_admission_policies",
    "register_batching_policies",
]

_Places = Annotated[int, Meta(ge=0, le=1_000_000)]


class PriorityOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """`[engine.batching-policy-options]` of `priority`."""

    places_per_priority: _Places = PLACES_PER_PRIORITY
    """Later requests that may overtake one for each step of its priority above 0."""


class ByPriority:
    """Requests of a lower number enter first; each step down lets a bounded number of later ones overtake."""

    name: ClassVar[str] = "priority"
    options: ClassVar[type[msgspec.Struct]] = PriorityOptions

    def __init__(self, options: PriorityOptions) -> None:
        self._places_per_priority = options.places_per_priority

    def handicap(self, command: Generate) -> int:
        """`places_per_priority` later requests for each step of its priority above 0."""
        return by_priority(command, self._places_per_priority)


class InOrder:
    """Requests enter as they came, whatever their priority."""

    name: ClassVar[str] = "fifo"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        """There is nothing to choose."""

    def handicap(self, command: Generate) -> int:
        """Always 0: no later request may overtake."""
        return 0


class ShortestFirstOptions(PriorityOptions, frozen=True, rename="kebab"):
    """`[engine.batching-policy-options]` of `shortest-first`."""

    tokens_per_place: Annotated[int, Meta(ge=1)] = 128
    """Prompt tokens for which one later request may overtake."""
    most_places: _Places = 64
    """Later requests that may overtake one for its length, however long it is."""


class ShortestFirst:
    """Short prompts enter before long ones, within one priority.

    A long one is overtaken by one later request for each so many of its tokens, up to a limit. That serves most
    requests sooner wherever long prompts would otherwise hold the short ones up.
    """

    name: ClassVar[str] = "shortest-first"
    options: ClassVar[type[msgspec.Struct]] = ShortestFirstOptions

    def __init__(self, options: ShortestFirstOptions) -> None:
        self._options = options

    def handicap(self, command: Generate) -> int:
        """Later requests for its priority, and for its known tokens up to `most_places`."""
        by_length = min(len(command.ids) // self._options.tokens_per_place, self._options.most_places)
        return by_priority(command, self._options.places_per_priority) + by_length


class Credits:
    """Every request is accepted, as long as `max-unfinished-requests` leaves room for it."""

    name: ClassVar[str] = "credits"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        """There is nothing to choose."""

    def admit(self, submission: Submission, load: Load) -> None:
        """Never refuses."""


class BoundedTokensOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """`[engine.admission-policy-options]` of `tokens`."""

    times: Annotated[float, Meta(gt=0, le=1_000_000)] = 4.0
    """Tokens of all unfinished requests, as a multiple of what the KV blocks hold."""


class BoundedTokens:
    """Refuses what would make the unfinished requests need more than a few times the tokens that the KV blocks hold.

    They wait for one another's blocks: with `times` 4 the last one waits for about three generations of others. An
    idle replica accepts whatever fits into it.
    """

    name: ClassVar[str] = "tokens"
    options: ClassVar[type[msgspec.Struct]] = BoundedTokensOptions

    def __init__(self, options: BoundedTokensOptions) -> None:
        self._times = options.times

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
def register_batching_policies(register: Callable[[type[BatchingPolicy]], None]) -> None:
    """Offer `priority`, `fifo` and `shortest-first`."""
    register(ByPriority)
    register(InOrder)
    register(ShortestFirst)


@hookimpl
def register_admission_policies(register: Callable[[type[AdmissionPolicy]], None]) -> None:
    """Offer `credits` and `tokens`."""
    register(Credits)
    register(BoundedTokens)
