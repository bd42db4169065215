"""Whether two models mean the same by a token id, as their tokenizer.json files tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from histrio.errors import ModelError

__all__ = ["difference", "read_vocabulary"]

_LEAST_KNOWN = 0.9
"""Least share of the target's tokens that the draft model must know: texts with other tokens are not drafted for."""


class _Model(msgspec.Struct):
    vocab: Any = None


class _File(msgspec.Struct):
    model: _Model


def read_vocabulary(folder: Path) -> dict[int, str]:
    """Id → text of all ordinary tokens; those that were added to them, such as the marks of a chat, may differ from one
    model of a family to the next. Raises `ModelError`."""
    file = folder / "tokenizer.json"
    try:
        vocab = msgspec.json.decode(file.read_bytes(), type=_File).model.vocab
    except FileNotFoundError:
        raise ModelError(f"{folder} has no tokenizer.json, so its tokens cannot be compared") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not a tokenizer file: {error}") from None

    if isinstance(vocab, dict):
        return {number: text for text, number in vocab.items()}
    if isinstance(vocab, list):  # Unigram: pairs of text and score
        return {number: entry[0] for number, entry in enumerate(vocab)}
    raise ModelError(f"{file} lists no tokens")


def difference(target: Mapping[int, str], draft: Mapping[int, str]) -> str:
    """Why the draft model's tokens are not those of the target, in words; empty where it may draft for it."""
    shared = target.keys() & draft.keys()
    first = min((number for number in shared if target[number] != draft[number]), default=None)
    if first is not None:
        return f"token {first} is {draft[first]!r} there and {target[first]!r} here"
    if len(shared) < _LEAST_KNOWN * len(target):
        return f"it knows {len(shared)} of {len(target)} tokens"
    return ""
