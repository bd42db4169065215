"""tokenizer.json out of the vocabulary in a GGUF file: byte-level pairs (SmolLM2), or pieces with scores (Gemma)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_CONTROL, _USER_DEFINED = 3, 4
"""Kinds of tokens in GGUF."""


def write_tokenizer(content: Any, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    fields = {name: content.fields[f"tokenizer.ggml.{name}"].contents() for name in ("model", "tokens", "token_type")}
    tokens, kinds = fields["tokens"], fields["token_type"]
    begin, end = (content.fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("bos", "eos"))
    if fields["model"] == "gpt2":
        tokenizer = _byte_level(tokens, content.fields["tokenizer.ggml.merges"].contents())
    else:
        tokenizer = _pieces(tokens, content.fields["tokenizer.ggml.scores"].contents())
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[begin]} $A", special_tokens=[(tokens[begin], begin)]
        )
    marked = zip(tokens, kinds, strict=True)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in marked
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_settings(content, folder, tokens[begin], tokens[end])
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": begin, "eos_token_id": end}))


def _byte_level(tokens: list[str], merges: list[str]) -> Tokenizer:
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(tokens: list[str], scores: list[float]) -> Tokenizer:
    """SentencePiece merges two neighbours into the piece with the best score; merges are listed in that order."""
    vocab = {token: index for index, token in enumerate(tokens)}
    merges: Any = [
        (piece[:cut], piece[cut:])
        for _, piece in sorted(zip(scores, tokens, strict=True), key=lambda pair: -pair[0])
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _write_settings(content: Any, folder: Path, begin: str, end: str) -> None:
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
    }
    template = content.fields.get("tokenizer.chat_template")
    if template is not None:
        settings["chat_template"] = template.contents()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False))
