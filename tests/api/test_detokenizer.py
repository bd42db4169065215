"""Incremental decoding equals plain decoding, and characters come out whole."""

from __future__ import annotations

from random import Random

import pytest
import tokenizers
from hypothesis import given
from tokenizers import decoders, models, pre_tokenizers

from histrio_api.text.tokenizer import Tokenizer
from tests.api.plain_texts import plain_texts

MIXED = 'naïve 日本語 🙂🚀 한국어 👩‍👩‍👧 {"a": 1}\n\ttext é à́'


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = tokenizer.detokenizer()
    return [*(detokenizer.push([token_id]) for token_id in ids), detokenizer.flush()]


@given(text=plain_texts(max_size=60))
def test_pieces_of_any_text_make_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert "".join(pieces_of(tokenizer, tokenizer.encode(text, add_special=False))) == text


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_random_ids_make_the_plain_decoding(tokenizer: Tokenizer, seed: int) -> None:
    random = Random(seed)
    ids = [random.randrange(3, tokenizer.vocab_size) for _ in range(300)]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_split_over_tokens_comes_out_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("👩‍👩‍👧", add_special=False)
    pieces = pieces_of(tokenizer, ids)
    assert len(ids) > len("👩‍👩‍👧"), "the tokenizer must split these characters for the test to mean anything"
    assert "\ufffd" not in "".join(pieces)
    assert "\ufffd" in "".join(tokenizer.decode([token_id]) for token_id in ids), "control: token by token breaks them"


def test_grouping_of_ids_does_not_change_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(MIXED, add_special=False)
    whole = tokenizer.detokenizer()
    assert whole.push(ids) + whole.flush() == "".join(pieces_of(tokenizer, ids)) == MIXED


def test_an_unfinished_character_at_the_end_is_not_lost(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 👧", add_special=False)[:-1]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).endswith("\ufffd")


def test_special_tokens_are_skipped_unless_asked_for(tokenizer: Tokenizer) -> None:
    ids = [1, *tokenizer.encode("hi", add_special=False), 2]
    assert tokenizer.detokenizer().push(ids) == "hi"
    assert tokenizer.detokenizer(skip_special=False).push(ids) == "<|im_start|>hi<|im_end|>"


@pytest.fixture
def metaspace() -> tokenizers.Tokenizer:
    """A tokenizer in the manner of sentencepiece: its decoder drops the first word's leading space."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"▁The": 0, "▁capital": 1, "▁is": 2, "▁Paris": 3, "?": 4}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def test_a_continued_text_keeps_the_space_at_the_seam(metaspace: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(metaspace)
    assert tokenizer.detokenizer(continues=[0, 1, 2]).push([3]) == " Paris"
    assert tokenizer.detokenizer().push([3]) == "Paris", "control: a new text begins without it"


def test_a_character_begun_by_the_prompt_is_finished_by_the_answer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("👧", add_special=False)
    detokenizer = tokenizer.detokenizer(continues=ids[:-1])
    assert detokenizer.push(ids[-1:]) + detokenizer.flush() == "👧"


def test_bos_is_added_once(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hi", add_special=True)[:1] == [0]
    assert tokenizer.encode("<|bos|>hi", add_special=True) == tokenizer.encode("hi", add_special=True)
    assert tokenizer.encode("hi", add_special=False)[:1] != [0]
