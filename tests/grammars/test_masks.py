"""Masks say, token by token, exactly what may come next; the judge is a language small enough to list."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

import numpy as np
import pytest

from histrio.contracts.grammar import MaskRequest, num_mask_words
from histrio.messages import GrammarSpec

EOS, NUM_BYTES, PADDED = 257, 256, 300

LANGUAGES: list[tuple[str, str, set[str]]] = [
    ("regex", "ab?|c{2}", {"a", "ab", "cc"}),
    ("regex", "", {""}),
    ("regex", "[a-c]é|é", {"aé", "bé", "cé", "é"}),
    ("regex", "(x|xy)(z|yz)?", {"x", "xz", "xyz", "xy", "xyyz"}),
    ("choice", '["yes","no","not"]', {"yes", "no", "not"}),
    ("choice", '["","a\\"b\\\\\\n/é😀"]', {"", 'a"b\\\n/é😀'}),
    ("choice", '["<|im_end|>","%x[1]","\\u0001"]', {"<|im_end|>", "%x[1]", "\x01"}),
    ("lark", 'start: "a" b | "c"\nb: "b" "b"', {"abb", "c"}),
    ("gbnf", 'root ::= "a" b-c | "\\u0041\\x42"\nb-c ::= [x-z]', {"ax", "ay", "az", "AB"}),
    ("gbnf", 'root ::= ("a" | "é")? "\\"" # why\n', {'"', 'a"', 'é"'}),
    ("json_schema", '{"enum":[null,true,"ä",12]}', {"null", "true", '"ä"', "12"}),
    ("json_schema", '{"type":"integer","minimum":8,"maximum":11}', {"8", "9", "10", "11"}),
    ("json_schema", '{"type":"string","pattern":"^(a|bc)$"}', {'"a"', '"bc"'}),
    ("json_schema", '{"type":"boolean"}', {"true", "false"}),
]


@pytest.mark.parametrize(("kind", "text", "language"), LANGUAGES)
def test_a_mask_has_every_token_that_some_text_goes_on_with_and_no_other(
    toy: Any, kind: str, text: str, language: set[str]
) -> None:
    texts = {word.encode() for word in language}
    spelled = token_bytes(toy)
    num_prefixes = 0
    for prefix in sorted({word[:end] for word in texts for end in range(len(word) + 1)}):
        ids = [spelled.index(bytes([byte])) for byte in prefix]
        matcher = toy.vocabulary.matcher(GrammarSpec(kind, text))
        assert matcher.advance(ids)
        expected = {at for at, byte in enumerate(spelled) if any(word.startswith(prefix + byte) for word in texts)}
        expected |= {EOS} if prefix in texts else set()
        assert toy.allowed(matcher) == [expected], prefix
        is_forced = len(expected) == 1 and texts != {b""}  # the end of an empty text is drawn like any token
        assert matcher.forced(1) == (list(expected) if is_forced else [])
        num_prefixes += 1
    assert num_prefixes >= 1
    assert toy.allowed(toy.vocabulary.matcher(GrammarSpec("regex", "[^a]"))) != toy.allowed(
        toy.vocabulary.matcher(GrammarSpec(kind, text))
    ), "a control: another grammar has another mask"


def test_padding_and_special_tokens_are_never_allowed(toy: Any) -> None:
    anything = toy.vocabulary.matcher(GrammarSpec("regex", "(.|\\n)*"))
    allowed = toy.allowed(anything)[0]
    assert max(allowed) == EOS, "neither ids behind the tokenizer's last, nor bits behind the vocabulary"
    assert toy.tokenizer.token_to_id("<|im_start|>") not in allowed
    assert len(allowed) > 150


@pytest.mark.parametrize(
    "expression", ["a[bc]*", "(ab|ba)+c?", "\\d{1,2}:\\d{2}", "[^\\s,]+", "\\w\\W", "[\\S]b|\\D", "."]
)
def test_expressions_take_what_python_matches_in_full(toy: Any, expression: str) -> None:
    alphabet = ["a", "b", "c", "1", ":", ",", " ", "\n", "é"]
    words = ["".join(letters) for length in range(3) for letters in product(alphabet, repeat=length)]
    words += ["12:34", "1:2", "ababc", "abcbcb"]
    taken = {word for word in words if toy.takes("regex", expression, word)}
    matched = {word for word in words if re.fullmatch(expression, word)}
    assert taken
    assert taken <= matched
    assert {word for word in matched if word.isascii()} <= taken, "only what readers disagree on may be left out"


@pytest.mark.parametrize("odd", ["\x1c", "²", "٣", "\u0301", "\ufeff", "\u2028", "\r"])
@pytest.mark.parametrize(
    "expression", ["\\S", "\\W", "\\D", "\\w", "\\d", "\\s", ".", "[^\\s]", "[^\\w]", "[^\\d]", "[^\\W]"]
)
def test_where_readers_disagree_nothing_is_taken_that_python_refuses(toy: Any, expression: str, odd: str) -> None:
    if toy.takes("regex", expression, odd):
        assert re.fullmatch(expression, odd)
    if toy.takes("json_schema", json.dumps({"type": "string", "pattern": f"^{expression}$"}), json.dumps(odd)):
        assert re.fullmatch(expression, odd)


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ('{"a":1,"b":"x"}', True),
        ('{"a": 1, "b": "x"}', True),
        ('{\n    "a": 1,\n    "b": "x"\n}', True),
        ('{\n\t"a": 1,\n\t"b": "x"\n}', True),
        ('{"a":1}', True),
        ('{"b":"x","a":1}', False),
        ('{"a":  1}', False),
        (' {"a":1}', False),
        ('{"a":1} ', False),
        ('{"a":"1"}', False),
        ('{"a":1,"c":2}', False),
        ('{"a":1,}', False),
    ],
)
def test_json_is_taken_compact_or_indented_but_not_with_endless_blanks(toy: Any, text: str, is_taken: bool) -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "additionalProperties": False}
    assert toy.takes("json_schema", json.dumps(schema | {"type": "object", "required": ["a"]}), text) is is_taken


def test_any_object_is_taken_and_nothing_but_objects(toy: Any) -> None:
    deep = '{"a":' * 30 + "null" + "}" * 30
    assert all(toy.takes("json_object", "", text) for text in ("{}", '{"a":[1,{"b":null}],"c":"\\n"}', deep))
    assert not any(toy.takes("json_object", "", text) for text in ("[]", "1", '"a"', "null", '{"a"}', ""))


def test_eos_is_allowed_exactly_where_the_grammar_may_end(toy: Any) -> None:
    matcher = toy.matcher("regex", "ab?")
    assert EOS not in toy.allowed(matcher)[0]
    assert matcher.advance(toy.ids("a"))
    assert toy.allowed(matcher)[0] == {EOS, *toy.ids("b")}
    assert matcher.advance(toy.ids("b"))
    assert toy.allowed(matcher)[0] == {EOS}
    assert not matcher.is_finished
    assert matcher.advance([EOS])
    assert matcher.is_finished
    assert not toy.matcher("regex", "ab?").advance([EOS]), "too early"
    assert not matcher.advance(toy.ids("a")), "nothing follows the end"


def test_a_token_that_is_forbidden_is_an_error_that_says_so(toy: Any) -> None:
    matcher = toy.matcher("regex", "ab")
    assert matcher.advance(toy.ids("a"))
    assert matcher.error == ""
    assert not matcher.advance(toy.ids("x"))
    assert "forbids" in matcher.error
    assert matcher.forced(3) == []
    assert toy.allowed(matcher) == [{EOS}], "such a row can only end"


def test_masks_of_many_rows_are_the_masks_of_each(toy: Any) -> None:
    prefixes = ["", "[", "[1", "[12,", "[1,2]"]
    matchers = [toy.matcher("json_schema", '{"type":"array","items":{"type":"integer"}}', text) for text in prefixes]
    masks = np.zeros((len(matchers), num_mask_words(PADDED)), np.int32)
    toy.vocabulary.fill([MaskRequest(matcher, row) for row, matcher in enumerate(matchers)], masks)
    rows = [set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))) for row in masks]
    assert rows == [toy.allowed(matcher)[0] for matcher in matchers]
    assert len({frozenset(row) for row in rows}) == len(rows)


def token_bytes(toy: Any) -> list[bytes]:
    """What each id stands for; a byte that is not printable has a printable stand-in, as in GPT-2's vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    chars = {chr(byte): byte for byte in plain} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
    return [bytes([chars[toy.tokenizer.id_to_token(token)]]) for token in range(NUM_BYTES)]
