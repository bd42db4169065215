"""Clients of other projects do what people do with them: chats, streams, tools, forms, vectors, and errors."""

from __future__ import annotations

import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import histrio.demo
from tests.clients.conftest import PROGRAMS, TOUR_S, missing

NAMES = sorted(path.name for path in PROGRAMS.glob("tour_*"))
PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(3 * TOUR_S)]


@pytest.mark.parametrize("program", NAMES)
def test_a_client_does_its_tour(program: str, environment: Path, tours: dict[str, Future[dict[str, Any]]]) -> None:
    if reason := missing(environment, program):
        pytest.skip(reason)
    said = tours[program].result()
    print(said["client"])
    (row,) = re.findall(
        rf"^\|.*\(\.\./tests/clients/programs/{re.escape(program)}\) \| ([^|]+) \|$", PAGE, re.MULTILINE
    )
    assert said["did"] == row.strip().split(", "), "what docs/clients.md says of it"


@pytest.mark.parametrize("program", ["tour_lm_eval.py"])
def test_log_likelihoods_are_those_of_transformers(program: str, tours: dict[str, Future[dict[str, Any]]]) -> None:
    said = tours[program].result()
    pairs, found = said["pairs"], said["loglikelihoods"]
    judge = Judge()
    expected = [judge.loglikelihood(context, continuation) for context, continuation in pairs]
    assert [each for each, _ in found] == pytest.approx([each for each, _ in expected], abs=1e-3)
    assert [is_first for _, is_first in found] == [is_first for _, is_first in expected]
    assert {is_first for _, is_first in found} == {True, False}
    other, _ = judge.loglikelihood("Where is histrio?", pairs[0][1])
    assert found[0][0] != pytest.approx(other, abs=1e-3), "control: what comes before decides"


class Judge:
    """The demo model in transformers."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(histrio.demo.__file__).parent / "target"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")

    def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Of a continuation, and whether each of its tokens is what the model would say first of all."""
        import torch

        known = self._ids(context) if context else [self.tokenizer.eos_token_id]
        ids = self._ids(context + continuation) if context else known + self._ids(continuation)
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows = [(logprobs[at - 1], ids[at]) for at in range(len(known), len(ids))]
        return sum(row[token].item() for row, token in rows), all(row.argmax() == token for row, token in rows)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids
