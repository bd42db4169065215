"""The toy engine does what an engine has to do, so that what hosts engines can be tried with it."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from histrio.contracts.backend import StageSpec
from histrio.errors import BackendError
from histrio.messages import Ask, Generate, RequestState, TokenRow
from histrio.testing.toy import toy_continuation, write_toy_model
from histrio.testing.toy_engine import ToyEngine, ToyEngineFactory

VOCAB_SIZE = 258
GREEDY = {"temperature": 0.0}


class Events:
    """Collects what an engine tells."""

    def __init__(self) -> None:
        self.rows: queue.Queue[TokenRow] = queue.Queue()
        self.failures: queue.Queue[str] = queue.Queue()

    def progress(self, fraction: float, text: str) -> None:
        assert 0 <= fraction <= 1

    def tokens(self, rows: list[TokenRow]) -> None:
        for row in rows:
            self.rows.put(row)

    def failed(self, error: str) -> None:
        self.failures.put(error)


def opened(folder: Path, **options: Any) -> tuple[ToyEngine, Events]:
    engine, events = ToyEngine(), Events()
    engine.open(StageSpec(str(folder), 0, 4, 4, options=options), events)
    return engine, events


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy")


def test_it_says_the_plain_continuation_one_token_a_step(folder: Path) -> None:
    engine, events = opened(folder)
    engine.submit(Generate(7, [1, 2, 3], 3, 8, Ask({**GREEDY, "logprobs": True})))
    rows = [events.rows.get(timeout=45) for _ in range(5)]
    engine.close()

    assert [token for row in rows for token in row.ids] == toy_continuation([1, 2, 3], 5, num_layers=4, vocab_size=258)
    assert [row.state.is_finished for row in rows] == [False] * 4 + [True]
    logprobs = [[each.logprob for each in row.extras.logprobs] for row in rows if row.extras is not None]
    assert [len(each) for each in logprobs] == [1] * 5
    assert all(value < 0 for (value,) in logprobs)


def test_it_ends_at_stop_ids_and_breaks_when_told_to(folder: Path) -> None:
    engine, events = opened(folder, **{"fail-at-step": 3})
    (first, second) = toy_continuation([5], 2, num_layers=4, vocab_size=VOCAB_SIZE)
    engine.submit(Generate(1, [5], 1, 9, Ask(GREEDY, stop_ids=[second])))
    assert events.rows.get(timeout=45).ids == [first]
    assert events.rows.get(timeout=45) == TokenRow(1, [second], RequestState.FINISHED_STOP)

    engine.submit(Generate(2, [5], 1, 9, Ask(GREEDY)))
    assert "told to" in events.failures.get(timeout=45)
    engine.close()


def test_only_greedy_requests_can_be_continued() -> None:
    assert ToyEngineFactory().can_continue(GREEDY)
    assert not ToyEngineFactory().can_continue({})


def test_a_part_of_the_model_is_refused(folder: Path) -> None:
    probe = ToyEngineFactory().supports(StageSpec(str(folder), 0, 2, 4))
    assert not probe.available
    assert "0:2" in probe.reason
    with pytest.raises(BackendError, match="warp"):
        opened(folder, warp=9)
