"""A batching policy in one file: paid requests enter first, and let a bounded number of others wait.

Choose it with `[engine] batching-policy = "paid-first"`.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec

from histrio.contracts.hooks import hookimpl
from histrio.contracts.policy import BatchingPolicy
from histrio.messages import Generate


class PaidFirstOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """`[engine.batching-policy-options]`."""

    free_behind: Annotated[int, msgspec.Meta(ge=0)] = 16
    """Later requests that pay and may enter before one that does not."""


class PaidFirst:
    """Requests that pay have a `cache_salt` that begins with `paid:`."""

    name: ClassVar[str] = "paid-first"
    options: ClassVar[type[msgspec.Struct]] = PaidFirstOptions

    def __init__(self, options: PaidFirstOptions) -> None:
        self._free_behind = options.free_behind

    def handicap(self, command: Generate) -> int:
        """How many later ones may overtake it."""
        return 0 if command.ask.cache_salt.startswith("paid:") else self._free_behind


@hookimpl
def register_batching_policies(register: Callable[[type[BatchingPolicy]], None]) -> None:
    """Called once at start-up."""
    register(PaidFirst)
