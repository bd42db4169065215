"""For tests of grammars: varied schemas, and a stand-in for a model of random weights that follows masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from histrio.contracts.grammar import MaskRequest, Masks, Matcher, Vocabulary, num_mask_words
from histrio.messages import GrammarSpec
from histrio.stage.sampling.grammar_table import apply_masks
from histrio.stage.sampling.numpy_arrays import NumpyArrays

__all__ = ["RandomWriter", "random_schema"]

_WORDS = ("id", "name", "tags", "size", "left", "right", "unit price", "größe", 'quo"te', "a/b", "next", "ok", "items")
_PATTERNS = (
    "^[a-z]{2,8}$",
    "^\\d{3}-\\d{4}$",
    "[A-F0-9]+",
    "^(red|green|blue)?$",
    "^a|b$",
    "^.{1,5}$",
    "^\\S+@\\S+$",
    "^[^\\s,]+$",
    "\\W\\w",
    "^\\D{3}$",
)
_FORMATS = ("date", "date-time", "time", "email", "uuid", "ipv4", "ipv6", "hostname")
_CONSTANTS: tuple[Any, ...] = (None, True, 0, -7, 2.5, "", "äß", 'a"b\\c', [1, [2]], {"k": [None, "v"]}, {})
_RARE: tuple[dict[str, Any], ...] = (
    {"type": "array", "uniqueItems": True},
    {"not": {"type": "string"}},
    {"if": {"type": "object"}, "then": {"maxProperties": 0}, "else": {"type": "integer"}},
    {"type": "array", "contains": {"type": "integer"}},
    {"type": "object", "propertyNames": {"maxLength": 3}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
    {"type": "string", "format": "iri"},
    {"type": "number", "multipleOf": 0.01},
    {"type": "object", "minProperties": 2},
    {"type": "string", "pattern": "(?=a)b"},
)


def random_schema(random: Random) -> dict[str, Any]:
    """A schema with anything that schemas have; about one in four has a rare keyword."""
    kind = random.random()
    if kind < 0.08:
        return _recursive(random)

    schema = _any(random, random.choice((1, 2, 3, 3, 4, 5)))
    if kind < 0.3:
        child = random.choice(_RARE)
        schema = {"type": "object", "properties": {"first": schema, "then": child}, "required": ["then"]}
    return schema | {"$defs": {"part": _string(random, 0)}}


@dataclass
class RandomWriter:
    """Writes as a model of random weights would: logits that favour some tokens for good, and change with each step."""

    vocabulary: Vocabulary
    vocab_size: int
    eos_ids: Sequence[int]
    seed: int = 0
    bias: float = 0.5
    """Standard deviation of what a token's logit has for good."""
    noise: float = 1.0
    """Standard deviation of what changes from step to step."""
    is_masked: bool = True
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._favour = self._rng.normal(0, self.bias, self.vocab_size).astype(np.float32)

    def write(self, spec: GrammarSpec, max_tokens: int) -> tuple[list[int], bool]:
        """Token ids without EOS, and whether the text came to its end."""
        matcher = self.vocabulary.matcher(spec)
        masks = np.zeros((1, num_mask_words(self.vocab_size)), np.int32)
        ids: list[int] = []
        for _ in range(max_tokens):
            token = self._draw(matcher, masks)
            if token in self.eos_ids:
                return ids, True
            ids.append(token)
            if self.is_masked:
                assert matcher.advance([token]), "a token that the mask let through is refused"
        return ids, False

    def _draw(self, matcher: Matcher, masks: Masks) -> int:
        logits = self._favour + self._rng.normal(0, self.noise, self.vocab_size).astype(np.float32)
        if self.is_masked:
            self.vocabulary.fill([MaskRequest(matcher, 0)], masks)
            assert not matcher.error, matcher.error
            logits = apply_masks(NumpyArrays(), logits[None], np.arange(1), masks)[0]
        gumbel = -np.log(-np.log(self._rng.random(self.vocab_size)))
        return int(np.argmax(logits + gumbel))


def _any(random: Random, depth: int) -> dict[str, Any]:
    simple: list[Callable[[Random, int], dict[str, Any]]] = [_string, _number, _integer, _choice, _simple_type]
    nested = [_object, _object, _object, _array, _tuple, _union, _both, _reference]
    return random.choice(nested if depth > 0 else simple)(random, depth)


def _below(random: Random, depth: int) -> dict[str, Any]:
    return _any(random, depth - 1 if random.random() < 0.75 else 0)


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(_WORDS, random.randint(1, 4))
    schema: dict[str, Any] = {"type": "object", "properties": {name: _below(random, depth) for name in names}}
    schema["required"] = random.sample(names, random.randint(0, len(names)))
    schema["additionalProperties"] = random.choice((False, False, False, {"type": "boolean"}))
    if random.random() < 0.1:
        schema["patternProperties"] = {"^x_[a-z]{1,3}$": {"type": "integer"}}
    if schema["additionalProperties"] is False and random.random() < 0.2:
        schema["minProperties"] = 1
    return schema


def _array(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(0, 2)
    schema = {"type": "array", "items": _below(random, depth), "minItems": low}
    return schema | ({"maxItems": low + random.randint(0, 3)} if random.random() < 0.6 else {})


def _tuple(random: Random, depth: int) -> dict[str, Any]:
    entries = [_below(random, depth) for _ in range(random.randint(1, 3))]
    return {"type": "array", "prefixItems": entries, "items": False, "minItems": random.randint(0, len(entries))}


def _union(random: Random, depth: int) -> dict[str, Any]:
    if random.random() < 0.3:
        kinds = ("circle", "square", "line")[: random.randint(2, 3)]
        return {"oneOf": [_tagged(kind, _below(random, depth)) for kind in kinds]}
    return {"anyOf": [_below(random, depth) for _ in range(random.randint(2, 3))]}


def _tagged(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    properties = {"kind": {"const": kind}, "value": value}
    return {"type": "object", "properties": properties, "required": ["kind"], "additionalProperties": False}


def _both(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(-5, 5)
    return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + random.randint(0, 500)}]}


def _reference(random: Random, depth: int) -> dict[str, Any]:
    """Names a part that `random_schema` defines."""
    return {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 3}


def _recursive(random: Random) -> dict[str, Any]:
    node = {
        "type": "object",
        "properties": {
            "value": _any(random, 0),
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": random.randint(1, 2)},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    }
    return {"$defs": {"node": node}, "$ref": "#/$defs/node"}


def _string(random: Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    match random.randrange(5):
        case 0:
            schema["pattern"] = random.choice(_PATTERNS)
        case 1:
            schema["format"] = random.choice(_FORMATS)
        case 2 | 3:
            schema["maxLength"] = random.randint(1, 30)
            schema["minLength"] = random.randint(0, schema["maxLength"])
    return schema


def _number(random: Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number"}
    if random.random() < 0.6:
        schema["minimum"] = random.choice((-2.5, 0, 0.001, 3))
        schema[random.choice(("maximum", "exclusiveMaximum"))] = random.choice((3.25, 10, 1e3))
    return schema


def _integer(random: Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    if random.random() < 0.6:
        schema[random.choice(("minimum", "exclusiveMinimum"))] = random.randint(-100, 100)
    if random.random() < 0.3:
        schema["multipleOf"] = random.choice((2, 5, 12))
    return schema


def _choice(random: Random, depth: int) -> dict[str, Any]:
    values = random.sample(_CONSTANTS, random.randint(1, 4))
    return {"const": values[0]} if len(values) == 1 else {"enum": values}


def _simple_type(random: Random, depth: int) -> dict[str, Any]:
    return {"type": random.choice(("boolean", "null", ["integer", "null"], ["string", "boolean"]))}
