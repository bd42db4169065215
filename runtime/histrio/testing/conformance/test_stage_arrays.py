"""The array functions a backend offers to samplers mean what they mean on numpy."""

from __future__ import annotations

import numpy as np
import pytest

from histrio.testing.conformance.array_laws import ARRAY_LAWS, Values
from histrio.testing.conformance.subject import StageSubject

_MOST_ERROR = 1e-5


@pytest.mark.parametrize("name", ARRAY_LAWS)
def test_array_functions_mean_what_they_mean_on_numpy(subject: StageSubject, name: str) -> None:
    values = np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    values[0, 4:9] = -np.inf
    _, plain = ARRAY_LAWS[name]
    with np.errstate(divide="ignore"):
        expected = plain(values.copy())
    got = subject.reference.hosts[-1].computed(name, values.copy())

    assert got.shape == expected.shape
    assert _is_near(got, expected)
    assert not _is_near(got, np.roll(expected, 1, axis=-1) + 1), "a control: other values at other indices"


def _is_near(got: Values, expected: Values) -> bool:
    return bool(np.allclose(got.astype(np.float64), expected.astype(np.float64), atol=_MOST_ERROR, rtol=_MOST_ERROR))
