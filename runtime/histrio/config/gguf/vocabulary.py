"""tokenizer.json and tokenizer_config.json of the vocabulary in a GGUF file.

Two kinds are built: pairs of bytes with a list of merges (`gpt2`), and pieces with scores (`llama`, SentencePiece's),
whose merges follow from the scores: of two neighbours those are joined first whose piece is the best. What is made is
what the models' own repositories publish; another kind of vocabulary is refused with the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from histrio.config.gguf.metadata import Metadata
from histrio.config.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from histrio.errors import ModelError, UnsupportedModel

__all__ = ["make_tokenizer", "make_tokenizer_config"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens (`tokenizer.ggml.token_type`)."""
_REMEDY = "put the original tokenizer.json of the model beside the file; it is used then"
_SPACE = "▁"
_PADDING = "[PAD"
"""Begins what fills a vocabulary up to the rows of the embedding, in files that were converted so."""
_SECTION_MARK = "[INST]"
"""Where it is a control token, texts between control tokens have no space of their own before them."""
_KEEPS_SPACES_BEHIND = ("<unk>", "<s>", "<|endoftext|>")
"""Control tokens of Phi-3 that do not swallow the blanks behind them, as all others of it do."""
_SPECIAL_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


class _Token(msgspec.Struct, frozen=True):
    id: int
    text: str
    kind: int


def make_tokenizer(metadata: Metadata) -> dict[str, Any]:
    """The content of tokenizer.json. Raises `UnsupportedModel` with the remedy, `ModelError` with file and key."""
    tokens = _read_tokens(metadata)
    kind = metadata.text("tokenizer.ggml.model")
    if kind == "gpt2":
        pre = _pre_tokenizer(metadata)
        body, added = _byte_pairs(metadata, tokens, pre), _added(metadata, tokens)
        begins = pre.adds_bos
    elif kind == "llama":
        body, added = _pieces(metadata, tokens)
        begins = True
    else:
        raise UnsupportedModel(f"{metadata.file}: vocabularies of the kind {str(kind)[:40]!r} are not read; {_REMEDY}")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **body,
        "post_processor": _post_processor(metadata, tokens, begins),
    }


def make_tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    """The content of tokenizer_config.json: special tokens, and the chat template."""
    tokens = metadata.texts("tokenizer.ggml.tokens")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, ours in _SPECIAL_NAMES.items():
        token_id = metadata.token_id(name, len(tokens))
        config[ours] = None if token_id is None else tokens[token_id]
    template = metadata.text("tokenizer.chat_template")
    named = {
        name: metadata.text(f"tokenizer.chat_template.{name}") for name in metadata.texts("tokenizer.chat_templates")
    }
    others = [{"name": name, "template": text} for name, text in named.items() if text is not None]
    if template is not None:
        config["chat_template"] = [{"name": "default", "template": template}, *others] if others else template
    return config


def _read_tokens(metadata: Metadata) -> list[_Token]:
    """Without what only fills the vocabulary up."""
    texts = metadata.texts("tokenizer.ggml.tokens")
    if not texts:
        raise UnsupportedModel(f"{metadata.file} has no vocabulary (tokenizer.ggml.tokens); {_REMEDY}")
    kinds = metadata.numbers("tokenizer.ggml.token_type", len(texts)) or [_NORMAL] * len(texts)
    tokens = [_Token(index, text, int(kind)) for index, (text, kind) in enumerate(zip(texts, kinds, strict=True))]
    while tokens and tokens[-1].kind == _UNUSED and tokens[-1].text.startswith(_PADDING):
        tokens.pop()
    if len({token.text for token in tokens}) < len(tokens):
        raise ModelError(f"{metadata.file}: tokenizer.ggml.tokens has a token twice; {_REMEDY}")
    return tokens


def _pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    name = metadata.text("tokenizer.ggml.pre")
    found = PRE_TOKENIZERS.get(str(name))
    if found is not None:
        return found
    if name in (None, "default"):
        raise UnsupportedModel(
            f"{metadata.file} does not say how its vocabulary cuts texts (tokenizer.ggml.pre), as files before May "
            f"2024 do not; take a newer file of the model, or {_REMEDY}"
        )
    raise UnsupportedModel(
        f"{metadata.file}: the vocabulary cuts texts in the way {str(name)[:40]!r} (tokenizer.ggml.pre), which is not "
        f"known here; {_REMEDY}"
    )


def _byte_pairs(metadata: Metadata, tokens: list[_Token], pre: PreTokenizer) -> dict[str, Any]:
    merges = [_pair(merge) for merge in metadata.texts("tokenizer.ggml.merges")]
    return {
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.pre_tokenizer(),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _model(_vocabulary(metadata, tokens), merges, ignore_merges=pre.ignores_merges),
    }


def _pair(merge: str) -> tuple[str, str]:
    """The blank between the two may not be the first character, which can be a token itself."""
    cut = merge.find(" ", 1)
    return merge[:cut], merge[cut + 1 :]


def _pieces(metadata: Metadata, tokens: list[_Token]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Of SentencePiece; blanks are written as ▁, and what is no token falls back to bytes."""
    respelled = [_respelled(token) for token in tokens]
    is_gemma = metadata.architecture.startswith("gemma")
    has_prefix = metadata.truth("tokenizer.ggml.add_space_prefix", default=not is_gemma)
    is_sectioned = any(token.text == _SECTION_MARK and token.kind == _CONTROL for token in tokens)
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next((token.text for token in tokens if token.kind == _UNKNOWN), None)
    named = metadata.token_id("unknown", len(tokens))
    body = {
        **_blanks(has_prefix=has_prefix, is_sectioned=is_sectioned),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(
            {token.text: token.id for token in respelled},
            _merges(metadata, respelled),
            unk_token=unknown if named is None else tokens[named].text,
            fuse_unk=True,
            byte_fallback=True,
        ),
    }
    return body, _added(metadata, respelled)


def _respelled(token: _Token) -> _Token:
    """Files write tokens of several blanks as blanks."""
    if token.kind != _USER_DEFINED or token.text.strip(" ") or not token.text:
        return token
    return msgspec.structs.replace(token, text=_SPACE * len(token.text))


def _blanks(*, has_prefix: bool, is_sectioned: bool) -> dict[str, Any]:
    """How blanks become ▁, and which texts get one before them: each between two control tokens, or only the first."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if has_prefix and is_sectioned:
        metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
        return {"normalizer": None, "pre_tokenizer": metaspace}
    if has_prefix:
        prepend = {"type": "Prepend", "prepend": _SPACE}
        return {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": None}
    return {"normalizer": replace, "pre_tokenizer": None}


def _merges(metadata: Metadata, tokens: list[_Token]) -> list[tuple[str, str]]:
    """Every way to cut a piece into two pieces, the best pieces first, and of equal ones the first in the list.

    Pieces that were defined by hand come before all others, whatever their score: SentencePiece never cuts them.
    """
    scores = metadata.numbers("tokenizer.ggml.scores", len(metadata.texts("tokenizer.ggml.tokens")))
    if not scores:
        raise UnsupportedModel(f"{metadata.file}: its pieces have no scores (tokenizer.ggml.scores); {_REMEDY}")

    pieces = [token for token in tokens if token.kind in (_NORMAL, _USER_DEFINED)]
    known = {token.text for token in pieces}
    pieces.sort(key=lambda token: (token.kind != _USER_DEFINED, -scores[token.id], token.id))
    return [
        (left, right)
        for token in pieces
        for cut in range(1, len(token.text))
        if (left := token.text[:cut]) in known and (right := token.text[cut:]) in known
    ]


def _model(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocabulary,
        "merges": merges,
    }


def _vocabulary(metadata: Metadata, tokens: list[_Token]) -> dict[str, int]:
    """Without the special tokens at its end, so that no text that is not parsed for them becomes one."""
    ours = _added_ids(metadata, tokens)
    end = len(tokens)
    while end and tokens[end - 1].id in ours:
        end -= 1
    return {token.text: token.id for token in tokens[:end]}


def _added_ids(metadata: Metadata, tokens: Iterable[_Token]) -> dict[int, bool]:
    """Id → whether it is special, of the tokens that are found in texts before anything else."""
    num_tokens = len(metadata.texts("tokenizer.ggml.tokens"))
    named = {metadata.token_id(name, num_tokens) for name in _SPECIAL_NAMES}
    return {
        token.id: token.kind != _USER_DEFINED
        for token in tokens
        if token.kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) or token.id in named
    }


def _added(metadata: Metadata, tokens: list[_Token]) -> list[dict[str, Any]]:
    special = _added_ids(metadata, tokens)
    swallows = metadata.architecture == "phi3" and metadata.text("tokenizer.ggml.model") == "llama"
    return [
        {
            "id": token.id,
            "content": token.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": swallows and token.text not in _KEEPS_SPACES_BEHIND,
            "normalized": False,
            "special": special[token.id],
        }
        for token in tokens
        if token.id in special
    ]


def _post_processor(metadata: Metadata, tokens: list[_Token], begins: bool) -> dict[str, Any] | None:
    """What is put before and behind a text."""
    num_tokens = len(tokens)
    bos, eos = metadata.token_id("bos", num_tokens), metadata.token_id("eos", num_tokens)
    if not metadata.truth("tokenizer.ggml.add_bos_token", default=begins):
        bos = None
    if not metadata.truth("tokenizer.ggml.add_eos_token", default=False):
        eos = None
    if bos is None and eos is None:
        return None

    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    if bos is not None:
        single.insert(0, {"SpecialToken": {"id": tokens[bos].text, "type_id": 0}})
        pair.insert(0, {"SpecialToken": {"id": tokens[bos].text, "type_id": 0}})
    if eos is not None:
        single.append({"SpecialToken": {"id": tokens[eos].text, "type_id": 0}})
        pair.append({"SpecialToken": {"id": tokens[eos].text, "type_id": 1}})
    texts = {tokens[each].text: each for each in (bos, eos) if each is not None}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]} for text, number in texts.items()},
    }
