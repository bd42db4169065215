"""A sampler that lives in one foreign file works through the hook, on every array namespace."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper

from histrio.backend import ArrayNamespace
from histrio.errors import RequestError
from histrio.plugins import Plugins, installed_plugins
from histrio.sampler_chain import SamplerChain

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "min_p_sampler.py"


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("min_p_sampler", EXAMPLE)
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


def test_installed_samplers_come_from_their_plugin() -> None:
    owners = installed_plugins().samplers.owners

    assert {"temperature", "top_k", "top_p"} <= owners.keys()
    assert "min_p" not in owners


def test_its_field_is_known_once_the_file_is_registered(plugins: Plugins) -> None:
    installed = list(installed_plugins().samplers)
    chain = SamplerChain([*installed, *plugins.samplers], max_rows=1)

    chain.fields.check({"min_p": 0.1, "temperature": 0.5})
    with pytest.raises(RequestError, match="min_p must be a number at least 0 and at most 1"):
        chain.fields.check({"min_p": 1.5})
    with pytest.raises(RequestError):
        SamplerChain(installed, max_rows=1).fields.check({"min_p": 0.1})


def test_it_draws_only_from_what_transformers_keeps(plugins: Plugins, xp: ArrayNamespace) -> None:
    row = (np.random.default_rng(2).standard_normal(200) * 2).astype(np.float32)
    kept = MinPLogitsWarper(0.2)(torch.zeros((1, 0), dtype=torch.long), torch.tensor(row[None]))[0].isfinite().numpy()
    chain = SamplerChain(list(plugins.samplers), max_rows=2)
    chain.open(0, {"min_p": 0.2}, [], 0, seed=1, choice=0)
    chain.open(1, {}, [], 0, seed=1, choice=0)
    logits, positions = xp.asarray(np.repeat(row[None], 600, axis=0)), np.arange(600) // 2

    ids = np.array(chain.sample(xp, logits, np.arange(600) % 2, positions))

    assert set(ids[0::2]) == set(np.flatnonzero(kept))
    assert not set(ids[1::2]) <= set(np.flatnonzero(kept))
