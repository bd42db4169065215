"""Parts of an answer that are too large to be made on the loop, or to lie about as text: made while they are sent.

The rest of the answer is JSON with a mark in the place of each such part. The mark has a byte that JSON never has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeAlias

import msgspec
from anyio import CapacityLimiter, to_thread

__all__ = ["LateParts", "PartMaker"]

PartMaker: TypeAlias = Callable[[], Iterator[bytes]]
"""Makes the JSON of a part in pieces of at most a few megabytes; called in a thread, as the iterator is."""

_MARK = b"\0"


class LateParts:
    """Those of one request."""

    __slots__ = ("_makers", "_num_put", "_threads")

    def __init__(self, threads: CapacityLimiter) -> None:
        """Pieces are made in `threads`, which all requests share."""
        self._threads = threads
        self._makers: dict[int, PartMaker] = {}
        self._num_put = 0

    def __len__(self) -> int:
        """How many are still to be made."""
        return len(self._makers)

    def put(self, make: PartMaker) -> msgspec.Raw:
        """What stands in the JSON for this part, which is made once."""
        self._num_put += 1
        self._makers[self._num_put] = make
        return msgspec.Raw(_MARK + str(self._num_put).encode() + _MARK)

    async def filled(self, text: bytes) -> AsyncIterator[bytes]:
        """The pieces of a text with its parts in their places."""
        for at, piece in enumerate(text.split(_MARK)):
            if at % 2 == 0:
                if piece:
                    yield piece
                continue

            pieces = await to_thread.run_sync(self._makers.pop(int(piece)), limiter=self._threads)
            while (made := await to_thread.run_sync(next, pieces, None, limiter=self._threads)) is not None:
                yield made
