"""A sampler that lives in one foreign file works through the hook, on every array namespace."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EtaLogitsWarper

from histrio.contracts.backend import ArrayNamespace
from histrio.errors import RequestError
from histrio.messages import Ask, Open
from histrio.plugins.registry import Plugins, installed_plugins
from histrio.stage.sampling.sampler_chain import SamplerChain

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "eta_sampler.py"
LOGITS = (np.random.default_rng(2).standard_normal((4, 200)) * 2).astype(np.float32)
LOGITS[3, 3:] = -np.inf


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eta_sampler", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plugins(module: ModuleType) -> Plugins:
    plugins = Plugins()
    plugins.add(module, "a foreign file")
    assert plugins.failed == []
    return plugins


def _kept(row: int, cutoff: float) -> Any:
    scores = EtaLogitsWarper(cutoff)(torch.zeros((1, 0), dtype=torch.long), torch.tensor(LOGITS[row : row + 1]))
    return scores[0].isfinite().numpy()


def test_installed_samplers_come_from_their_plugin() -> None:
    owners = installed_plugins().samplers.owners

    assert {"temperature", "top_k", "top_p", "min_p", "mirostat"} <= owners.keys()
    assert "eta" not in owners


def test_its_field_is_known_once_the_file_is_registered(plugins: Plugins) -> None:
    installed = list(installed_plugins().samplers)
    chain = SamplerChain([*installed, *plugins.samplers], max_slots=1)

    chain.fields.check({"eta_cutoff": 0.1, "temperature": 0.5})
    with pytest.raises(RequestError, match="eta_cutoff must be a number at least 0 and below 1"):
        chain.fields.check({"eta_cutoff": 1.5})
    with pytest.raises(RequestError):
        SamplerChain(installed, max_slots=1).fields.check({"eta_cutoff": 0.1})


@pytest.mark.parametrize("cutoff", [0.3, 0.02, 3e-4])
def test_it_keeps_what_transformers_keeps(
    plugins: Plugins, xp: ArrayNamespace, shape: Callable[..., Any], cutoff: float
) -> None:
    own = {"eta_cutoff": cutoff}

    shaped = shape(xp, list(plugins.samplers), LOGITS, [own, own, {}, own])

    for row in (0, 1, 3):
        assert np.array_equal(np.isfinite(shaped[row]), _kept(row, cutoff))
        assert 0 < _kept(0, cutoff).sum() < 200
    assert np.array_equal(shaped[2], LOGITS[2])


def test_rows_that_ask_draw_from_what_stays_and_others_from_all(plugins: Plugins, xp: ArrayNamespace) -> None:
    kept = _kept(0, 0.02)
    chain = SamplerChain(list(plugins.samplers), max_slots=2)
    chain.open(Open(0, [], 0, Ask({"eta_cutoff": 0.02}, seed=1), 1))
    chain.open(Open(1, [], 0, Ask(seed=1), 1))
    logits, positions = xp.asarray(np.repeat(LOGITS[:1], 600, axis=0)), np.arange(600) // 2

    ids = np.array(chain.sample(xp, logits, np.arange(600) % 2, positions).ids)

    assert set(ids[0::2]) <= set(np.flatnonzero(kept))
    assert not set(ids[1::2]) <= set(np.flatnonzero(kept))
