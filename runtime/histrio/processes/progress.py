"""How far the stages are with loading: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import IO

from tqdm import tqdm

__all__ = ["LoadingProgress"]

_log = logging.getLogger(__name__)

_STEP = 0.1
"""Least gain between two log lines of a stage."""
_BAR = "{desc} {percentage:3.0f}% |{bar:30}| {postfix}"


class LoadingProgress:
    """Shows the loading of `num_stages` stages; use it as a context manager, or `close` it.

    A stage that starts anew after a failure may fall back; the display follows.
    """

    def __init__(self, num_stages: int, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._fractions = [0.0] * num_stages
        self._logged = [-1.0] * num_stages
        self._bars: list[tqdm[None]] = []
        self._has_bars = self._stream.isatty()

    @property
    def fraction(self) -> float:
        """Mean over the stages, 0 to 1."""
        return sum(self._fractions) / len(self._fractions)

    def update(self, stage: int, fraction: float, text: str = "") -> None:
        """Stage `stage` has loaded `fraction` (0 to 1); `text` says what it is at."""
        fraction = min(max(fraction, 0.0), 1.0)
        if fraction < self._fractions[stage]:
            self._logged[stage] = -1.0
        self._fractions[stage] = fraction
        if self._has_bars:
            self._draw(stage, text)
        elif fraction >= self._logged[stage] + _STEP or (fraction == 1.0 > self._logged[stage]):
            self._logged[stage] = fraction
            _log.info("stage %d: %.0f %% loaded%s", stage, fraction * 100, f" ({text})" if text else "")

    def close(self) -> None:
        """Remove the bars. Safe to call twice."""
        for bar in self._bars:
            bar.close()
        self._bars.clear()

    def __enter__(self) -> LoadingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, stage: int, text: str) -> None:
        if not self._bars:
            self._bars = [self._bar(index) for index in range(len(self._fractions))]
        bar = self._bars[stage]
        bar.n = round(self._fractions[stage] * 100)
        bar.set_postfix_str(text[:40], refresh=False)
        bar.refresh()

    def _bar(self, stage: int) -> tqdm[None]:
        return tqdm(
            total=100,
            desc=f"stage {stage}",
            position=stage,
            file=self._stream,
            leave=False,
            bar_format=_BAR,
            mininterval=0,
        )
