"""When two results are the same, and when a control has shown that they could have differed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_ERROR", "assert_differs", "assert_same", "error"]

MOST_ERROR = 1e-4
"""Most difference of logits in float32, as a share of the largest: kernels may add up in another order."""
_CLEARLY = 3 * MOST_ERROR

Array = npt.NDArray[Any]


def error(got: Array, expected: Array) -> float:
    """Largest difference as a share of the largest expected magnitude; infinite for what is no number."""
    assert got.shape == expected.shape, f"shape {got.shape} instead of {expected.shape}"
    differences = np.abs(got.astype(np.float64) - expected)
    return float(np.nan_to_num(differences, nan=np.inf).max() / np.abs(expected).max())


def assert_same(got: Array | None, expected: Array, what: str) -> None:
    """The logits are equal within `MOST_ERROR`."""
    assert got is not None, f"{what}: no logits came"
    found = error(got, expected)
    assert found <= MOST_ERROR, f"{what}: the logits differ by {found:.2g} of the largest; allowed {MOST_ERROR:g}"


def assert_differs(got: Array | None, expected: Array, control: str) -> None:
    """A control: what was disturbed shows clearly, so that sameness means something."""
    assert got is not None, f"{control}: no logits came"
    assert error(got, expected) > _CLEARLY, f"control: {control} changed nothing, so the test above proves nothing"
