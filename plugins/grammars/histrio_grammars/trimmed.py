"""A tokenizer without the tokens that its model does not have: a form is enforced over the ids that can be drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

__all__ = ["TokenizerFile", "read_tokenizer"]


class TokenizerFile(msgspec.Struct, frozen=True):
    """The parts of a tokenizer.json that grammars need."""

    text: str
    """The file's JSON, with only the tokens whose ids are below the model's `vocab_size`."""
    added_tokens: list[dict[str, Any]]
    ids: frozenset[int]
    """Ids of all its tokens."""


def read_tokenizer(text: str, vocab_size: int) -> TokenizerFile:
    """Read and trim it. Raises ValueError for a file of another form."""
    try:
        whole = msgspec.json.decode(text)
        model, added = whole["model"], whole.get("added_tokens") or []
        ids = frozenset(_ids(model)).union(each["id"] for each in added)
        if any(each >= vocab_size for each in ids):
            added = [each for each in added if each["id"] < vocab_size]
            _trim(model, vocab_size)
            # A post-processor may name tokens that were removed, and grammars do not need it.
            text = msgspec.json.encode(whole | {"added_tokens": added, "post_processor": None}).decode()
            ids = frozenset(each for each in ids if each < vocab_size)
        return TokenizerFile(text, added, ids)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is no tokenizer.json of the tokenizers library") from error


def _ids(model: dict[str, Any]) -> Iterable[int]:
    vocab = model["vocab"]
    return vocab.values() if isinstance(vocab, dict) else range(len(vocab))


def _trim(model: dict[str, Any], vocab_size: int) -> None:
    vocab = model["vocab"]
    if not isinstance(vocab, dict):
        model["vocab"] = vocab[:vocab_size]
        return

    model["vocab"] = kept = {text: id_ for text, id_ in vocab.items() if id_ < vocab_size}
    if "merges" in model:
        model["merges"] = [each for each in model["merges"] if _can_merge(each, kept)]


def _can_merge(merge: str | list[str], vocab: dict[str, int]) -> bool:
    """Whether both parts and what they become are tokens. Older files write a pair as one text."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first in vocab and second in vocab and first + second in vocab
