"""Reasoning with a bound: the mark that ends it comes in time, and the answer behind it is as it would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import histrio.demo
from histrio.contracts.grammar import GrammarCapability, GrammarKinds, MaskRequest, Matcher, num_mask_words
from histrio.contracts.honours import OF_STAGES, require_honoured
from histrio.errors import RequestError
from histrio.front.grammar_trial import try_grammar
from histrio.messages import Ask, GrammarSpec, Reasoning
from histrio_grammars.backend import Llguidance
from tests.grammars.test_reasoning_before_answers import FORMS, Tokens

ALL_FORMS: dict[str, tuple[str, str, str | None]] = {**FORMS, "text": ("", "anything at all", None)}


@pytest.fixture(scope="module")
def bpe() -> Tokens:
    return Tokens(Path(histrio.demo.__file__).parent / "target", "<|im_end|>")


def spec_of(form: str, most: int | None, reasoning: Reasoning = "already") -> GrammarSpec:
    return GrammarSpec(form, ALL_FORMS[form][0], reasoning, max_reasoning_tokens=most)


def allowed(tokens: Tokens, matcher: Matcher, drafts: tuple[int, ...] = ()) -> list[set[int]]:
    """What may come next, and after each draft."""
    masks = np.zeros((1 + len(drafts), num_mask_words(tokens.spec.vocab_size)), np.int32)
    tokens.vocabulary.fill([MaskRequest(matcher, 0, drafts)], masks)
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in bits]


@pytest.mark.parametrize("form", ALL_FORMS)
def test_the_mark_comes_once_the_tokens_are_spent_and_the_answer_has_its_form(bpe: Tokens, form: str) -> None:
    _, good, bad = ALL_FORMS[form]
    close = bpe.ids("</think>")
    pondered = bpe.ids(" so it is <tool_call>")
    separator = [] if form == "text" else bpe.ids("\n\n")
    for reasoning, opening in (("already", ""), ("maybe", "<think>"), ("maybe", "\n<think>")):
        spec = spec_of(form, len(pondered), reasoning)  # type: ignore[arg-type]
        try_grammar(bpe.vocabulary, spec, bpe.spec)
        matcher = bpe.vocabulary.matcher(spec)
        assert matcher.advance(bpe.ids(opening) + pondered[:-1])
        assert len(allowed(bpe, matcher)[0]) > 1000
        assert matcher.advance(pondered[-1:])
        assert allowed(bpe, matcher)[0] == {*close}
        assert matcher.forced(1) == close
        for ended in (pondered, pondered[:1], []):
            whole = (bpe.ids(opening), ended, close, separator)
            assert bpe.takes(spec, *whole, bpe.ids(good))
            assert bad is None or not bpe.takes(spec, *whole, bpe.ids(bad))
        assert not bpe.takes(spec, bpe.ids(opening), [*pondered, pondered[0]], close, separator, bpe.ids(good))
        unbounded = spec_of(form, None, reasoning)  # type: ignore[arg-type]
        if form != "text":
            more = (bpe.ids(opening), [*pondered, pondered[0]], close, separator, bpe.ids(good))
            assert bpe.takes(unbounded, *more), "a control"


def test_a_bound_of_nothing_leaves_the_mark_alone(bpe: Tokens) -> None:
    matcher = bpe.vocabulary.matcher(spec_of("text", 0))
    assert allowed(bpe, matcher)[0] == {*bpe.ids("</think>")}


def test_an_answer_without_reasoning_is_any_text(bpe: Tokens) -> None:
    spec = spec_of("text", 1, "maybe")
    for text in ("", "x", "\n", "\nx", "\n\n<think> not at the beginning", "x <think> y </think> <|im_start|>"):
        assert bpe.takes(spec, bpe.ids(text)), text
    for text in ("<think>", "\n<think>x", "<think>x"):
        assert not bpe.takes(spec, bpe.ids(text)), text


@pytest.mark.parametrize("form", ["text", "json_object"])
def test_tokens_that_were_drafted_are_counted_and_taken_back(bpe: Tokens, form: str) -> None:
    """Masks behind drafts are those of a sequence that gained them; what is taken back leaves no trace."""
    ids = [*bpe.ids(" a b")[:2], *bpe.ids("</think>")]
    spec = spec_of(form, 2)
    stepwise, matcher = [], bpe.vocabulary.matcher(spec)
    for token in ids:
        stepwise += allowed(bpe, matcher)
        assert matcher.advance([token])
    stepwise += allowed(bpe, matcher)
    assert len(stepwise[1]) > len(stepwise[2]) == 1

    drafted = bpe.vocabulary.matcher(spec)
    assert allowed(bpe, drafted, tuple(ids)) == stepwise
    assert drafted.advance(ids)
    drafted.rollback(2)
    assert allowed(bpe, drafted) == stepwise[1:2]
    assert drafted.advance(ids[1:])
    assert allowed(bpe, drafted) == stepwise[-1:]


def test_a_mark_that_is_no_token_bounds_nothing(toy: Any) -> None:
    tokens = Tokens(Path(toy.spec.model), "<|im_end|>")
    with pytest.raises(RequestError, match="tokens of their own"):
        tokens.vocabulary.matcher(spec_of("json_object", 5))
    assert tokens.vocabulary.matcher(spec_of("json_object", None)).advance(tokens.ids("x</think>")), "a control"


class Unbounded(Llguidance):
    """Says that it cannot bound reasoning."""

    capabilities: tuple[GrammarCapability, ...] = (GrammarCapability.REASONING,)


def test_what_does_not_declare_it_is_not_asked_for_it() -> None:
    with pytest.raises(RequestError, match="does not declare 'reasoning_budget'"):
        GrammarKinds([Unbounded()]).backend(spec_of("regex", 5))
    assert GrammarKinds([Unbounded()]).backend(spec_of("regex", None)).name == "llguidance"
    assert GrammarKinds([Llguidance()]).backend(spec_of("regex", 5)).name == "llguidance"


def test_an_engine_that_enforces_forms_alone_refuses_a_bound_by_name() -> None:
    honours = replace(OF_STAGES, grammar_kinds=["regex"])
    with pytest.raises(RequestError, match="the engine does not bound reasoning") as caught:
        require_honoured(Ask(grammar=spec_of("regex", 5)), honours, "the engine")
    assert caught.value.param == "max_reasoning_tokens"
    require_honoured(Ask(grammar=spec_of("regex", None)), honours, "the engine")
    require_honoured(Ask(grammar=spec_of("regex", 5)), replace(honours, grammar_kinds=["regex", "text"]), "it")
