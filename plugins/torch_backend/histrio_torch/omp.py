"""How long OpenMP threads spin at a barrier; import this before torch, in every process that computes.

libgomp spins without end by default. Beside one busy neighbour on two cores that turned a product of 0.12 ms into one
of seconds, so waiting is made passive unless the user has said otherwise.
"""

from __future__ import annotations

import os
import sys

__all__ = ["bound_spinning"]

_USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def bound_spinning() -> bool:
    """Make OpenMP threads of this process sleep instead of spin; returns whether the environment was changed.

    A setting of the user's own is kept. The library reads it while torch loads, so once torch is imported nothing
    is changed: call it first.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _USER_SETTINGS):
        return False

    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True
