"""How much a tokenizer may make of a text: steps that each double it would fill the memory with the first request."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.model_files import read_model_text
from histrio.errors import UnsupportedModel

__all__ = ["check_growth"]

_MOST_FILE_BYTES = 512 * 2**20
_MOST_STEPS = 64
_MOST_GROWTH = 2_000
"""Unicode's longest compatibility form has 18 characters, and some tokenizers normalise twice."""
_UNICODE_GROWTH = {"NFKC": 18, "NFKD": 18, "NFC": 4, "NFD": 4, "Lowercase": 3, "BertNormalizer": 3}


class _Parts(msgspec.Struct):
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    decoder: Any = None


def check_growth(file: Path) -> None:
    """Raise `UnsupportedModel`, with file and key, for a tokenizer.json whose steps multiply a text."""
    try:
        parts = msgspec.json.decode(read_model_text(file, _MOST_FILE_BYTES), type=_Parts)
    except RecursionError:
        raise UnsupportedModel(f"{file} is nested too deep") from None
    except msgspec.MsgspecError as error:
        raise UnsupportedModel(f"{file} is not a tokenizer file: {error}") from None

    for key in _Parts.__struct_fields__:
        steps = list(_steps(getattr(parts, key)))
        if len(steps) > _MOST_STEPS:
            raise UnsupportedModel(f"{file}: {key} has more than {_MOST_STEPS} steps")
        if key in ("normalizer", "decoder") and math.prod(map(_growth, steps)) > _MOST_GROWTH:
            raise UnsupportedModel(f"{file}: the steps of {key} can make a text more than {_MOST_GROWTH} times as long")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A part of the file, step by step."""
    if not isinstance(part, dict):
        return
    inner = [each for value in part.values() if isinstance(value, list) for each in value if isinstance(each, dict)]
    if part.get("type") == "Sequence":
        for each in inner:
            yield from _steps(each)
    else:
        yield part


def _growth(step: dict[str, Any]) -> float:
    """How many characters can come of one."""
    kind = str(step.get("type"))
    if kind == "Replace":
        pattern, content = step.get("pattern"), str(step.get("content") or "")
        text = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(content) / len(text)) if isinstance(text, str) and text else 1.0 + len(content)
    if kind == "Precompiled":
        return _longest_replacement(str(step.get("precompiled_charsmap") or ""))
    return _UNICODE_GROWTH.get(kind, 1)


def _longest_replacement(charsmap: str) -> int:
    """SentencePiece's table: the size of a trie, the trie, and texts that each end in a zero."""
    try:
        table = base64.b64decode(charsmap)
    except ValueError:
        return 1  # the library will refuse it
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max((len(text.decode(errors="replace")) for text in texts.split(b"\0")), default=1) or 1
