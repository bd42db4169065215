"""A model folder and plugins that exist on paper only: enough to plan with, nothing to run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from histrio.contracts.backend import (
    Array,
    ArrayNamespace,
    Capability,
    Probe,
    StageSpec,
    Traits,
)
from histrio.contracts.first_contract import FirstBackendFactory, StageBackend
from histrio.contracts.hooks import EdgeContext, EdgeService, hookimpl
from histrio.contracts.sampler import LogitsRows, Opening, Sampler
from histrio.plugins.registry import Plugins
from histrio.policies import builtin as builtin_policies

CONFIG = {
    "architectures": ["PaperForCausalLM"],
    "num_hidden_layers": 6,
    "vocab_size": 64,
    "max_position_embeddings": 100_000,
    "eos_token_id": 2,
}


class PaperFactory:
    """Answers what it is told to, and remembers what it was asked."""

    name = "torch"
    traits = Traits(contract=1)

    def __init__(self) -> None:
        self.machine = Probe(available=True, devices=["paper:0"])
        self.model = Probe(available=True)
        self.probed_model: Probe | None = None
        """What it says of a model once it was probed, where that is something else."""
        self.capabilities_from: dict[int, list[Capability]] = {}
        """First layer of a stage → what it is capable of."""
        self.num_probes = 0
        self.asked: list[tuple[str, int, int]] = []

    def probe(self) -> Probe:
        self.num_probes += 1
        return self.machine

    def supports(self, spec: StageSpec) -> Probe:
        self.asked.append((spec.model, spec.first_layer, spec.last_layer))
        model = self.probed_model if self.probed_model and self.num_probes else self.model
        capabilities = self.capabilities_from.get(spec.first_layer, model.capabilities)
        return msgspec.structs.replace(model, capabilities=capabilities)

    def create(self) -> StageBackend:
        raise AssertionError("planning started a backend")


class EngineFields(msgspec.Struct, frozen=True):
    """What the paper engine honours."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


class PaperEngineFactory(PaperFactory):
    """An engine in the same way."""

    name = "paper-engine"
    traits = Traits(contract=1, level="engine")
    fields: type[msgspec.Struct] = EngineFields

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        return False

    def create(self) -> Any:
        raise AssertionError("planning started an engine")


class _Params(msgspec.Struct, frozen=True):
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Temperature:
    name: ClassVar[str] = "temperature"
    order: ClassVar[int] = 100
    params: ClassVar[type[msgspec.Struct]] = _Params

    def __init__(self, max_slots: int) -> None:
        return

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        return False

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        return logits


class _Settings(msgspec.Struct, frozen=True, rename="kebab"):
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 3001
    api_keys: list[Annotated[str, msgspec.Meta(min_length=1)]] = []


class _Edge:
    name = "api"
    settings = _Settings

    async def run(self, context: EdgeContext) -> None:
        raise AssertionError("planning started a service")


class PaperPlugin:
    """Implements every hook."""

    def __init__(self, factory: PaperFactory, engine: PaperEngineFactory) -> None:
        self.factory = factory
        self.engine = engine

    @hookimpl
    def register_backends(self, register: Callable[[FirstBackendFactory], None]) -> None:
        register(self.factory)
        register(self.engine)

    @hookimpl
    def register_samplers(self, register: Callable[[type[Sampler]], None]) -> None:
        register(_Temperature)

    @hookimpl
    def register_edges(self, register: Callable[[EdgeService], None]) -> None:
        register(_Edge())


@pytest.fixture
def factory() -> PaperFactory:
    return PaperFactory()


@pytest.fixture
def engine() -> PaperEngineFactory:
    return PaperEngineFactory()


@pytest.fixture
def plugins(factory: PaperFactory, engine: PaperEngineFactory) -> Plugins:
    found = Plugins()
    found.add(PaperPlugin(factory, engine), "paper [paper 1.0]")
    found.add(builtin_policies, "policies [histrio 1.0]")
    assert (found.failed, found.defects) == ([], [])
    return found


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model folder; arguments are keys of config.json, `generation` is generation_config.json."""

    def write(generation: dict[str, Any] | None = None, *, weights: bool = True, **changes: Any) -> Path:
        folder = tmp_path / "paper-model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))
        if generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(generation))
        if weights:
            tensors = {f"model.layers.{i}.w": np.zeros(2**18, np.float32) for i in range(6)}
            tensors |= {"model.embed_tokens.weight": np.zeros((64, 2**12), np.float32)}
            save_file(tensors, folder / "model.safetensors")
        return folder

    return write
