"""What one token adds to a text, whatever the tokenizer's kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models
from tokenizers import Tokenizer as RawTokenizer

from histrio_api.text.token_bytes import TokenBytes, shown_bytes
from histrio_api.text.tokenizer import Tokenizer

MARK = "\u2581"
LLAMA = decoders.Sequence(
    [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
BYTE_LEVEL = ("\u0120hi", "\u00c3", "\u00a9", "<|end|>", "two words")
SENTENCES = (f"{MARK}Hi", f"{MARK}", "there", "<0xE2>", "<0x80>", "<0xA6>", "<0xZZ>")


def tokenizer_of(spellings: tuple[str, ...], decoder: Any) -> RawTokenizer:
    tokenizer = RawTokenizer(models.WordLevel({spelling: at for at, spelling in enumerate(spellings)}, unk_token=""))
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


@given(text=st.text(max_size=40))
def test_the_bytes_of_all_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special=False)
    assert b"".join(bytes(tokenizer.spell(token_id)[1]) for token_id in ids) == text.encode()
    if len(text.encode()) > 1:
        control = b"".join(bytes(tokenizer.spell(token_id)[1]) for token_id in ids[:-1])
        assert control != text.encode()


@pytest.mark.parametrize(
    ("spellings", "decoder", "expected"),
    [
        (BYTE_LEVEL, decoders.ByteLevel(), [b" hi", b"\xc3", b"\xa9", b"<|end|>", b"two words"]),
        (SENTENCES, LLAMA, [b" Hi", b" ", b"there", b"\xe2", b"\x80", b"\xa6", b"<0xZZ>"]),
        (SENTENCES[:3], decoders.Metaspace(), [b" Hi", b" ", b"there"]),
        (("a", "b"), None, [b"a", b"b"]),
        (("run", "##ning"), decoders.WordPiece(), [b"run", b"##ning"]),
        (("aab",), decoders.Replace(Regex("a+"), "c"), [b"cb"]),
    ],
    ids=["byte-level", "byte-fallback", "metaspace", "none", "word-piece", "regex"],
)
def test_a_spelling_is_read_as_the_decoder_reads_it(
    spellings: tuple[str, ...], decoder: Any, expected: list[bytes]
) -> None:
    bytes_of = TokenBytes(tokenizer_of(spellings, decoder))
    assert [bytes_of(token_id) for token_id in range(len(spellings))] == expected
    assert bytes_of(len(spellings)) == b"", "an id that the tokenizer does not know"


@pytest.mark.parametrize(("spellings", "decoder"), [(BYTE_LEVEL, decoders.ByteLevel()), (SENTENCES, LLAMA)])
def test_bytes_together_are_what_the_library_decodes(spellings: tuple[str, ...], decoder: Any) -> None:
    raw = tokenizer_of(spellings, decoder)
    bytes_of, ids = TokenBytes(raw), list(range(len(spellings)))
    whole = b"".join(map(bytes_of, ids)).decode()
    assert raw.decode(ids).strip() == whole.strip()
    assert raw.decode(ids[::-1]).strip() != whole.strip(), "a control: their order shows"


def test_what_is_no_whole_text_shows_its_bytes() -> None:
    assert shown_bytes("né".encode()) == "né"
    assert shown_bytes("né".encode()[:-1]) == "bytes:\\x6e\\xc3"
