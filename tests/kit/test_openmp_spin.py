"""Waiting threads are bounded before torch loads, and only then."""

from __future__ import annotations

import os
import sys

import pytest

from histrio.kit.omp import bound_spinning

SETTINGS = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"]


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has neither settings nor torch."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in SETTINGS:
        # Set first, so that it is restored even where it wasn't set.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    return monkeypatch


def test_threads_spin_for_a_bounded_time_where_that_can_be_said(before_torch: pytest.MonkeyPatch) -> None:
    before_torch.setattr(sys, "platform", "linux")
    assert bound_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    assert "OMP_WAIT_POLICY" not in os.environ


def test_threads_sleep_elsewhere(before_torch: pytest.MonkeyPatch) -> None:
    before_torch.setattr(sys, "platform", "darwin")
    assert bound_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_users_own_is_kept(before_torch: pytest.MonkeyPatch, name: str) -> None:
    before_torch.setenv(name, "7")
    assert not bound_spinning()
    assert {setting: os.environ.get(setting) for setting in SETTINGS} == dict.fromkeys(SETTINGS) | {name: "7"}


def test_it_is_too_late_once_torch_is_there(before_torch: pytest.MonkeyPatch) -> None:
    before_torch.setitem(sys.modules, "torch", sys)
    assert not bound_spinning()
    assert not any(setting in os.environ for setting in SETTINGS)
