"""Schemas as pydantic, zod 4's `toJSONSchema` and zod-to-json-schema write them: which are enforced, and which named.

`schemas/zod.json` is what zod 4.6.7 and zod-to-json-schema 3.25.2 wrote for types of every kind that they document.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest

from histrio.errors import RequestError
from histrio.front.grammar_trial import try_grammar
from histrio.messages import GrammarSpec
from histrio_grammars.backend import Llguidance
from histrio_grammars.testing import RandomWriter
from tests.grammars.generated_by_pydantic import TYPES

EOS, MAX_TOKENS, NUM_COMPLETIONS = 257, 300, 2
ZOD: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "zod.json").read_text(encoding="utf-8"))
PYDANTIC = {name: pydantic.TypeAdapter(each).json_schema() for name, each in TYPES.items()}
NAMED = {
    "set": "uniqueItems",
    "frozenset": "uniqueItems",
    "set of few": "uniqueItems",
    "dict with few": "minProperties",
    "nested model": "properties.tags.uniqueItems",
    "zod 4: duration": "pattern",
    "zod 4: emoji": "pattern",
    "zod 4: regexLookahead": "pattern",
    "zod 4: recordUuid": "propertyNames",
    "zod-to-json-schema: set": "uniqueItems",
}
"""What is taken with a keyword that is not enforced → its place."""
IMPOSSIBLE = {"zod 4: never"}
UNREADABLE = {"zod-to-json-schema: emoji"}
"""Expressions that Python does not know, and so the judge does not either."""


def is_valid(text: str, schema: dict[str, Any]) -> bool:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return bool(kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(json.loads(text)))


@pytest.mark.timeout(60)  # hundreds of texts, on cores that other tests share
@pytest.mark.parametrize("schemas", [PYDANTIC, ZOD], ids=["pydantic", "zod"])
def test_what_generators_write_is_enforced_or_named(toy: Any, schemas: dict[str, Any]) -> None:
    named, refused, num_judged, num_ended_by_kind = {}, set(), 0, {True: 0, False: 0}
    for number, (name, schema) in enumerate(schemas.items()):
        spec = GrammarSpec("json_schema", json.dumps(schema))
        try:
            unenforced = Llguidance().check(spec)
            try_grammar(toy.vocabulary, spec, toy.spec)
        except RequestError:
            refused.add(name)
            continue

        if unenforced:
            named[name] = ", ".join(unenforced)
        for completion in range(NUM_COMPLETIONS):
            seed = number * NUM_COMPLETIONS + completion
            ids, has_ended = RandomWriter(toy.vocabulary, toy.spec.vocab_size, [EOS], seed=seed).write(spec, MAX_TOKENS)
            num_ended_by_kind[has_ended] += 1
            if has_ended and not unenforced and name not in UNREADABLE:
                num_judged += 1
                assert is_valid(toy.text(ids), schema), (name, toy.text(ids))

    print(f"{len(schemas)}: {len(named)} named, {len(refused)} refused; {num_judged} answers judged")
    assert refused == IMPOSSIBLE & schemas.keys()
    assert named == {name: keyword for name, keyword in NAMED.items() if name in schemas}
    assert num_judged > len(schemas), "most answers end"
    assert len(schemas) >= 90


def test_the_judge_sees_what_is_not_enforced() -> None:
    for text, schema in (('["a", "a"]', PYDANTIC["set"]), ('{"a": 1}', PYDANTIC["dict with few"])):
        assert not is_valid(text, schema)
    assert not is_valid('"a"', ZOD["zod 4: regexLookahead"])
