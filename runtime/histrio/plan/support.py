"""What can be said of a plan's stages without loading any library: the backend exists and knows keys and model."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from histrio.config.settings import BatchingSettings, SpeculationSettings
from histrio.config.topology import EngineTable, StageTable
from histrio.contracts.backend import Capability, Traits
from histrio.contracts.options import NoOptions, with_options
from histrio.errors import PluginError, TopologyError, UnsupportedModel
from histrio.plan.plans import StagePlan
from histrio.plan.probe import traits_in
from histrio.plugins.asked import asked
from histrio.plugins.registry import Plugins

__all__ = [
    "backend_traits",
    "check_adapter",
    "check_engine_keys",
    "check_kv_cache_dtype",
    "check_support",
    "interpreter",
]

_ENGINES_OWN = {
    "cuts prompts": ["chunked_prefill_size", "step_budget_ms"],
    "plans its steps": [
        "micro_batch_ratio",
        "prefill_priority",
        "scheduler_wait_ms",
        "enable_preemption",
        "preemption_threshold",
        "batching_policy",
        "batching_policy_options",
    ],
    "keeps its cache": ["prefix_cache"],
    "drafts tokens": [
        "drafter",
        "drafter_options",
        "speculation_length",
        "min_speculation",
        "max_speculation",
        "adaptive",
    ],
}
"""What a whole engine does in its own way → the fields of `[engine]` that would say how."""


def backend_traits(stages: list[StageTable], plugins: Plugins) -> list[Traits]:
    """What kind of backend each stage has; the stage's own interpreter is asked once for a name that is not known here.

    Raises `TopologyError`, and `BackendError` where an interpreter does not know it either.
    """
    foreign: dict[tuple[str, str], Traits] = {}
    traits = []
    for index, stage in enumerate(stages):
        python = interpreter(stage, index)
        if python is None or stage.backend in plugins.backends:
            traits.append(_known_traits(stage, index, plugins))
            continue
        key = (python, stage.backend)
        if key not in foreign:
            foreign[key] = traits_in(*key)
        if foreign[key].level == "engine":
            raise TopologyError(
                f"stage[{index}].backend",
                f"{stage.backend!r} is a whole engine: install its plugin, which is small, beside this histrio as "
                "well, because it says which request fields the engine honours",
            )
        traits.append(foreign[key])
    return traits


def _known_traits(stage: StageTable, index: int, plugins: Plugins) -> Traits:
    try:
        return plugins.backends.get(stage.backend).traits
    except PluginError as error:
        raise TopologyError(f"stage[{index}].backend", str(error)) from None


def interpreter(stage: StageTable, index: int) -> str | None:
    """The interpreter of the stage's own environment as an absolute path; None: this one. Raises `TopologyError`."""
    if stage.python is None:
        return None

    file = Path(stage.python).expanduser()
    if not (file.is_file() and os.access(file, os.X_OK)):
        raise TopologyError(f"stage[{index}].python", f"{stage.python} is not an executable file")
    return str(file.absolute())


def check_adapter(adapter: str | None, stages: list[StageTable], traits: list[Traits]) -> None:
    """Every stage's backend can apply it, and its folder is there. Raises `TopologyError`."""
    if adapter is None:
        return

    for index, (stage, its) in enumerate(zip(stages, traits, strict=True)):
        if Capability.ADAPTERS not in its.capabilities:
            raise TopologyError("model.adapter", f"the backend {stage.backend!r} of stage[{index}] applies no adapters")
    if not Path(adapter).expanduser().is_dir():
        raise TopologyError("model.adapter", "there is no such folder; adapters are not fetched from the hub")


def check_kv_cache_dtype(dtype: str, stages: list[StageTable], traits: list[Traits]) -> None:
    """Every stage's backend can keep keys and values in this number format. Raises `TopologyError`."""
    for index, (stage, its) in enumerate(zip(stages, traits, strict=True)):
        if dtype == "int8" and Capability.INT8_KV not in its.capabilities:
            text = f"the backend {stage.backend!r} of stage[{index}] keeps keys and values as they are; leave it auto"
            raise TopologyError("engine.kv-cache-dtype", text)


def check_engine_keys(table: EngineTable, backend: str) -> None:
    """No key asks for what an engine decides by itself. Raises `TopologyError`."""
    for settings, unset in ((table.batching, BatchingSettings()), (table.speculation, SpeculationSettings())):
        for field in msgspec.structs.fields(settings):
            value = getattr(settings, field.name)
            if value == getattr(unset, field.name) or (field.name, value) == ("drafter", "off"):
                continue
            does = next(does for does, names in _ENGINES_OWN.items() if field.name in names)
            text = f"the engine {backend!r} {does} by itself; see the backend's own options"
            raise TopologyError(f"engine.{field.encode_name}", text)


def check_support(stage: StagePlan, plugins: Plugins, about_own_code: str) -> None:
    """The backend's options are in order, and as far as it knows without its libraries it supports the placement.

    Raises `TopologyError`, `UnsupportedModel`. A backend of another interpreter is not asked yet: that takes time.
    """
    if stage.python is not None:
        return

    path, factory = f"stage[{stage.index}]", plugins.backends.get(stage.backend)
    if stage.spec.options and getattr(factory, "options", None) is NoOptions:
        text = f"the backend {stage.backend!r} has no such option, nor any other"
        raise TopologyError(f"{path}.options.{next(iter(stage.spec.options))}", text)
    spec = with_options(stage.spec, factory, f"{path}.options")
    model = asked("supports", lambda: factory.supports(spec))
    if not model.available:
        raise UnsupportedModel(f"{path}: {model.sentence}{about_own_code}")
