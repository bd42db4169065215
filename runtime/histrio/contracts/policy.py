"""The contracts of policies: in which order requests enter, and which are accepted at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from histrio.contracts.gateway import Submission
from histrio.contracts.options import NoOptions
from histrio.messages import Generate

__all__ = [
    "PLACES_PER_PRIORITY",
    "AdmissionPolicy",
    "BatchingPolicy",
    "HearsOfEnds",
    "Load",
    "NoOptions",
    "by_priority",
]

PLACES_PER_PRIORITY = 32
"""How many later requests may overtake one for each step of its priority, unless an option says otherwise."""


def by_priority(command: Generate, places_per_priority: int = PLACES_PER_PRIORITY) -> int:
    """The handicap of a request's priority: each step down lets at most so many later ones overtake."""
    return places_per_priority * command.ask.priority


class BatchingPolicy(Protocol):
    """Decides in which order requests enter the batch; when blocks run out, the last in this order are preempted.

    Registered as a class; one instance per replica.
    """

    name: ClassVar[str]
    options: ClassVar[type[msgspec.Struct]]
    """The keys of `[engine.batching-policy-options]`, a struct with `rename="kebab"` and defaults; `NoOptions` for
    none."""

    def __init__(self, options: Any) -> None:
        """`options` is an instance of `self.options`."""

    def handicap(self, command: Generate) -> int:
        """How many later requests without handicap may enter before this one: 0 for none. Asked once per request.

        A bounded count, not a comparison: at most this many later requests can overtake, so none starves.
        """


@dataclass(frozen=True, slots=True)
class Load:
    """The work that a replica has."""

    num_requests: int
    """Accepted and unfinished, each choice counted."""
    max_requests: int
    """`max-unfinished-requests`."""
    num_tokens: int
    """Most tokens that these requests can have, prompt and output."""
    num_cache_tokens: int
    """Tokens that the KV blocks hold; 0 while nothing has been loaded."""


class AdmissionPolicy(Protocol):
    """Decides which submissions are accepted. Lives on the front's loop, so it answers at once.

    Registered as a class; one instance per replica. A policy that counts what it accepted is `HearsOfEnds` too.
    """

    name: ClassVar[str]
    options: ClassVar[type[msgspec.Struct]]
    """The keys of `[engine.admission-policy-options]`, as those of a batching policy."""

    def __init__(self, options: Any) -> None:
        """`options` is an instance of `self.options`."""

    def admit(self, submission: Submission, load: Load) -> None:
        """Raise `Overloaded` for a submission that has to wait; the client hears when to try again.

        Asked for every submission, after `max-unfinished-requests` was checked. `submission.key` and `submission.user`
        name its client.
        """


@runtime_checkable
class HearsOfEnds(Protocol):
    """An admission policy that is told when an accepted submission has ended."""

    def finished(self, submission: Submission) -> None:
        """All choices of an accepted submission have ended, in whatever way. Called once for each that was accepted."""
