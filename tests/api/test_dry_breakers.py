"""`dry_sequence_breakers` are texts to a client and token ids to the sampler."""

from __future__ import annotations

from typing import Any

import pytest

from histrio.errors import RequestError
from histrio_api.request.words import DEFAULT_BREAKERS, with_word_ids
from histrio_api.text.token_search import TokenSearch
from histrio_api.text.tokenizer import Tokenizer

VOCAB = 400
FIELDS = frozenset({"dry_sequence_breaker_ids", "dry_multiplier", "bad_words_ids"})
ON: dict[str, Any] = {"model": "m", "dry_multiplier": 0.8}


def _containing(tokenizer: Tokenizer, *texts: str) -> list[int]:
    every = range(tokenizer.vocab_size)
    return [each for each in every if any(text.encode() in bytes(tokenizer.spell(each)[1]) for text in texts)]


@pytest.mark.parametrize("breakers", [["\n"], ["a", "b"], ["the"], [" "]])
def test_every_token_that_contains_a_breaker_is_one(tokenizer: Tokenizer, breakers: list[str]) -> None:
    given = with_word_ids(ON | {"dry_sequence_breakers": breakers}, tokenizer, FIELDS, VOCAB)

    assert given == ON | {"dry_sequence_breaker_ids": _containing(tokenizer, *breakers)}
    assert given["dry_sequence_breaker_ids"] != _containing(tokenizer, "e")


def test_of_a_text_that_no_token_contains_the_last_one_breaks(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("qx#zq", add_special=False)
    assert len(ids) > 1

    given = with_word_ids(ON | {"dry_sequence_breakers": ["qx#zq"]}, tokenizer, FIELDS, VOCAB)

    assert given["dry_sequence_breaker_ids"] == ids[-1:]


@pytest.mark.parametrize("extra", [{}, {"dry_sequence_breakers": None}, {"dry_sequence_breaker_ids": None}])
def test_the_usual_ones_break_where_nothing_is_said(tokenizer: Tokenizer, extra: dict[str, Any]) -> None:
    given = with_word_ids(ON | extra, tokenizer, FIELDS, VOCAB)

    assert given["dry_sequence_breaker_ids"] == _containing(tokenizer, *DEFAULT_BREAKERS)
    assert given["dry_sequence_breaker_ids"] != []


@pytest.mark.parametrize("field", ["dry_sequence_breakers", "dry_sequence_breaker_ids"])
def test_an_empty_list_means_none(tokenizer: Tokenizer, field: str) -> None:
    given = with_word_ids(ON | {field: []}, tokenizer, FIELDS, VOCAB)

    assert given["dry_sequence_breaker_ids"] == []


@pytest.mark.parametrize("multiplier", [None, 0, 0.0])
def test_without_dry_nothing_is_added(tokenizer: Tokenizer, multiplier: float | None) -> None:
    off = {"dry_multiplier": multiplier}

    assert with_word_ids(off, tokenizer, FIELDS, VOCAB) == off
    assert with_word_ids(off | {"dry_sequence_breakers": ["x"]}, tokenizer, FIELDS, VOCAB) == off


@pytest.mark.parametrize("breakers", ["\n", [1], [""], ["x" * 41], {"a": 1}, True, ["a"] * 65])
def test_anything_else_is_refused_without_an_echo(tokenizer: Tokenizer, breakers: Any) -> None:
    with pytest.raises(RequestError, match="must be a list of at most 64 texts of 1 to 40") as caught:
        with_word_ids(ON | {"dry_sequence_breakers": breakers}, tokenizer, FIELDS, VOCAB)
    assert caught.value.param == "dry_sequence_breakers"


def test_texts_and_ids_exclude_each_other(tokenizer: Tokenizer) -> None:
    both = {"dry_sequence_breakers": ["\n"], "dry_sequence_breaker_ids": [1]}

    with pytest.raises(RequestError, match="either these or dry_sequence_breaker_ids"):
        with_word_ids(ON | both, tokenizer, FIELDS, VOCAB)


def test_without_the_sampler_nothing_is_touched(tokenizer: Tokenizer) -> None:
    request = ON | {"dry_sequence_breakers": ["\n"]}

    assert with_word_ids(request, tokenizer, frozenset(), VOCAB) == request


def test_nothing_is_found_across_two_tokens() -> None:
    search = TokenSearch([b"ab", b"", b"ba", b"\xff", "aé".encode(), b"aab*"])

    assert search.ids_containing("ab") == [0, 5]
    assert search.ids_containing("a") == [0, 2, 4, 5]
    assert search.ids_containing("é") == [4]
    assert search.ids_containing("*") == [5]
    assert search.ids_containing("bb") == []
