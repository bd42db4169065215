"""Waiting threads are made passive before torch loads, and only then."""

from __future__ import annotations

import os
import sys

import pytest

from histrio_torch.omp import bound_spinning


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has neither settings nor torch."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    # Set first, so that it is restored even where it wasn't set.
    monkeypatch.setenv("OMP_WAIT_POLICY", "x")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    return monkeypatch


@pytest.mark.usefixtures("before_torch")
def test_threads_wait_passively_by_default() -> None:
    assert bound_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_setting_of_the_users_own_is_kept(before_torch: pytest.MonkeyPatch, name: str) -> None:
    before_torch.setenv(name, "7")
    assert not bound_spinning()
    assert os.environ[name] == "7"
    assert name == "OMP_WAIT_POLICY" or "OMP_WAIT_POLICY" not in os.environ


def test_it_is_too_late_once_torch_is_there(before_torch: pytest.MonkeyPatch) -> None:
    before_torch.setitem(sys.modules, "torch", sys)
    assert not bound_spinning()
    assert "OMP_WAIT_POLICY" not in os.environ
