"""Changing the logits of a few tokens per row, at a cost that does not depend on the vocabulary.

Rows have different numbers of tokens, arrays do not: shorter rows repeat their last token, which then gets the same
value once more. A row without tokens gets token 0 with a value that does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace

__all__ = ["Edits", "add_to", "padded"]

Edits: TypeAlias = Mapping[int, tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]
"""Row → its distinct tokens, and a number for each. Ids beyond the vocabulary name no token and are left out."""


def add_to(xp: ArrayNamespace, logits: Array, edits: Edits) -> Array:
    """Add numbers to the logits of some tokens, in place; -inf removes a token."""
    if not edits:
        return logits

    tokens, values = padded(edits, logits.shape, neutral=0)
    indices = xp.asarray(tokens)
    return xp.put_along(logits, indices, xp.take_along(logits, indices) + xp.asarray(values))


def padded(
    edits: Edits, shape: tuple[int, int], neutral: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The tokens and numbers of all rows of logits [rows, vocab], both [rows, most of a row]."""
    num_rows, vocab = shape
    width = max((len(tokens) for tokens, _ in edits.values()), default=0)
    all_tokens = np.zeros((num_rows, max(width, 1)), np.int64)
    all_values = np.full(all_tokens.shape, neutral, np.float32)
    for row, (tokens, values) in edits.items():
        count = len(tokens)
        if count > 0:
            all_tokens[row, :count] = tokens
            all_values[row, :count] = values
            if count < width:
                all_tokens[row, count:] = tokens[-1]
                all_values[row, count:] = values[-1]

    if all_tokens.max() < vocab:
        return all_tokens, all_values
    return padded(_known(edits, vocab), shape, neutral)


def _known(edits: Edits, vocab: int) -> Edits:
    """The edits whose ids are in the vocabulary."""
    masks = {row: tokens < vocab for row, (tokens, _) in edits.items()}
    return {row: (tokens[masks[row]], values[masks[row]]) for row, (tokens, values) in edits.items()}
