"""The log probabilities of a whole vocabulary as JSON: what is the same for every token of an answer is written once.

A vocabulary of 150,000 tokens makes some 10 MB of JSON beside each token of an answer. So no object is made of an
entry: arrays of bytes are put into order, and joined piece by piece, so that no call holds the interpreter's lock for
more than some 10 ms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from histrio_api.text.token_bytes import shown_bytes

__all__ = ["LEAST_LOGPROB", "VocabularyJson", "likeliest"]

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say; the same number that OpenAI uses."""

_PIECE_ROWS = 16_384

_Texts: TypeAlias = npt.NDArray[np.object_]
"""[tokens] bytes of JSON."""


class VocabularyJson:
    """Of one tokenizer, for packed log probabilities: `count` of the likeliest, these first. Used by one thread."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._texts = _objects([])
        self._kept: dict[str, tuple[_Texts, _Texts]] = {}
        self._is_shared = np.zeros(0, np.bool_)
        """Of tokens whose text is another's too."""

    def entries(self, packed: bytes, count: int) -> Iterator[bytes]:
        """A list of `TopLogprob`."""
        ids, values = self._sorted(packed, count)
        before, after = self._around("entries", self._entry_parts)
        return _pieces(b"[", [before[ids], values, after[ids]], b"]")

    def by_text(self, packed: bytes, count: int, token_id: int, logprob: float) -> Iterator[bytes]:
        """An object from texts to log probabilities. Of several ids that read the same the chosen one stands there, or
        else the likeliest."""
        ids, values = self._sorted(packed, count)
        own = self._texts[token_id]
        first = dict.fromkeys([own] * int(token_id in ids), int(np.argmax(ids == token_id)))
        # Where in `ids` a text comes first: of the token itself, and of shared ones.
        kept = np.ones(len(ids), np.bool_)
        seen: set[bytes] = set()
        for place in np.flatnonzero(self._is_shared[ids]).tolist():
            text = self._texts[ids[place]]
            kept[place] = text not in seen
            if text not in seen:
                first[text] = place
            seen.add(text)
        names = self._texts[ids]
        said = _objects([msgspec.json.encode(max(logprob, LEAST_LOGPROB))])
        if own in first:
            values[first[own]] = said[0]
        else:
            names, values, kept = np.append(names, _objects([own])), np.append(values, said), np.append(kept, True)
        colons = _objects([b":"] * int(kept.sum()))
        return _pieces(b"{", [names[kept], colons, values[kept]], b"}")

    def by_id(self, packed: bytes, count: int, token_id: int, rank: int) -> Iterator[bytes]:
        """An object from ids to `PromptLogprob`; first the token's own, whose `rank` counts where it is not among the
        likeliest."""
        ids, values = self._sorted(packed, count)
        found = np.flatnonzero(ids == token_id)
        own = np.frombuffer(packed, "<f4")[token_id : token_id + 1]
        ranks = np.append(found[0] + 1 if len(found) else rank, np.delete(np.arange(1, len(ids) + 1), found))
        ids = np.append(token_id, np.delete(ids, found))
        values = np.append(_numbers(own), np.delete(values, found))
        before, after = self._around("by id", self._place_parts)
        said = _objects(msgspec.json.encode(ranks.tolist())[1:-1].split(b","))
        between = _objects([b',"rank":'] * len(ids))
        return _pieces(b"{", [before[ids], values, between, said, after[ids]], b"}")

    def _sorted(self, packed: bytes, count: int) -> tuple[npt.NDArray[np.intp], _Texts]:
        ids, values = likeliest(packed, count)
        self._know(len(packed) // 4)
        return ids, _numbers(values)

    def _know(self, num_tokens: int) -> None:
        """Write every token's text, the first time."""
        if len(self._texts) >= num_tokens:
            return

        self._kept.clear()
        self._texts = _objects([msgspec.json.encode(shown_bytes(self._bytes_of(each))) for each in range(num_tokens)])
        texts = self._texts.tolist()
        counts = Counter(texts)
        self._is_shared = np.array([counts[text] > 1 for text in texts], np.bool_)

    def _around(self, name: str, parts: Callable[[int], tuple[bytes, bytes]]) -> tuple[_Texts, _Texts]:
        """What stands before and after each token's log probability."""
        if name not in self._kept:
            before, after = zip(*map(parts, range(len(self._texts))), strict=True)
            self._kept[name] = _objects(before), _objects(after)
        return self._kept[name]

    def _entry_parts(self, token_id: int) -> tuple[bytes, bytes]:
        values = msgspec.json.encode(list(self._bytes_of(token_id)))
        return b'{"token":' + self._texts[token_id] + b',"logprob":', b',"bytes":' + values + b"}"

    def _place_parts(self, token_id: int) -> tuple[bytes, bytes]:
        return b'"%d":{"logprob":' % token_id, b',"decoded_token":' + self._texts[token_id] + b"}"


def likeliest(packed: bytes, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The ids of `count` of the likeliest tokens, these first, and their log probabilities."""
    values = np.frombuffer(packed, "<f4")
    ids = np.argsort(-values, kind="stable")[:count]
    return ids, values[ids]


def _numbers(values: npt.NDArray[np.float32]) -> _Texts:
    said = np.maximum(values, np.float32(LEAST_LOGPROB)).tolist()
    return _objects(msgspec.json.encode(said)[1:-1].split(b","))


def _objects(values: Sequence[bytes]) -> _Texts:
    found: _Texts = np.empty(len(values), np.object_)
    found[:] = values
    return found


def _pieces(opening: bytes, columns: Sequence[_Texts], closing: bytes) -> Iterator[bytes]:
    """Rows after each other, with commas between them."""
    width = len(columns) + 1
    for start in range(0, len(columns[0]), _PIECE_ROWS):
        rows = [column[start : start + _PIECE_ROWS].tolist() for column in columns]
        pieces: list[bytes] = [b","] * (width * len(rows[0]))
        for at, row in enumerate(rows):
            pieces[at + 1 :: width] = row
        pieces[0] = b"," if start else opening
        yield b"".join(pieces)
    yield closing
