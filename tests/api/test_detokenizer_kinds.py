"""On a vocabulary of every kind, all pieces of any ids together are the plain decoding of these ids.

`HISTRIO_TOKENIZERS` may name a folder of published tokenizers, each in a folder of its own: 10,000 lists of ids each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers.decoders import DecodeStream

from histrio_api.text.pieces import Joining, TokenPieces
from histrio_api.text.tokenizer import Tokenizer

BYTES = [f"<0x{value:02X}>" for value in range(256)]
WORDS = [
    "▁",
    "▁The",
    "cat",
    "▁cat",
    "▁▁▁",
    "##s",
    "##",
    ".",
    "▁.",
    "é",
    "日本",
    "n't",
    "</w>",
    "low</w>",
    "\ufffd",
    "x",
]
NUM_LISTS = 10_000


def sequence(*parts: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence(list(parts))


def replaced() -> decoders.Decoder:
    return decoders.Replace("▁", " ")


DECODERS = {
    "byte level": decoders.ByteLevel(),
    "byte fallback, first space dropped": sequence(
        replaced(), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ),
    "byte fallback": sequence(replaced(), decoders.ByteFallback(), decoders.Fuse()),
    "byte fallback, then metaspace": sequence(decoders.ByteFallback(), decoders.Metaspace()),
    "three first spaces dropped": sequence(
        decoders.ByteFallback(), decoders.Fuse(), replaced(), decoders.Strip(" ", 3, 0)
    ),
    "metaspace": decoders.Metaspace(),
    "word pieces": decoders.WordPiece("##", cleanup=True),
    "words": None,
    "suffixes": decoders.BPEDecoder("</w>"),
    "two characters made one": sequence(replaced(), decoders.Fuse(), decoders.Replace("..", "…")),
    "repeats dropped": decoders.CTC("x", "▁"),
}


@cache
def vocabulary(kind: str) -> Tokenizer:
    words = BYTES + WORDS
    if kind == "byte level":
        spelled = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        words = [*sorted(spelled), "ðŁĺĢ", "ðŁĺ", "Ġcat", "日"]
    made = tokenizers.Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "x"))
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    made.add_tokens([AddedToken("<tool_call>", special=False)])
    if (decoder := DECODERS[kind]) is not None:
        made.decoder = decoder
    return Tokenizer(made)


def ids_of(kind: str, *spellings: str) -> list[int]:
    found = [vocabulary(kind)._tokenizer.token_to_id(spelling) for spelling in spellings]
    known = [each for each in found if each is not None]
    assert known == found
    return known


def in_pieces(tokenizer: Tokenizer, groups: Sequence[Sequence[int]], skip_special: bool = True) -> str:
    detokenizer = tokenizer.detokenizer(skip_special=skip_special)
    return "".join(map(detokenizer.push, groups)) + detokenizer.flush()


def decode_stream(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The library's own incremental decoding, which takes back nothing that it said."""
    stream = DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(tokenizer._tokenizer, token_id) or "" for token_id in ids)


@pytest.mark.parametrize("kind", DECODERS)
@given(data=st.data(), skip_special=st.booleans())
def test_pieces_of_any_ids_make_the_plain_decoding(kind: str, data: st.DataObject, skip_special: bool) -> None:
    tokenizer = vocabulary(kind)
    # One id more than there are: it stands for nothing.
    any_id = st.integers(0, tokenizer.vocab_size) | st.integers(256 if kind != "byte level" else 0, 300)
    groups = data.draw(st.lists(st.lists(any_id, max_size=4), max_size=12))
    ids = [token_id for group in groups for token_id in group]
    assert in_pieces(tokenizer, groups, skip_special) == tokenizer.decode(ids, skip_special=skip_special)


def test_control_the_library_gives_up_where_bytes_are_no_character() -> None:
    kind = "byte fallback, first space dropped"
    ids = ids_of(kind, "▁The", "<0x0A>", "<0xE2>", "▁cat", "cat")
    assert in_pieces(vocabulary(kind), [ids]) == vocabulary(kind).decode(ids) == "The\ufffd\ufffd catcat"
    with pytest.raises(Exception, match="Invalid prefix"):
        decode_stream(vocabulary(kind), ids)


@pytest.mark.parametrize("kind", ["byte fallback", "byte level", "metaspace", "word pieces", "words"])
def test_text_is_held_back_only_where_later_ids_may_change_it(kind: str) -> None:
    tokenizer = vocabulary(kind)
    detokenizer = tokenizer.detokenizer()
    word = ids_of(kind, "c" if kind == "byte level" else "cat")
    assert [detokenizer.push(word) != "" for _ in range(3)] == [True] * 3
    assert detokenizer.complete_text == detokenizer.flush() == ""


def test_a_run_of_bytes_waits_for_its_end_and_says_what_it_reads_so_far() -> None:
    kind = "byte fallback"
    detokenizer = vocabulary(kind).detokenizer()
    assert detokenizer.push(ids_of(kind, "cat", "<0x0A>")) == "cat"
    assert detokenizer.complete_text == "\n"
    assert detokenizer.push(ids_of(kind, "<0xC3>")) == ""
    assert detokenizer.complete_text == "", "half a character is not complete"
    assert detokenizer.push(ids_of(kind, "<0xA9>")) == ""
    assert detokenizer.complete_text == "\né"
    assert detokenizer.push(ids_of(kind, "cat", "x")) == "\nécatx"
    assert detokenizer.num_late_chars == 2


@pytest.mark.parametrize(
    ("context", "answer", "text"),
    [
        (["cat", "<0x0A>"], ["cat"], "cat"),
        (["cat", "<0xF0>", "<0x9F>"], ["<0x99>", "<0x82>", "cat"], "🙂cat"),
        (["<0x0A>", "<0xF0>", "<0x9F>"], ["<0x99>", "<0x82>", "cat"], "🙂cat"),
        (["cat", "<0xC1>"], ["▁cat"], " cat"),
        (["<s>"], ["▁cat"], "cat"),
    ],
)
def test_an_answer_begins_where_the_prompt_ended(context: list[str], answer: list[str], text: str) -> None:
    kind = "byte fallback, first space dropped"
    detokenizer = vocabulary(kind).detokenizer(continues=ids_of(kind, *context))
    assert detokenizer.push(ids_of(kind, *answer)) + detokenizer.flush() == text


def test_tokens_behind_a_run_of_bytes_are_placed_behind_it() -> None:
    kind = "byte fallback"
    text, starts = vocabulary(kind).decode_placed(ids_of(kind, "cat", "<0x0A>", "<0x0A>", "cat", "x"))
    assert (text, starts) == ("cat\n\ncatx", [0, 3, 3, 5, 8])


def test_only_decoders_that_look_ahead_have_nothing_to_show_before_the_end() -> None:
    found = {kind: TokenPieces(each._tokenizer, each._bytes_of, skip_special=True).joining for kind, each in known()}
    assert {kind for kind, joining in found.items() if joining is Joining.WHOLE} == {
        "suffixes",
        "two characters made one",
        "repeats dropped",
    }


def known() -> list[tuple[str, Tokenizer]]:
    return [(kind, vocabulary(kind)) for kind in DECODERS]


@pytest.mark.skipif("HISTRIO_TOKENIZERS" not in os.environ, reason="HISTRIO_TOKENIZERS names no published tokenizers")
@pytest.mark.timeout(1800)
def test_pieces_of_random_ids_of_published_vocabularies_make_the_plain_decoding() -> None:
    files = sorted(Path(os.environ["HISTRIO_TOKENIZERS"]).rglob("tokenizer.json"))
    assert files, "the folder has no tokenizers"
    num_given_up = 0
    for path in files:
        tokenizer, random = Tokenizer.load(path.parent), Random(0)
        num_ids = tokenizer.vocab_size
        parts = [each for each in range(num_ids) if isinstance(tokenizer.pieces.learn(each), bytes)]
        for at in range(NUM_LISTS):
            ids = [random.choice(parts if random.random() < at % 3 / 4 else range(num_ids)) for _ in range(24)]
            assert in_pieces(tokenizer, [[each] for each in ids]) == tokenizer.decode(ids), (path, ids)
            num_given_up += not is_decoded(tokenizer, ids)
    assert num_given_up, "control: the library's own decoding must give up on some of these"


def is_decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    try:
        return tokenizer.decode(ids).startswith(decode_stream(tokenizer, ids))
    except Exception:
        return False
