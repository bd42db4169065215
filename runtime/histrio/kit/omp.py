"""How long OpenMP threads spin at a barrier; import this before torch, in every process that computes.

libgomp spins without end by default. Beside one busy neighbour on two cores that turned a product of 0.12 ms into one
of seconds. Not spinning at all costs a wake-up at each barrier of a step: measured on two quiet cores,
0.6 B parameters in bf16, a decode step of one row took 52 ms, with a bounded spin 38 ms. Beside two busy neighbours
the bounded spin loses (80 ms against 49 ms) and does not collapse; `OMP_WAIT_POLICY=PASSIVE` is for such machines.
"""

from __future__ import annotations

import os
import sys

__all__ = ["bound_spinning"]

_USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPIN_COUNT = "10000"
"""Rounds of libgomp's waiting loop."""


def bound_spinning() -> bool:
    """Bound how long OpenMP threads of this process spin; returns whether the environment was changed.

    A setting of the user's own is kept. The library reads it while torch loads, so once torch is imported nothing
    is changed: call it first. OpenMP libraries other than libgomp have no such bound; there threads sleep.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _USER_SETTINGS):
        return False

    if sys.platform == "linux":
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    else:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True
