"""How long a step will take, learned from how long steps took.

    seconds = c + b * tokens + a * pairs            pairs: (new token, token it attends to)

The second term is the linear layers, the third attention: a chunk of 512 tokens costs far more at position 32,000 than
at 0. Steps of about one size are remembered as one moving average, and the rates are fitted to these averages: so hours
of decoding do not wash out what is known of prompts.

Steps that verify drafts take longer than their tokens and pairs say: more logits, more draws, rows that differ. By how
much is learned apart, for each number of rows, as a share of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["CostModel", "attended_pairs"]

_FOLLOW = 0.3
"""Weight of the newest step in the average of its size."""
_FOLLOW_DECODING = 0.1
_FORGET_DRAFTED = 0.001
"""Per step without drafts, the learned extra cost of drafting decays by this share towards 0, so that drafting is
retried."""
_MOST_SURPRISE = 4.0
"""A step that takes more than this multiple of its average is taken for a stall, and counts as that much."""
_NUM_TRUSTED = 8
"""Predictions are used once so many steps were seen."""
_FIT_EVERY = 8
"""Steps between fits."""


@dataclass(slots=True)
class _Size:
    """Steps of about one size: averages of tokens, pairs and seconds."""

    num_tokens: float
    num_pairs: float
    seconds: float


def attended_pairs(start: int, num_tokens: int) -> float:
    """Pairs of a row whose first new token stands at `start`."""
    return num_tokens * (start + (num_tokens + 1) / 2)


class CostModel:
    """Seconds of a step from its tokens and pairs."""

    def __init__(self) -> None:
        self.num_seen = 0
        self._sizes: dict[tuple[int, int], _Size] = {}
        self.lag = 1.0
        """How many times as long as predicted the last steps with prompts took; at least 1. Averages lag while a
        prompt gets longer, and the decoding sequences beside it should not wait for that."""
        self._rates = (0.0, 0.0, 0.0)
        self._decoding: dict[int, tuple[float, float]] = {}
        """Bit length of the number of decoding rows → how many times as long as predicted their steps take, without and
        with drafts."""

    @property
    def is_trusted(self) -> bool:
        """Whether enough steps were seen."""
        return self.num_seen >= _NUM_TRUSTED

    def predict(self, num_tokens: int, num_pairs: float) -> float:
        """Predicted seconds of a step, never negative."""
        c, b, a = self._rates
        return c + b * num_tokens + a * num_pairs

    def plain_seconds(self, num_rows: int, num_pairs: float) -> float:
        """Seconds of a step of `num_rows` decoding rows without drafts, corrected by how such steps took."""
        plain, _ = self._decoding.get(num_rows.bit_length(), (1.0, 1.0))
        return self.predict(num_rows, num_pairs) * plain

    def surcharge(self, num_rows: int) -> float:
        """The share by which drafts make a step of `num_rows` decoding rows longer than its tokens and pairs do."""
        plain, drafted = self._decoding.get(num_rows.bit_length(), (1.0, 1.0))
        return min(max(drafted / plain - 1, 0.0), 1.0)

    def observe(self, num_tokens: int, num_pairs: float, seconds: float, num_drafts: int | None = None) -> None:
        """Learn that a step of this size took `seconds`. `num_drafts`: the drafts it verified, if it only decodes."""
        if self.is_trusted:
            factor = seconds / max(self.predict(num_tokens, num_pairs), 1e-9)
            if num_drafts is None:
                self.lag = max(1.0, self.lag + _FOLLOW * (min(factor, _MOST_SURPRISE) - self.lag))
            else:
                self._compare(num_tokens - num_drafts, factor, num_drafts)
        if num_drafts:
            return

        key = (num_tokens.bit_length(), int(num_pairs).bit_length())
        size = self._sizes.setdefault(key, _Size(num_tokens, num_pairs, seconds))
        seconds = min(seconds, _MOST_SURPRISE * size.seconds)
        size.num_tokens += _FOLLOW * (num_tokens - size.num_tokens)
        size.num_pairs += _FOLLOW * (num_pairs - size.num_pairs)
        size.seconds += _FOLLOW * (seconds - size.seconds)
        self.num_seen += 1
        if self.num_seen % _FIT_EVERY == 0:
            self._fit()

    def seconds_of_token(self, start: int) -> float:
        """Seconds that one more token at `start` adds to a step."""
        _, b, a = self._rates
        return b + a * (start + 1)

    def tokens_within(self, seconds: float, start: int) -> int:
        """How many further tokens of a row at `start` fit into `seconds` more of a step: b n + a n (start + n / 2)."""
        _, b, a = self._rates
        linear = b + a * (start + 0.5)
        if seconds <= 0:
            return 0
        if a <= 0:
            return int(min(seconds / linear, 2**31)) if linear > 0 else 2**31
        return int(min((math.sqrt(linear * linear + 2 * a * seconds) - linear) / a, 2**31))

    def _compare(self, num_rows: int, factor: float, num_drafts: int) -> None:
        """Learn that a step of `num_rows` decoding rows took `factor` times the prediction."""
        plain, drafted = self._decoding.get(num_rows.bit_length(), (factor, factor))
        factor = min(factor, _MOST_SURPRISE * plain)
        if num_drafts:
            drafted += _FOLLOW_DECODING * (factor - drafted)
        else:
            plain += _FOLLOW_DECODING * (factor - plain)
            drafted += _FORGET_DRAFTED * (plain - drafted)
        self._decoding[num_rows.bit_length()] = plain, drafted

    def _fit(self) -> None:
        """Least relative errors over all sizes, with no negative rate: a column that wants one is left out."""
        sizes = self._sizes.values()
        x = np.array([[1.0, size.num_tokens, size.num_pairs] for size in sizes])
        x /= np.array([[max(size.seconds, 1e-9)] for size in sizes])
        scale = np.maximum(np.abs(x).max(axis=0), 1e-12)
        used = [0, 1, 2]
        rates = np.zeros(3)
        while used:
            found = np.linalg.lstsq(x[:, used] / scale[used], np.ones(len(x)), rcond=None)[0] / scale[used]
            if (found >= 0).all():
                rates[used] = found
                break
            used.remove(used[int(np.argmin(found * scale[used]))])
        self._rates = (float(rates[0]), float(rates[1]), float(rates[2]))
