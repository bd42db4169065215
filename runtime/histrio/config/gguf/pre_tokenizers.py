# ruff: noqa: RUF001  (the expressions name characters of all scripts)
"""How vocabularies of byte pairs cut texts before they merge, by the name that a file gives (`tokenizer.ggml.pre`).

A file has the name alone; the expressions are those of the tokenizer.json that published models of the name have.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["PRE_TOKENIZERS", "PreTokenizer"]


class PreTokenizer(msgspec.Struct, frozen=True):
    """One way to cut texts, and what goes with it."""

    splits: tuple[str, ...] = ()
    """Expressions, each of which cuts the pieces of those before it."""
    has_single_digits: bool = False
    """Every digit stands for itself."""
    has_words: bool = False
    """Pieces are cut as GPT-2 cuts them, last."""
    ignores_merges: bool = False
    """A piece that is a token is taken as it is, whatever merges say."""
    adds_bos: bool = False
    """Texts begin with the vocabulary's first token where the file says nothing of it."""
    composes: bool = False
    """Characters are composed (NFC) first."""

    def normalizer(self) -> dict[str, Any] | None:
        """As tokenizer.json has it."""
        return {"type": "NFC"} if self.composes else None

    def pre_tokenizer(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        steps: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
            for expression in self.splits
        ]
        if self.has_single_digits:
            steps.append({"type": "Digits", "individual_digits": True})
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": self.has_words,
        }
        return {"type": "Sequence", "pretokenizers": [*steps, byte_level]}


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_THREE_DIGITS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST
_ONE_DIGIT = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST
_ONE_DIGIT_MARKS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _REST
_ONE_DIGIT_BREAKS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _REST
_CAPITALS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SMALLS = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|"
_TEKKEN = rf"{_LEAD}{_CAPITALS}*{_SMALLS}+|{_LEAD}{_CAPITALS}+{_SMALLS}*|\p{{N}}|" + _PUNCTUATION + _REST
_GPT_4O = (
    rf"{_LEAD}{_CAPITALS}*{_SMALLS}+{_CONTRACTIONS}?|{_LEAD}{_CAPITALS}+{_SMALLS}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|"
    + _PUNCTUATION
    + _REST
)
_DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _REST,
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+")

_LLAMA_3 = PreTokenizer((_THREE_DIGITS,), ignores_merges=True, adds_bos=True)
_CL100K = PreTokenizer((_THREE_DIGITS,))
_GPT_2 = PreTokenizer(has_words=True)
_DIGITS = PreTokenizer(has_single_digits=True, has_words=True)
_O200K = PreTokenizer((_GPT_4O,), ignores_merges=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"), _LLAMA_3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _CL100K),
    "qwen2": PreTokenizer((_ONE_DIGIT,), composes=True),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), PreTokenizer((_ONE_DIGIT,))),
    "qwen35": PreTokenizer((_ONE_DIGIT_MARKS,), composes=True),
    "seed-coder": PreTokenizer((_ONE_DIGIT_BREAKS,)),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _O200K),
    "tekken": PreTokenizer((_TEKKEN,), ignores_merges=True, adds_bos=True),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), PreTokenizer(_DEEPSEEK_3)),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM, has_single_digits=True),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER, has_single_digits=True),
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "granite-docling", "trillion"), _GPT_2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    "command-r": PreTokenizer(has_single_digits=True, has_words=True, composes=True),
}
"""Name in the file → how texts are cut."""
