"""Vocabularies whose tokens are longer than a byte: byte-level BPE, and the kind that writes spaces as `▁`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from histrio.contracts.grammar import MaskRequest, Vocabulary, VocabularySpec, num_mask_words
from histrio.errors import RequestError, UnsupportedModel
from histrio.messages import GrammarSpec
from histrio_api.testing import write_tokenizer
from histrio_grammars.backend import Llguidance
from histrio_grammars.testing import RandomWriter

LANGUAGE = ["the rest", "there", "then again", "no", "not"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "on": {"type": "boolean"}},
    "required": ["name", "on"],
    "additionalProperties": False,
}


def write_metaspace_tokenizer(folder: Path) -> None:
    """Pieces with `▁` for a space, and a token for every byte that has no piece."""
    texts = ["the rest of the story", "there and then again", "no, not now", '{"name": "x", "on": true}']
    letters = sorted(set("".join(texts)) - {" "})
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("n", "o"), ("▁", "no"), ("r", "e")]
    vocab = {piece: at for at, piece in enumerate([*pieces, *("".join(pair) for pair in merges)])}
    model = tokenizers.models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(params=["byte-level", "metaspace"])
def opened(request: Any, tmp_path: Path) -> tuple[Vocabulary, tokenizers.Tokenizer, int, int]:
    write = write_tokenizer if request.param == "byte-level" else write_metaspace_tokenizer
    write(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    eos = tokenizer.token_to_id("<|im_end|>" if request.param == "byte-level" else "</s>")
    assert eos is not None
    vocab_size = tokenizer.get_vocab_size() + 7
    return Llguidance().open(VocabularySpec(str(tmp_path), vocab_size, (eos,))), tokenizer, vocab_size, eos


def test_a_token_is_allowed_only_if_some_text_goes_on_with_all_of_it(
    opened: tuple[Vocabulary, tokenizers.Tokenizer, int, int],
) -> None:
    vocabulary, tokenizer, vocab_size, eos = opened
    masks = np.zeros((1, num_mask_words(vocab_size)), np.int32)
    open_ways: list[list[int]] = [[]]
    texts: set[str] = set()
    num_long = 0
    while open_ways:
        ids = open_ways.pop()
        matcher = vocabulary.matcher(GrammarSpec("choice", json.dumps(LANGUAGE)))
        assert matcher.advance(ids)
        vocabulary.fill([MaskRequest(matcher, 0)], masks)
        so_far = tokenizer.decode(ids, skip_special_tokens=False)
        allowed = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little")).tolist()
        assert allowed
        assert (eos in allowed) == (so_far in LANGUAGE)
        for token in allowed:
            if token == eos:
                texts.add(so_far)
                continue
            text = tokenizer.decode([*ids, token], skip_special_tokens=False)
            assert any(word.startswith(text) for word in LANGUAGE), (so_far, text)
            num_long += len(text) - len(so_far) > 1
            open_ways.append([*ids, token])
    assert texts == set(LANGUAGE), "every text can be reached, and no other"
    assert num_long > 0


def test_random_answers_are_json_after_the_schema(opened: tuple[Vocabulary, tokenizers.Tokenizer, int, int]) -> None:
    vocabulary, tokenizer, vocab_size, eos = opened
    for seed in range(5):
        ids, has_ended = RandomWriter(vocabulary, vocab_size, [eos], seed).write(
            GrammarSpec("json_schema", json.dumps(SCHEMA)), 300
        )
        assert has_ended
        answer = json.loads(tokenizer.decode(ids, skip_special_tokens=False))
        assert answer.keys() == {"name", "on"}
        assert len(answer["name"]) <= 8


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_ids_that_the_model_lacks_are_in_no_form(tmp_path: Path, kind: str) -> None:
    (write_tokenizer if kind == "byte-level" else write_metaspace_tokenizer)(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    (eos,) = filter(None, map(tokenizer.token_to_id, ("<|im_end|>", "</s>")))
    whole = tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<fill{count}>" for count in range(40)])
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sizes = (whole, tokenizer.get_vocab_size()) if kind == "byte-level" else (whole - 2, whole)
    for vocab_size in sizes:
        vocabulary = Llguidance().open(VocabularySpec(str(tmp_path), vocab_size, (eos,)))
        for schema in (SCHEMA, {"enum": ["the rest of the story", "note"]}):
            spec = GrammarSpec("json_schema", json.dumps(schema))
            for seed in range(3):
                ids, has_ended = RandomWriter(vocabulary, vocab_size, (eos,), seed).write(spec, 400)
                assert has_ended
                assert max(ids) < vocab_size
                json.loads(tokenizer.decode(ids))


def test_a_tokenizer_without_an_end_has_no_forms(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    for eos_ids in ((), (10**6,)):
        with pytest.raises(UnsupportedModel, match="none of its tokens ends a text"):
            Llguidance().open(VocabularySpec(str(tmp_path), 400, eos_ids))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        Llguidance().open(VocabularySpec(str(tmp_path), 400, (1,)))


def test_a_fixed_text_cannot_contain_the_end(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    eos = tokenizer.token_to_id("<|im_end|>")
    assert eos is not None
    vocabulary = Llguidance().open(VocabularySpec(str(tmp_path), tokenizer.get_vocab_size(), (eos,)))
    for begin, end, param in (
        ("<f>", "</f>", None),
        ("<f><|im_start|>", "</f>", None),
        ("<f><|im_end|>", "</f>", "structures[0].begin"),
        ("<f>", "<|im_end|></f>", "structures[0].end"),
    ):
        tags = {"structures": [{"begin": begin, "schema": True, "end": end}], "triggers": ["<f>"]}
        spec = GrammarSpec("structural_tag", json.dumps(tags))
        if param is None:
            vocabulary.matcher(spec)
            continue
        with pytest.raises(RequestError, match="token that ends the answer") as caught:
            vocabulary.matcher(spec)
        assert caught.value.param == param
