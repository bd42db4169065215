"""The reader's end of one request in the front process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from histrio.gateway import Delta
from histrio.messages import RequestState, TokenRow

__all__ = ["RequestStream"]


class RequestStream:
    """Tokens of one choice. Pushed by admission, read by one task; what piles up between reads is one delta."""

    def __init__(
        self, num_prompt_tokens: int, cancel: Callable[[RequestState], None], is_recovering: Callable[[], bool]
    ) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self._cancel = cancel
        self._is_recovering = is_recovering
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._top_logprobs: list[list[tuple[int, float]]] = []
        self._num_cached_tokens = 0
        self._state = RequestState.WAITING
        self._last = TokenRow(0, [], RequestState.WAITING)
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

        while not self._ids and not self._state.is_finished:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        last = self._last
        delta = Delta(
            self._ids, self._state, last.reason, last.code, self._logprobs, self._num_cached_tokens, self._top_logprobs
        )
        self._ids, self._logprobs, self._top_logprobs, self._num_cached_tokens = [], [], [], 0
        self._is_read_out = self._state.is_finished
        return delta

    def push(self, row: TokenRow) -> None:
        """New tokens, on the loop's thread."""
        self._ids = self._ids + row.ids if self._ids else row.ids
        self._logprobs = self._logprobs + row.logprobs if self._logprobs else row.logprobs
        self._top_logprobs = self._top_logprobs + row.top_logprobs if self._top_logprobs else row.top_logprobs
        self._num_cached_tokens += row.num_cached_tokens
        self._state = row.state
        self._last = row
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self, state: RequestState = RequestState.CANCELLED) -> None:
        """Stop generating; no delta follows. Does nothing after the end."""
        if self._state.is_finished:
            return
        self._state = state
        self._is_read_out = True
        self._cancel(state)
