"""Reasoning is free, and the answer behind it has its form: whatever the form, however the marks are spelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers

import histrio.demo
from histrio.contracts.grammar import TagSpec, TagStructure, VocabularySpec
from histrio.front.grammar_trial import try_grammar
from histrio.messages import GrammarSpec, Reasoning
from histrio_grammars.backend import Llguidance

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TAGS = TagSpec([TagStructure("<tool_call>", SCHEMA, "</tool_call>")], ["<tool_call>"])
FORMS: dict[str, tuple[str, str, str]] = {
    "json_schema": (json.dumps(SCHEMA), '{"a": 1}', '{"b": 1}'),
    "json_object": ("", '{"b": [true]}', "3"),
    "regex": ("\\n*[a-f<]{2,6}-[0-9]{3}", "\n\nabc<-123", "abc<-12"),
    "choice": ('["yes","<think>"]', "yes", "no"),
    "lark": ('start: word ("," word)* "."\nword: /[a-c]{1,3}/', "ab,c.", "ab,"),
    "gbnf": ('root ::= "<" ("yes" | "no") ">"', "<no>", "<maybe>"),
    "structural_tag": (msgspec.json.encode(TAGS).decode(), 'x<tool_call>{"a":2}</tool_call>', "x<tool_call>{}"),
}
REASONING = ["", "\nhm", '\n{"a": 1} <tool_call> </thin>\n\nso <', "\n\n日本"]


class Tokens:
    """A model's tokens, and two ways to write with them."""

    def __init__(self, folder: Path, eos: str) -> None:
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        (self.eos,) = self.ids(eos)
        self.spec = VocabularySpec(str(folder), self.tokenizer.get_vocab_size(), (self.eos,))
        self.vocabulary = Llguidance().open(self.spec)

    def ids(self, text: str) -> list[int]:
        """As the tokenizer would."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def spelled(self, text: str) -> list[int]:
        """Character by character, so that no mark is a token of its own."""
        return [token for char in text for token in self.ids(char)]

    def takes(self, spec: GrammarSpec, *pieces: list[int]) -> bool:
        """Whether these ids are a whole answer."""
        ids = [token for piece in pieces for token in piece]
        return bool(self.vocabulary.matcher(spec).advance([*ids, self.eos]))


@pytest.fixture(scope="module")
def bpe() -> Tokens:
    """The demo model's: `<think>` and `</think>` are tokens."""
    return Tokens(Path(histrio.demo.__file__).parent / "target", "<|im_end|>")


@pytest.fixture(params=["bytes", "own tokens"])
def tokens(request: pytest.FixtureRequest, toy: Any, bpe: Tokens) -> Tokens:
    return bpe if request.param == "own tokens" else Tokens(Path(toy.spec.model), "<|im_end|>")


def spec_of(form: str, reasoning: Reasoning) -> GrammarSpec:
    return GrammarSpec(form, FORMS[form][0], reasoning)


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_behind_reasoning_has_its_form(tokens: Tokens, form: str) -> None:
    _, good, bad = FORMS[form]
    for reasoning, opening in (("already", ""), ("maybe", "<think>"), ("maybe", "\n<think>")):
        spec = spec_of(form, reasoning)  # type: ignore[arg-type]
        try_grammar(tokens.vocabulary, spec, tokens.spec)
        for text in REASONING:
            begin = f"{opening}{text}</think>\n\n"
            assert tokens.takes(spec, tokens.ids(begin), tokens.ids(good)), begin
            assert not tokens.takes(spec, tokens.ids(begin), tokens.ids(bad)), begin
            spelled = tokens.spelled(begin.removesuffix("\n\n"))
            assert tokens.takes(spec, spelled, tokens.ids("\n\n"), tokens.ids(good)), begin
            assert not tokens.takes(spec, spelled, tokens.ids("\n\n"), tokens.ids(bad)), begin


@pytest.mark.parametrize("form", FORMS)
def test_reasoning_that_may_be_left_out_changes_nothing_without_one(tokens: Tokens, form: str) -> None:
    _, good, bad = FORMS[form]
    for reasoning in ("never", "maybe"):
        assert tokens.takes(spec_of(form, reasoning), tokens.ids(good))
        assert not tokens.takes(spec_of(form, reasoning), tokens.ids(bad))


def test_reasoning_is_neither_the_end_nor_the_answer(tokens: Tokens) -> None:
    for form, (_, good, _) in FORMS.items():
        for text in (good, f"hm</think>{good.lstrip()}", "hm", "", "hm</think>\n\n" * (form != "structural_tag")):
            assert not tokens.takes(spec_of(form, "already"), tokens.ids(text)), (form, text)
        is_free = form == "structural_tag"
        assert tokens.takes(spec_of(form, "never"), tokens.ids(f"<think></think>\n\n{good}")) is is_free


def test_reasoning_may_name_what_else_is_a_token(bpe: Tokens) -> None:
    spec = spec_of("json_schema", "already")
    matcher = bpe.vocabulary.matcher(spec)
    assert matcher.advance(bpe.ids("<tool_call> <think> </tool_response>"))
    assert not bpe.vocabulary.matcher(spec).advance(bpe.ids("<|im_start|>")), "a control: this one is no text"
