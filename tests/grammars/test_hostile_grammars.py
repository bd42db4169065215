"""Grammars that cost more the longer the answer: their own request ends, and no other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from histrio.contracts.gateway import Delta, Submission
from histrio.contracts.grammar import MaskRequest, num_mask_words
from histrio.errors import RequestError
from histrio.front.grammar_trial import MAX_WALK_TOKENS, try_grammar
from histrio.messages import Ask, GrammarSpec, RequestState
from histrio.testing.harness import serving
from histrio.testing.models import EOS_ID
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_grammars import matcher
from histrio_grammars.backend import Llguidance
from histrio_samplers.plugin import SAMPLERS

NUM_RULES = 20
AMBIGUOUS = "\n".join(
    [
        "start: s",
        f"s: {' | '.join(f's{n}' for n in range(NUM_RULES))}",
        *(f's{n}: "a" | "b" | s s{(n + 1) % NUM_RULES}' for n in range(NUM_RULES)),
    ]
)
"""Each token multiplies the ways to read what came so far."""
LATE = AMBIGUOUS.replace("start: s", "start: LETTER{40} s\nLETTER: /[a-z]/")
"""The same behind more text than a trial writes."""


def branching(num_branches: int) -> str:
    """A schema all of whose branches begin alike."""
    names = [f"n{n}" for n in range(num_branches)]
    lists = {name: {"type": "array", "items": {"$ref": "#/$defs/all"}} for name in names}
    every = {"all": {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}}
    return json.dumps({"$defs": lists | every, "$ref": "#/$defs/all"})


def test_an_ambiguous_grammar_is_refused_where_a_trial_gets_so_far(toy: Any) -> None:
    spec = GrammarSpec("lark", AMBIGUOUS)
    with pytest.raises(RequestError, match="too complex to be followed"):
        try_grammar(toy.vocabulary, spec, toy.spec)
    try_grammar(toy.vocabulary, GrammarSpec("lark", LATE), toy.spec)
    for text, fewest in ((AMBIGUOUS, 2), (LATE, MAX_WALK_TOKENS)):
        ambiguous = toy.vocabulary.matcher(GrammarSpec("lark", text))
        masks = np.zeros((1, num_mask_words(toy.spec.vocab_size)), np.int32)
        (letter,) = toy.ids("a")
        num_tokens = 0
        while not ambiguous.error and num_tokens < 100:
            toy.vocabulary.fill([MaskRequest(ambiguous, 0)], masks)
            if not ambiguous.error:
                ambiguous.advance([letter])
                num_tokens += 1
        assert fewest < num_tokens < 100
        assert "too complex" in ambiguous.error


def seconds_of_mask(toy: Any, schema: str, so_far: str) -> float:
    """Processor time of a mask that was not computed before, the least of some tries."""
    found = []
    for _ in range(3):
        fresh = toy.matcher("json_schema", schema, so_far)
        began_s = time.thread_time()
        fresh.inner.compute_bitmask()
        found.append(time.thread_time() - began_s)
    return max(min(found), 1e-7)


def test_a_mask_that_takes_too_long_ends_its_own_matcher_only(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_s, fine_s = (seconds_of_mask(toy, branching(count), "[[[[") for count in (150, 1))
    assert slow_s > 10 * fine_s
    slow, fine = (toy.matcher("json_schema", branching(count)) for count in (150, 1))
    vocabulary = Llguidance().open(toy.spec)
    masks = np.zeros((2, num_mask_words(toy.spec.vocab_size)), np.int32)
    errors = []
    for limit_s in (slow_s * 1000, (slow_s * fine_s) ** 0.5):
        monkeypatch.setattr(matcher, "_MAX_MASK_S", limit_s)
        for _ in range(4):
            vocabulary.fill([MaskRequest(slow, 0), MaskRequest(fine, 1)], masks)
            if not slow.error:
                assert slow.advance(toy.ids("["))
            assert fine.advance(toy.ids("["))
        errors.append((slow.error, fine.error))
    assert errors[0] == ("", ""), "a control: within the bound both go on"
    assert "too complex" in errors[1][0]
    assert errors[1][1] == ""
    allowed = [np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist() for row in masks]
    assert allowed[0] == [EOS_ID]
    assert set(toy.ids("[]")) <= set(allowed[1])


def test_a_grammar_whose_first_mask_takes_too_long_is_refused(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = GrammarSpec("json_schema", branching(40))
    try_grammar(toy.vocabulary, spec, toy.spec)
    monkeypatch.setattr(matcher, "_MAX_MASK_S", seconds_of_mask(toy, branching(40), "") / 10)
    with pytest.raises(RequestError, match="too complex"):
        try_grammar(toy.vocabulary, spec, toy.spec)


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(60)  # starts a replica
async def test_in_the_middle_of_an_answer_it_ends_that_request_alone(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=2)
    sampling = {"temperature": 1.0}
    endless = sampling | {"min_tokens": 150}
    hostile = Submission([5], 200, Ask(endless, eos_ids=[EOS_ID], seed=1, grammar=GrammarSpec("lark", AMBIGUOUS)))
    free = Submission([6], 100, Ask(sampling, seed=2))
    constrained = Submission(
        [7], 200, Ask(sampling, eos_ids=[EOS_ID], seed=3, grammar=GrammarSpec("regex", "[a-f]{60,90}"))
    )
    async with serving(model, ToyFactory(), samplers=list(SAMPLERS), grammars=[Llguidance()]) as harness:
        expected = [await harness.run(each) for each in (free, constrained)]
        deltas: list[Delta] = []
        beside: dict[int, tuple[list[int], RequestState]] = {}

        async def ask() -> None:
            (stream,) = harness.gateway.submit(hostile)
            deltas.extend([delta async for delta in stream])

        async def ask_beside(index: int, asked: Submission) -> None:
            beside[index] = await harness.run(asked)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            for index, asked in enumerate((free, constrained)):
                tasks.start_soon(ask_beside, index, asked)
        assert harness.gateway.status.num_replays == 0

    last = deltas[-1]
    assert (last.state, last.extras.code) == (RequestState.ERROR, "generation_stuck")
    assert "too complex" in last.extras.reason
    assert sum(len(delta.ids) for delta in deltas) > 2, "it was in the middle of the answer"
    assert [beside[0], beside[1]] == expected
    assert [state for _, state in expected] == [RequestState.FINISHED_MAX_LENGTH, RequestState.FINISHED_EOS]
