"""An admission policy in one file: each API key has at most so many requests unfinished at a time.

Choose it with `[engine] admission-policy = "per-key"`. Requests without a key share one account.
"""

from collections import Counter
from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec

from histrio.contracts.gateway import Submission
from histrio.contracts.hooks import hookimpl
from histrio.contracts.policy import AdmissionPolicy, Load
from histrio.errors import Overloaded


class PerKeyOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """`[engine.admission-policy-options]`."""

    most: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Unfinished choices of one key."""


class PerKey:
    """Counts what it lets in, and what of that has ended."""

    name: ClassVar[str] = "per-key"
    options: ClassVar[type[msgspec.Struct]] = PerKeyOptions

    def __init__(self, options: PerKeyOptions) -> None:
        self._most = options.most
        self._running: Counter[str] = Counter()

    def admit(self, submission: Submission, load: Load) -> None:
        """`submission.key` is a label of the key, never the key itself."""
        if self._running[submission.key] + submission.num_choices > self._most:
            raise Overloaded(f"this key may have {self._most} requests running at a time; wait for one to end")
        self._running[submission.key] += submission.num_choices

    def finished(self, submission: Submission) -> None:
        """Once for each that was let in, when all of its choices have ended."""
        self._running[submission.key] -= submission.num_choices
        if not self._running[submission.key]:
            del self._running[submission.key]


@hookimpl
def register_admission_policies(register: Callable[[type[AdmissionPolicy]], None]) -> None:
    """Called once at start-up."""
    register(PerKey)
