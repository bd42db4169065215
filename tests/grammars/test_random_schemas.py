"""Answers of random weights to many schemas: all that end validate, judged by `jsonschema`.

With HISTRIO_ALL_SCHEMAS=1, `make test ARGS="tests/grammars/test_random_schemas.py -s"` runs and reports the full set.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from random import Random
from typing import Any

import jsonschema
import pytest

from histrio.errors import RequestError
from histrio.front.grammar_trial import try_grammar
from histrio.messages import GrammarSpec
from histrio_grammars.backend import Llguidance
from histrio_grammars.places import num_levels
from histrio_grammars.testing import RandomWriter, random_schema

EOS, MAX_TOKENS, NUM_COMPLETIONS = 257, 1500, 3
IS_FULL = bool(os.environ.get("HISTRIO_ALL_SCHEMAS"))
NUM_SCHEMAS, LEAST_ACCEPTED = (440, 150) if IS_FULL else (80, 40)
LEAST_ENDED = 0.7


@dataclass
class Tally:
    """What became of the schemas."""

    num_refused: int = 0
    num_named: int = 0
    """Accepted with a keyword that is not enforced."""
    num_accepted: int = 0
    num_ended: int = 0
    levels: list[int] = field(default_factory=list)


def is_valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def refusal_of(toy: Any, spec: GrammarSpec) -> RequestError | None:
    try:
        try_grammar(toy.vocabulary, spec, toy.spec)
    except RequestError as error:
        return error
    return None


@pytest.mark.timeout(300 if IS_FULL else 60)  # hundreds of texts, on cores that other tests share
def test_every_answer_that_ends_satisfies_its_schema(toy: Any) -> None:
    random, tally = Random(0), Tally()
    for number in range(NUM_SCHEMAS):
        schema = random_schema(random)
        spec = GrammarSpec("json_schema", json.dumps(schema))
        if (refusal := refusal_of(toy, spec)) is not None:
            assert refusal.status == 400
            tally.num_refused += 1
            continue

        if Llguidance().check(spec):
            tally.num_named += 1
            continue

        tally.num_accepted += 1
        for completion in range(NUM_COMPLETIONS):
            writer = RandomWriter(
                toy.vocabulary, toy.spec.vocab_size, [EOS], seed=number * NUM_COMPLETIONS + completion
            )
            ids, has_ended = writer.write(spec, MAX_TOKENS)
            if not has_ended:
                continue
            text = toy.text(ids)
            assert is_valid(text, schema), (schema, text)
            tally.num_ended += 1
            tally.levels.append(num_levels(json.loads(text)))

    share = tally.num_ended / (tally.num_accepted * NUM_COMPLETIONS)
    mean = sum(tally.levels) / len(tally.levels)
    print(
        f"{NUM_SCHEMAS} schemas: {tally.num_accepted} enforced, {tally.num_named} with a keyword that is not, "
        f"{tally.num_refused} refused; {share:.1%} of the "
        f"answers end within {MAX_TOKENS} tokens, all of them valid, mean depth {mean:.2f}, "
        f"greatest {max(tally.levels)}"
    )
    assert tally.num_accepted >= LEAST_ACCEPTED
    assert tally.num_named > 0
    assert tally.num_refused <= NUM_SCHEMAS // 20
    assert share >= LEAST_ENDED


def test_without_masks_no_answer_satisfies_its_schema(toy: Any) -> None:
    random, num_valid, num_written = Random(0), 0, 0
    for number in range(20):
        schema = random_schema(random)
        spec = GrammarSpec("json_schema", json.dumps(schema))
        if refusal_of(toy, spec) is not None:
            continue
        writer = RandomWriter(toy.vocabulary, toy.spec.vocab_size, [EOS], seed=number, is_masked=False)
        ids, _ = writer.write(spec, 100)
        num_written += 1
        num_valid += is_valid(toy.text([token for token in ids if token < EOS]), schema)
    assert num_valid == 0
    assert num_written > 10
