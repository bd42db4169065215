"""Array namespaces that every sampler test runs on."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from histrio.arrays import NumpyArrays
from histrio.backend import ArrayNamespace
from histrio_torch.arrays import TorchArrays


@pytest.fixture(params=["numpy", "torch"])
def xp(request: pytest.FixtureRequest) -> ArrayNamespace:
    """Numpy, and torch on the CPU."""
    return NumpyArrays() if request.param == "numpy" else TorchArrays("cpu")
