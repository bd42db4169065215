"""The reader's end of one request in the front process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState, TokenRow

__all__ = ["RequestStream"]


class RequestStream:
    """Tokens of one choice. Pushed by admission, read by one task; what piles up between reads is one delta."""

    def __init__(
        self, num_prompt_tokens: int, cancel: Callable[[RequestState], None], is_recovering: Callable[[], bool]
    ) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self._cancel = cancel
        self._is_recovering = is_recovering
        self._delta = Delta([], RequestState.WAITING)
        """What has piled up since the last read."""
        self._extras: list[Extras] = []
        """Extras of the rows that wait to be read."""
        self._is_read_out = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_recovering(self) -> bool:
        """Whether the replica that ran this request is being replaced."""
        return self._is_recovering()

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> Delta:
        """Wait for the next delta; the one with a finished state is the last."""
        if self._is_read_out:
            raise StopAsyncIteration

        while not self._delta.ids and not self._delta.state.is_finished:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        delta, self._delta = self._delta, Delta([], self._delta.state)
        if self._extras:
            delta.extras, self._extras = Extras.joined(self._extras), []
        self._is_read_out = delta.state.is_finished
        return delta

    def push(self, row: TokenRow) -> None:
        """New tokens, on the loop's thread."""
        delta = self._delta
        delta.ids += row.ids
        delta.state = row.state
        if row.extras is not None:
            self._extras.append(row.extras)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self, state: RequestState = RequestState.CANCELLED) -> None:
        """Stop generating; no delta follows. Does nothing after the end."""
        if self._delta.state.is_finished:
            return
        self._delta.state = state
        self._is_read_out = True
        self._cancel(state)
