"""Requests as tasks on the loop of an engine that streams: where an answer ends, and rows that are told together.

What ends an answer is decided here, for engines disagree with the contract: one takes the model's own end ids for
granted, another forgets the client's when it is to ignore those. An engine is told to stop where it can be, and is
aborted where it would go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from histrio.contracts.engine_backend import EngineEvents
from histrio.errors import EngineError, RequestError
from histrio.messages import Extras, Generate, RequestState, TokenLogprobs, TokenRow

__all__ = ["Piece", "Streams", "make_row"]

_MOST_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class Piece:
    """What an engine says of a request after a step."""

    ids: list[int]
    """New ones only."""
    logprobs: list[float] = field(default_factory=list)
    num_cached_tokens: int = 0
    ended: str = ""
    """Why the engine says no more; empty while it goes on."""


class Streams:
    """The running requests of one engine. All methods belong to the thread of the loop.

    `generate` runs a request under the name it is given, which `abort` names again. No name is the beginning of
    another: SGLang aborts every request whose name begins with the one it is told.
    """

    def __init__(
        self,
        events: EngineEvents,
        generate: Callable[[Generate, str], AsyncIterator[Piece]],
        abort: Callable[[str], None],
    ) -> None:
        self._events = events
        self._generate = generate
        self._abort = abort
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._rows: list[TokenRow] = []
        """Told once every task that the engine has woken has had its turn."""

    def start(self, command: Generate) -> None:
        """Run a request."""
        self._tasks[command.request] = asyncio.get_running_loop().create_task(self._run(command))

    def abort(self, request: int) -> None:
        """Tell nothing more of it, and have the engine forget it. Its task goes on until the engine has."""
        if self._tasks.pop(request, None) is not None:
            self._abort(_name(request))

    async def _run(self, command: Generate) -> None:
        name, num_known = _name(command.request), len(command.ids)
        try:
            async for piece in self._generate(command, name):
                if command.request not in self._tasks:
                    # An abort that came before the engine knew the request was lost on it.
                    if not piece.ended:
                        self._abort(name)
                    continue
                row = make_row(command, num_known, piece)
                num_known += len(row.ids)
                self._tell(row)
                if row.state.is_finished and not piece.ended:
                    self._abort(name)
        except ValueError as error:
            self._tell(_failure(command, str(error), RequestError.code))
        except Exception as error:
            self._events.failed(f"{type(error).__name__}: {error}")
        finally:
            if command.request in self._tasks:
                self._tell(_failure(command, "the engine ended the request without a reason", EngineError.code))

    def _tell(self, row: TokenRow) -> None:
        if row.request not in self._tasks:
            return

        if row.state.is_finished:
            del self._tasks[row.request]
        if not self._rows:
            asyncio.get_running_loop().call_soon(self._flush)
        self._rows.append(row)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._events.tokens(rows)


def make_row(command: Generate, num_known: int, piece: Piece) -> TokenRow:
    """What is told of `piece`, which follows `num_known` tokens: up to the id that ends the answer, and no further."""
    ends = dict.fromkeys(command.ask.stop_ids, RequestState.FINISHED_STOP)
    ends |= dict.fromkeys(command.ask.eos_ids, RequestState.FINISHED_EOS)
    ids = piece.ids[: max(command.max_total_tokens - num_known, 0)]
    end = next((index for index, token in enumerate(ids) if token in ends), None)
    state = RequestState.DECODING
    if end is not None:
        ids, state = ids[: end + 1], ends[ids[end]]
    elif num_known + len(ids) >= command.max_total_tokens:
        state = RequestState.FINISHED_MAX_LENGTH
    elif piece.ended:
        failed = _failure(command, f"the engine ended the request: {piece.ended}", EngineError.code)
        return replace(failed, ids=ids)

    return TokenRow(command.request, ids, state, _extras(piece, len(ids)))


def _extras(piece: Piece, num_ids: int) -> Extras | None:
    if not piece.logprobs and not piece.num_cached_tokens:
        return None
    logprobs = [TokenLogprobs(each) for each in piece.logprobs[:num_ids]]
    return Extras(logprobs=logprobs, num_cached_tokens=piece.num_cached_tokens)


def _failure(command: Generate, reason: str, code: str) -> TokenRow:
    return TokenRow.failed(command.request, reason[:_MOST_REASON_CHARS], code)


def _name(request: int) -> str:
    return f"{request:020d}"
