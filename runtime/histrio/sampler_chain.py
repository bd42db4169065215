"""From logits to tokens on the last stage: a chain of samplers, then one draw per row.

A row's token depends on that row alone: its logits, its request fields and its (seed, choice, position). Whatever is
decided for a row is decided from the row, never from the batch it happens to be in. Rows whose temperature is 0 are
greedy: penalties and biases, then argmax and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.backend import Array, ArrayNamespace
from histrio.draw import draw
from histrio.sampling import Sampler, Slots, uniform
from histrio.sampling_fields import FieldTable

__all__ = ["SamplerChain"]

Positions = npt.NDArray[Any]

_FIRST_SHAPING_ORDER = 100
"""Samplers from here on shape a distribution, which means nothing to an argmax; those below change the logits."""

_MAX_CHUNK_VALUES = 2**21
"""Logits sampled at once: temporaries of 8 MB stay in the cache and reuse memory; larger ones are page faults."""


class SamplerChain:
    """The samplers of one last stage with their per-slot state, and the draws.

    `samplers` are classes in any order, `max_rows` is the number of slots. Raises `PluginError` as `FieldTable` does.
    """

    def __init__(self, samplers: Sequence[type[Sampler]], max_rows: int) -> None:
        self.fields = FieldTable(samplers)
        ordered = [kind(max_rows) for kind in sorted(samplers, key=lambda kind: (kind.order, kind.name))]
        self._changing = [sampler for sampler in ordered if sampler.order < _FIRST_SHAPING_ORDER]
        self._shaping = [sampler for sampler in ordered if sampler.order >= _FIRST_SHAPING_ORDER]
        self._is_open = np.zeros(max_rows, np.bool_)
        self._is_greedy = np.zeros(max_rows, np.bool_)
        self._seeds = np.zeros(max_rows, np.uint64)
        self._choices = np.zeros(max_rows, np.uint32)

    def open(
        self, slot: int, sampling: Mapping[str, Any], ids: list[int], num_prompt_tokens: int, seed: int, choice: int
    ) -> None:
        """A sequence takes the slot; `RequestError` for a field that no sampler here knows, or out of its bounds.

        A temperature of 0 is known without any sampler. `seed` is taken modulo 2^64.
        """
        is_greedy = sampling.get("temperature") == 0
        if is_greedy:
            sampling = {field: value for field, value in sampling.items() if field != "temperature"}

        self.fields.check(sampling)
        for sampler in (*self._changing, *self._shaping):
            sampler.open(slot, self.fields.params(type(sampler), sampling), ids, num_prompt_tokens)

        self._is_open[slot] = True
        self._is_greedy[slot] = is_greedy
        self._seeds[slot] = seed % 2**64
        self._choices[slot] = choice

    def close(self, slot: int) -> None:
        """The slot is free. Closing a free slot does nothing."""
        self._is_open[slot] = False

    def sample(self, xp: ArrayNamespace, logits: Array, slots: Slots, positions: Positions) -> list[int]:
        """One token per row of `logits` [rows, vocab], which stay as they are.

        `slots` [rows] names the sequence of each row, `positions` [rows] the index in it of the token to be drawn.
        Raises `BackendError` if a row to be drawn from has no distribution.
        """
        assert self._is_open[slots].all(), "a row is sampled whose slot is closed"
        is_greedy = self._is_greedy[slots]
        logits = _apply(self._changing, xp, logits, slots)
        if is_greedy.all():
            return _ints(xp.to_host(xp.argmax(logits)))

        tokens = xp.to_host(xp.argmax(logits)).copy() if is_greedy.any() else np.zeros(len(slots), np.int64)
        for rows, chunk in _chunks(xp, logits, np.flatnonzero(~is_greedy)):
            tokens[rows] = self._draw(xp, chunk, slots[rows], positions[rows])
        return _ints(tokens)

    def _draw(self, xp: ArrayNamespace, logits: Array, slots: Slots, positions: Positions) -> npt.NDArray[Any]:
        """Shape the distributions of these rows, then draw from each with its own number."""
        shaped = _apply(self._shaping, xp, xp.float32(logits), slots)
        return draw(xp, shaped, uniform(self._seeds[slots], self._choices[slots], positions.astype(np.uint32)))


def _apply(samplers: list[Sampler], xp: ArrayNamespace, logits: Array, slots: Slots) -> Array:
    """Run those samplers that any of the rows wants, on float32."""
    for sampler in samplers:
        if sampler.needed(slots):
            logits = sampler.apply(xp, xp.float32(logits), slots)
    return logits


def _chunks(xp: ArrayNamespace, logits: Array, rows: Slots) -> Iterator[tuple[Slots, Array]]:
    """The given rows of the logits, a few at a time."""
    num_rows, vocab = logits.shape
    chunk_rows = max(1, _MAX_CHUNK_VALUES // vocab)
    for start in range(0, len(rows), chunk_rows):
        chunk = rows[start : start + chunk_rows]
        is_every_row = len(rows) == num_rows
        yield chunk, logits[start : start + chunk_rows] if is_every_row else xp.take_rows(logits, chunk)


def _ints(tokens: npt.NDArray[Any]) -> list[int]:
    """Plain ints, as messages carry them."""
    return [int(token) for token in tokens]
