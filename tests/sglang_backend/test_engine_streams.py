"""Where an answer of a foreign engine ends, and what of it is told; an engine of plain lists stands in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from histrio.kit.streams import Piece, Streams, make_row
from histrio.messages import Ask, Extras, Generate, RequestState, TokenLogprobs, TokenRow
from histrio_sglang.engine import sampling_params
from histrio_sglang.engine_options import SglangFields

COMMAND = Generate(7, [1, 2, 3], 3, 10, Ask(eos_ids=[90, 91], stop_ids=[50, 91]))


def row(command: Generate, num_known: int, piece: Piece) -> tuple[list[int], RequestState]:
    made = make_row(command, num_known, piece)
    assert made.request == command.request
    return made.ids, made.state


@pytest.mark.parametrize(
    ("ids", "kept", "state"),
    [
        ([4, 5], [4, 5], RequestState.DECODING),
        ([4, 90, 6], [4, 90], RequestState.FINISHED_EOS),
        ([50, 90], [50], RequestState.FINISHED_STOP),
        ([91], [91], RequestState.FINISHED_EOS),
        ([4, 5, 6, 7, 8, 9, 10], [4, 5, 6, 7, 8, 9, 10], RequestState.FINISHED_MAX_LENGTH),
        ([4, 5, 6, 7, 8, 9, 10, 11], [4, 5, 6, 7, 8, 9, 10], RequestState.FINISHED_MAX_LENGTH),
        ([4, 5, 6, 7, 8, 9, 90], [4, 5, 6, 7, 8, 9, 90], RequestState.FINISHED_EOS),
        ([4, 5, 6, 7, 8, 9, 10, 90], [4, 5, 6, 7, 8, 9, 10], RequestState.FINISHED_MAX_LENGTH),
    ],
)
def test_an_answer_ends_with_the_first_id_that_ends_it(ids: list[int], kept: list[int], state: RequestState) -> None:
    assert row(COMMAND, 3, Piece(ids)) == (kept, state)


def test_logprobs_are_cut_with_the_ids() -> None:
    made = make_row(COMMAND, 3, Piece([4, 90, 6], [-0.1, -0.2, -0.3]))
    assert made.extras == Extras(logprobs=[TokenLogprobs(-0.1), TokenLogprobs(-0.2)])
    assert make_row(COMMAND, 3, Piece([4, 90, 6])).extras is None, "a control: nothing to tell"


def test_an_end_that_was_not_asked_for_is_an_error_with_its_reason() -> None:
    made = make_row(COMMAND, 3, Piece([4], ended="NaN happened"))
    assert made.extras is not None
    assert (made.ids, made.state, made.extras.code) == ([4], RequestState.ERROR, "engine_unavailable")
    assert "NaN happened" in made.extras.reason
    assert make_row(COMMAND, 3, Piece([90], ended="stop")).state is RequestState.FINISHED_EOS, "a control: its end"


def test_sglang_is_told_ends_only_where_it_adds_none_of_its_own() -> None:
    told = sampling_params(COMMAND, SglangFields(), {90})
    assert (told["ignore_eos"], told["stop_token_ids"]) == (False, [50, 90, 91])
    assert told["max_new_tokens"] == 7
    untold = sampling_params(COMMAND, SglangFields(), {90, 92})
    assert (untold["ignore_eos"], untold["stop_token_ids"]) == (True, None)


class ListEngine:
    """Says a list of pieces for each request, one per turn of the loop, until the end or an abort it knows of."""

    def __init__(self, said: dict[int, list[Piece]]) -> None:
        self.said = said
        self.aborted: list[str] = []
        self.running: set[str] = set()
        self.told: list[list[TokenRow]] = []
        self.failures: list[str] = []
        self.streams = Streams(self, self.generate, self.abort)

    async def generate(self, command: Generate, name: str) -> AsyncIterator[Piece]:
        self.running.add(name)
        for piece in self.said[command.request]:
            await asyncio.sleep(0)
            if name in self.aborted:
                yield Piece([], ended="abort")
                break
            yield piece
        self.running.discard(name)

    def abort(self, name: str) -> None:
        if name in self.running:
            self.aborted.append(name)

    def progress(self, fraction: float, text: str) -> None:
        """Nothing is loaded."""

    def tokens(self, rows: list[TokenRow]) -> None:
        self.told.append(rows)

    def failed(self, error: str) -> None:
        self.failures.append(error)

    async def settle(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.gather(*tasks)
        await asyncio.sleep(0)

    def answer(self, request: int) -> list[int]:
        return [token for rows in self.told for row in rows if row.request == request for token in row.ids]


def command(request: int, **changes: Any) -> Generate:
    return Generate(request, [1], 1, 100, Ask(**changes))


def test_rows_of_one_step_are_told_together() -> None:
    async def run() -> ListEngine:
        engine = ListEngine({n: [Piece([n]), Piece([n + 1]), Piece([9], ended="stop")] for n in (1, 2, 3)})
        for request in engine.said:
            engine.streams.start(command(request, stop_ids=[9]))
        await engine.settle()
        return engine

    engine = asyncio.run(run())
    assert [[row.request for row in rows] for rows in engine.told] == [[1, 2, 3]] * 3
    assert engine.answer(2) == [2, 3, 9]
    assert not engine.failures


def test_an_engine_that_goes_on_after_the_end_is_aborted() -> None:
    async def run() -> ListEngine:
        engine = ListEngine({1: [Piece([5]), Piece([6])] * 50})
        engine.streams.start(command(1, stop_ids=[6]))
        await engine.settle()
        return engine

    engine = asyncio.run(run())
    assert engine.answer(1) == [5, 6]
    assert len(engine.aborted) == 1


def test_an_abort_that_came_too_early_reaches_the_engine_later() -> None:
    async def run() -> ListEngine:
        engine = ListEngine({1: [Piece([5])] * 50, 10: [Piece([6])] * 5})
        engine.streams.start(command(1))
        engine.streams.start(command(10))
        engine.streams.abort(1)  # no task has had its turn yet
        assert engine.aborted == []
        await engine.settle()
        return engine

    engine = asyncio.run(run())
    assert engine.answer(1) == []
    assert len(engine.aborted) == 1
    assert engine.answer(10) == [6] * 5, "a control: the other one goes on"


def test_no_name_is_the_beginning_of_another() -> None:
    async def names() -> list[str]:
        engine = ListEngine({})
        seen: list[str] = []

        async def generate(_command: Generate, name: str) -> AsyncIterator[Piece]:
            seen.append(name)
            yield Piece([1], ended="abort")

        engine.streams = Streams(engine, generate, engine.abort)
        for request in (1, 10, 2**40 + 1, 2**62):
            engine.streams.start(command(request))
        await engine.settle()
        return seen

    found = asyncio.run(names())
    assert len({len(name) for name in found}) == 1
    assert len(set(found)) == 4


def test_what_an_engine_raises_ends_the_request_or_the_engine() -> None:
    async def run(error: Exception) -> ListEngine:
        engine = ListEngine({})

        async def generate(_command: Generate, _name: str) -> AsyncIterator[Piece]:
            raise error
            yield Piece([])

        engine.streams = Streams(engine, generate, engine.abort)
        engine.streams.start(command(1))
        await engine.settle()
        return engine

    refused = asyncio.run(run(ValueError("top_p is odd")))
    (row,) = refused.told[0]
    assert row == TokenRow.failed(1, "top_p is odd", "invalid_value")
    assert refused.failures == []
    broken = asyncio.run(run(RuntimeError("the core is dead")))
    assert broken.failures == ["RuntimeError: the core is dead"]
