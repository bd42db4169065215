"""Vocabularies of GGUF files become the tokenizer.json that models publish: pairs of bytes, and pieces with scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from histrio.config.gguf.metadata import Metadata
from histrio.config.gguf.pre_tokenizers import PRE_TOKENIZERS
from histrio.config.gguf.vocabulary import make_tokenizer, make_tokenizer_config
from histrio.errors import ModelError, UnsupportedModel

FILE = Path("x.gguf")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def metadata(model: str, tokens: list[tuple[str, int]], *, architecture: str = "llama", **values: Any) -> Metadata:
    return Metadata(
        {
            "general.architecture": architecture,
            "tokenizer.ggml.model": model,
            "tokenizer.ggml.tokens": [text for text, _ in tokens],
            "tokenizer.ggml.token_type": np.array([kind for _, kind in tokens], np.int32),
            **{f"tokenizer.ggml.{key}": value for key, value in values.items()},
        },
        FILE,
    )


def byte_pairs(pre: str, words: str, specials: list[tuple[str, int]] | None = None, **given: Any) -> Tokenizer:
    """Of all bytes; `words` are joined by merges from the left, and get tokens of their own."""
    from tokenizers import pre_tokenizers

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in words.split():
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    all_tokens = [(token, NORMAL) for token in tokens] + (specials or [("<s>", CONTROL)])
    values: dict[str, Any] = {"bos_token_id": len(tokens), "merges": merges, "pre": pre} | given
    return Tokenizer.from_str(json.dumps(make_tokenizer(metadata("gpt2", all_tokens, **values))))


def pieces(scores: dict[str, float], *specials: tuple[str, int], **given: Any) -> Tokenizer:
    """Of SentencePiece: bytes, then pieces with their scores."""
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), *specials, *((byte, BYTE) for byte in BYTES)]
    all_scores = np.array([-1000.0] * len(tokens) + list(scores.values()), np.float32)
    tokens += [(piece, NORMAL) for piece in scores]
    values: dict[str, Any] = {"bos_token_id": 1, "unknown_token_id": 0, "scores": all_scores} | given
    return Tokenizer.from_str(json.dumps(make_tokenizer(metadata("llama", tokens, **values))))


def cut(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["Ġthe", "Ġ", "1234"]),
        ("smollm", ["Ġthe", "Ġ", "1", "2", "3", "4"]),
        ("command-r", ["Ġthe", "Ġ", "1", "2", "3", "4"]),
        ("qwen2", ["Ġthe", "Ġ", "1", "2", "3", "4"]),
        ("tekken", ["Ġthe", "Ġ", "1", "2", "3", "4"]),
        ("llama-bpe", ["Ġthe", "Ġ", "123", "4"]),
        ("glm4", ["Ġthe", "Ġ", "123", "4"]),
        ("gpt-4o", ["Ġthe", "Ġ", "123", "4"]),
        ("deepseek-v3", ["Ġthe", "Ġ", "123", "4"]),
        ("deepseek-llm", ["Ġthe", "Ġ", "1", "2", "3", "4"]),
    ],
)
def test_the_name_in_the_file_says_how_texts_are_cut(pre: str, expected: list[str]) -> None:
    assert cut(byte_pairs(pre, "Ġthe 1234 123"), " the 1234") == expected


def test_words_of_capitals_and_small_letters_are_cut_by_the_newer_vocabularies_alone() -> None:
    words = "HelloWorld Hello World"
    assert cut(byte_pairs("gpt-4o", words), "HelloWorld") == ["Hello", "World"]
    assert cut(byte_pairs("llama-bpe", words), "HelloWorld") == ["HelloWorld"]


def test_every_way_to_cut_can_be_read_and_gives_texts_back() -> None:
    text = "Hällo wörld's\n\n  3.14 你好 <s> I'M\t(x)"
    for name in PRE_TOKENIZERS:
        tokenizer = byte_pairs(name, "Hello")
        assert tokenizer.decode(cut_ids := tokenizer.encode(text, add_special_tokens=False).ids, False) == text, name
        assert len(cut_ids) > 10


def test_characters_are_composed_where_the_model_was_trained_so() -> None:
    assert cut(byte_pairs("qwen2", "Hello"), "e\u0301") == cut(byte_pairs("qwen2", "Hello"), "é")
    assert cut(byte_pairs("llama-bpe", "Hello"), "e\u0301") != cut(byte_pairs("llama-bpe", "Hello"), "é")


@pytest.mark.parametrize(
    ("pre", "values", "begins"),
    [
        ("llama-bpe", {}, True),
        ("llama-bpe", {"add_bos_token": False}, False),
        ("qwen2", {}, False),
        ("qwen2", {"add_bos_token": True}, True),
    ],
)
def test_texts_begin_with_bos_as_the_file_or_else_the_kind_says(pre: str, values: dict[str, Any], begins: bool) -> None:
    tokens = byte_pairs(pre, "hi", **values).encode("hi").tokens
    assert tokens == (["<s>", "hi"] if begins else ["hi"])


def test_special_tokens_are_found_in_texts_and_only_control_tokens_are_left_out() -> None:
    specials = [("<s>", CONTROL), ("<think>", USER_DEFINED), ("[PAD300]", UNUSED), ("[PAD301]", UNUSED)]
    tokenizer = byte_pairs("gpt-2", "hi", specials)
    ids = tokenizer.encode("<s>hi<think>[PAD300]", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "hi<think>[PAD300]"
    assert tokenizer.get_vocab_size() == 256 + 1 + 2
    assert tokenizer.token_to_id("<think>") == 258


def test_eos_is_added_where_the_file_says_so() -> None:
    specials = [("<s>", CONTROL), ("</s>", CONTROL)]
    tokenizer = byte_pairs("gpt-2", "hi", specials, eos_token_id=258, add_eos_token=True, add_bos_token=True)
    assert tokenizer.encode("hi").tokens == ["<s>", "hi", "</s>"]
    assert tokenizer.encode("hi", "hi").tokens == ["<s>", "hi", "hi", "</s>"]


SCORES = {"▁": -9.0, "h": -9.1, "e": -9.2, "l": -9.3, "o": -9.4, "he": -1.0, "ll": -2.0, "hell": -3.0, "▁hell": -4.0}


def test_the_best_piece_is_joined_first() -> None:
    assert cut(pieces(SCORES), "hello") == ["▁hell", "o"]
    better = SCORES | {"el": -0.5}
    assert cut(pieces(better), "hello") == ["▁", "h", "el", "l", "o"]


def test_what_is_no_piece_becomes_bytes_and_comes_back() -> None:
    tokenizer = pieces(SCORES)
    assert cut(tokenizer, "hü") == ["▁", "h", "<0xC3>", "<0xBC>"]
    assert tokenizer.decode(tokenizer.encode("hü  o", add_special_tokens=False).ids) == "hü  o"


def test_every_text_between_control_tokens_has_a_blank_before_it_unless_the_vocabulary_marks_sections() -> None:
    assert cut(pieces(SCORES), "he<s>he") == ["▁", "he", "<s>", "▁", "he"]
    assert cut(pieces(SCORES, ("[INST]", CONTROL)), "he[INST]he") == ["▁", "he", "[INST]", "he"]
    assert cut(pieces(SCORES, add_space_prefix=False), "he<s>he") == ["he", "<s>", "he"]
    assert pieces(SCORES).encode("he").tokens == ["<s>", "▁", "he"]


def test_runs_of_blanks_that_a_file_spells_as_blanks_are_pieces() -> None:
    tokenizer = pieces(SCORES | {"▁▁": -0.1, "▁h": -0.2}, ("   ", USER_DEFINED), add_space_prefix=False)
    assert cut(tokenizer, "h   e") == ["h", "▁▁▁", "e"]
    assert cut(tokenizer, "h  h") == ["h", "▁▁", "h"]
    assert tokenizer.decode(tokenizer.encode("h   e", add_special_tokens=False).ids) == "h   e"


def test_control_tokens_of_phi_3_swallow_the_blanks_behind_them() -> None:
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("<|user|>", CONTROL), *((byte, BYTE) for byte in BYTES)]
    tokens += [(piece, NORMAL) for piece in SCORES]
    scores = np.array([0.0] * 259 + list(SCORES.values()), np.float32)
    for architecture, expected in (("phi3", ["<|user|> ", "▁", "he"]), ("llama", ["<|user|>", "▁", "▁", "he"])):
        made = make_tokenizer(metadata("llama", tokens, architecture=architecture, scores=scores, unknown_token_id=0))
        assert cut(Tokenizer.from_str(json.dumps(made)), "<|user|> he") == expected


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"model": "bert"}, "vocabularies of the kind 'bert' are not read"),
        ({"model": "gpt2"}, r"does not say how its vocabulary cuts texts \(tokenizer.ggml.pre\)"),
        ({"model": "gpt2", "pre": "default"}, "does not say how its vocabulary cuts texts"),
        ({"model": "gpt2", "pre": "newest"}, "in the way 'newest'"),
        ({"model": "llama"}, "its pieces have no scores"),
        ({"model": "llama", "tokens": []}, "has no vocabulary"),
    ],
)
def test_other_vocabularies_are_refused_with_the_remedy(values: dict[str, Any], fault: str) -> None:
    full = {"tokens": ["a"], "token_type": np.array([1], np.int32)} | values
    if not full["tokens"]:
        full.pop("token_type")
    content = {"general.architecture": "llama", **{f"tokenizer.ggml.{key}": value for key, value in full.items()}}
    with pytest.raises(UnsupportedModel, match=fault) as caught:
        make_tokenizer(Metadata(content, FILE))
    assert "put the original tokenizer.json of the model beside the file" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"tokens": ["a", "a"]}, "has a token twice"),
        ({"tokens": "ab"}, "tokens must be a list of strings"),
        ({"token_type": np.array([1], np.int32)}, "token_type must be a list of 2 numbers"),
        ({"model": "llama", "scores": np.array([0, np.nan], np.float32)}, "scores must be a list of 2 numbers"),
        ({"add_bos_token": 1}, "add_bos_token must be a truth value"),
    ],
)
def test_broken_vocabularies_are_refused_by_key(values: dict[str, Any], fault: str) -> None:
    full = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b"], "merges": []} | values
    content = {"general.architecture": "llama", **{f"tokenizer.ggml.{key}": value for key, value in full.items()}}
    with pytest.raises(ModelError, match=fault):
        make_tokenizer(Metadata(content, FILE))


def test_the_chat_template_and_special_tokens_are_in_the_configuration() -> None:
    tokens = [("a", NORMAL), ("<s>", CONTROL)]
    plain = metadata("gpt2", tokens, bos_token_id=1)
    assert make_tokenizer_config(plain)["bos_token"] == "<s>"
    assert "chat_template" not in make_tokenizer_config(plain)
    content = {
        "general.architecture": "llama",
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.chat_template": "{{ x }}",
    }
    assert make_tokenizer_config(Metadata(content, FILE))["chat_template"] == "{{ x }}"
    content |= {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "{{ y }}"}
    assert make_tokenizer_config(Metadata(content, FILE))["chat_template"] == [
        {"name": "default", "template": "{{ x }}"},
        {"name": "tool_use", "template": "{{ y }}"},
    ]
