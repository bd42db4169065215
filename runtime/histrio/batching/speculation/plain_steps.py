"""What a decoding step without drafts takes, for each number of rows: the measure for steps with drafts.

    seconds = predicted by size * factor + waiting      waiting: between two results while no stage computes

The prediction (`cost.py`) follows the context as it grows; the factor is what it misses at so many rows, and how fast
the machine is now. Waiting is the runtime's own work between steps. It is less with async scheduling, which sequences
that may have drafts prevent: so this cost of drafts is seen, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from histrio.batching.speculation.cost import CostModel

__all__ = ["PlainSteps"]

_FOLLOW = 0.08
"""Weight of the newest step."""
_NUM_MEASURED_FIRST = 4
_MOST_LEFT_OUT = 16
"""When the number of rows is new, so many steps are measured before anything is drafted: else there is nothing to
compare with. For no more than `_MOST_LEFT_OUT` steps, because where prompts come all the time none can be measured."""
_MOST_SURPRISE = 4.0
"""A step that takes more than this multiple of what it usually takes is taken for a stall, and counts as that much."""


@dataclass(slots=True)
class _Usual:
    """Of steps of about so many rows."""

    factor: float = 1.0
    waiting_s: float = 0.0
    num_measured: int = 0
    """Steps of which the waiting is known."""
    num_left_out: int = 0


class PlainSteps:
    """Averages by the bit length of the number of rows."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._usual: dict[int, _Usual] = {}

    def must_measure(self, num_rows: int) -> bool:
        """Whether nothing shall be drafted for the next step, of `num_rows`, so that it can be measured; counted."""
        usual = self._of(num_rows)
        if usual.num_measured >= _NUM_MEASURED_FIRST or usual.num_left_out >= _MOST_LEFT_OUT:
            return False

        usual.num_left_out += 1
        return True

    def busy_s(self, num_rows: int, num_pairs: float) -> float:
        """Seconds that such a step keeps the stages busy, more than zero."""
        return max(self._cost.predict(num_rows, num_pairs) * self._of(num_rows).factor, 1e-9)

    def share_longer(self, num_rows: int, num_pairs: float, busy_s: float, waiting_s: float) -> float:
        """By which share of a step without drafts a step with these times was longer."""
        usual = self._of(num_rows)
        waited = waiting_s - usual.waiting_s if usual.num_measured else 0.0
        return (busy_s + waited) / self.busy_s(num_rows, num_pairs) - 1

    def observe_busy(self, num_rows: int, num_pairs: float, busy_s: float) -> None:
        """A step without drafts kept the stages busy for so long."""
        usual = self._of(num_rows)
        factor = busy_s / max(self._cost.predict(num_rows, num_pairs), 1e-9)
        usual.factor += _FOLLOW * (min(factor, _MOST_SURPRISE * usual.factor) - usual.factor)

    def observe_waiting(self, num_rows: int, waiting_s: float, busy_s: float) -> None:
        """Nothing was drafted for a step that kept the stages busy for `busy_s`, `waiting_s` after the one before."""
        usual = self._of(num_rows)
        usual.num_measured += 1
        weight = max(_FOLLOW, 1 / usual.num_measured)
        usual.waiting_s += weight * (min(waiting_s, _MOST_SURPRISE * busy_s) - usual.waiting_s)

    def _of(self, num_rows: int) -> _Usual:
        return self._usual.setdefault(num_rows.bit_length(), _Usual())
