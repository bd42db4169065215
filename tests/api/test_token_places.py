"""Where in a text each of its tokens begins, whatever the tokenizer's kind; the tokens' own bytes are the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from histrio_api.text.tokenizer import Tokenizer
from tests.api.plain_texts import plain_texts

TEXTS = ["The quick brown fox jumps over the lazy dog.", "naïve café, an actor owns its state"]
SAMPLES = ["The lazy actor", "  two  spaces ", "naïve café – 🙂🚀 the end", "x", "日本 fox"]


def byte_level() -> RawTokenizer:
    """As GPT-2 has it: the space before a word is in no token's span."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    return raw


def llama() -> RawTokenizer:
    """As sentencepiece has it: a mark for the space, one before the text, bytes for what is unknown."""
    raw = RawTokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trained = [f"<0x{byte:02X}>" for byte in range(256)]
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=360, special_tokens=trained, show_progress=False))
    return raw


KINDS: dict[str, Callable[[], RawTokenizer]] = {"byte-level": byte_level, "llama": llama}


def places_by_bytes(tokenizer: Tokenizer, ids: Sequence[int], num_extra_chars: int) -> list[int]:
    """The characters that are whole before each token; `num_extra_chars` of them the tokenizer has put first."""
    before, places = b"", []
    for token_id in ids:
        places.append(max(len(before.decode(errors="ignore")) - num_extra_chars, 0))
        before += bytes(tokenizer.spell(token_id)[1])
    return places


@pytest.mark.parametrize("text", SAMPLES)
@pytest.mark.parametrize("kind", KINDS)
def test_places_are_where_the_tokens_bytes_begin(kind: str, text: str) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    ids, places = tokenizer.encode_placed(text, add_special=False)
    assert ids == tokenizer.encode(text, add_special=False)
    assert places == places_by_bytes(tokenizer, ids, num_extra_chars=int(kind == "llama"))


@given(text=plain_texts(max_size=40))
def test_places_in_any_text(tokenizer: Tokenizer, text: str) -> None:
    ids, places = tokenizer.encode_placed(text, add_special=False)
    assert places == places_by_bytes(tokenizer, ids, 0)
    decoded, decoded_places = tokenizer.decode_placed(ids)
    assert decoded == text
    assert all(found <= place for found, place in zip(decoded_places, places, strict=True))
    assert text[: places[-1]].startswith(text[: decoded_places[-1]]) if ids else places == []
    if len(ids) > 1:
        assert places[1:] != places[:-1] or len(set(text)) == 1, "a control: tokens do not stand in one place"


def test_added_tokens_stand_where_the_next_begins(tokenizer: Tokenizer) -> None:
    ids, places = tokenizer.encode_placed("Hello", add_special=True)
    assert ids == tokenizer.encode("Hello", add_special=True)
    assert (ids[0], places[:2]) == (0, [0, 0])
    doubled, _ = tokenizer.encode_placed("<|bos|>Hello", add_special=True)
    assert doubled == ids, "BOS is not added twice"
    raw = byte_level()
    raw.add_special_tokens(["<e>"])
    raw.post_processor = processors.TemplateProcessing(
        single="$A <e>", special_tokens=[("<e>", raw.get_vocab_size() - 1)]
    )
    _, places = Tokenizer(raw).encode_placed("The fox", add_special=True)
    assert places[-1] == len("The fox")
