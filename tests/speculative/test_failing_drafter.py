"""A drafter that fails ends no request: it is said once, and nothing is drafted any more."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import pytest

from histrio.config.settings import SpeculationSettings
from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.options import NoOptions
from histrio.errors import BackendError
from histrio.messages import Generate
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model

NUM_LAYERS, VOCAB, NUM_TOKENS = 2, 258, 30


class FailingFactory:
    """A drafter that knows what the toy says, and fails when it is asked for the third time."""

    name = "failing"
    options = NoOptions

    def __init__(self) -> None:
        self.num_asked = 0
        self._ids: dict[int, list[int]] = {}

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> FailingFactory:
        return self

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        self._ids[command.request] = list(ids)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        self._ids[request] += ids

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        self.num_asked += 1
        if self.num_asked == 3:
            raise BackendError("the draft model failed: the device is gone")
        return {request: Draft(said(self._ids[request], count)) for request, count in lengths.items()}

    def close(self, request: int) -> None:
        del self._ids[request]

    def shutdown(self) -> None:
        self._ids.clear()


def said(ids: list[int], num_tokens: int) -> list[int]:
    return toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)


def test_a_failing_drafter_ends_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)
    drafter = FailingFactory()
    options = HarnessOptions(drafter=drafter, speculation=SpeculationSettings(adaptive=False, speculation_length=2))

    async def run() -> list[list[int]]:
        async with serving(model, ToyFactory(), samplers=[], options=options) as harness:
            return [await harness.generate([5, 6, index], NUM_TOKENS) for index in range(2)]

    with caplog.at_level(logging.ERROR, logger="histrio.batching.speculation.drafter_guard"):
        streams = anyio.run(run)
    assert streams == [said([5, 6, index], NUM_TOKENS) for index in range(2)]
    assert drafter.num_asked == 3, "twice before it failed, and never again"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("nothing is drafted any more: drafter 'failing'")
