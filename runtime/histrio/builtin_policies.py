"""The policies that come with the core, registered through the same hooks as anybody's."""

from __future__ import annotations

from collections.abc import Callable

from histrio.gateway import Submission
from histrio.hooks import hookimpl
from histrio.messages import Generate
from histrio.policies import AdmissionPolicy, BatchingPolicy, Load

__all__ = ["ByPriority", "Credits", "register_admission_policies", "register_batching_policies"]

_OVERTAKEN_PER_PRIORITY = 32


class ByPriority:
    """Requests of a lower number enter first; each step down lets at most 32 later ones overtake."""

    name = "priority"

    def handicap(self, order: Generate) -> int:
        """32 requests per priority."""
        return _OVERTAKEN_PER_PRIORITY * order.priority


class Credits:
    """Every request is accepted, as long as `max-unfinished-requests` leaves room for it."""

    name = "credits"

    def admit(self, submission: Submission, load: Load) -> None:
        """Never refuses."""


@hookimpl
def register_batching_policies(register: Callable[[BatchingPolicy], None]) -> None:
    """Offer `priority`."""
    register(ByPriority())


@hookimpl
def register_admission_policies(register: Callable[[AdmissionPolicy], None]) -> None:
    """Offer `credits`."""
    register(Credits())
