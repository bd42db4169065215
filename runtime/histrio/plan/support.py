"""Whether the stages of a plan can be: the backend exists, runs here and knows the model, and the weights fit."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from histrio.config.model_config import ModelConfig
from histrio.config.topology import EngineTable, StageTable
from histrio.contracts.backend import Capability, Probe, Traits
from histrio.contracts.options import with_options
from histrio.errors import BackendError, DoesNotFit, PluginError, TopologyError, UnsupportedModel
from histrio.kit.memory import memory_bytes
from histrio.plan.plans import StagePlan
from histrio.plan.probe import probe_in, traits_in
from histrio.plugins.asked import asked
from histrio.plugins.registry import Plugins

__all__ = [
    "backend_traits",
    "check_adapter",
    "check_engine_keys",
    "check_kv_cache_dtype",
    "check_memory",
    "check_support",
    "interpreter",
]

_GIB = 2**30
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
    "guesses tokens": [
        "drafter",
        "drafter_options",
        "speculation_length",
        "min_speculation",
        "max_speculation",
        "adaptive",
    ],
}
"""What a whole engine does in its own way → the fields of `EngineTable` that would say how."""
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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
    unset = EngineTable()
    for field in msgspec.structs.fields(EngineTable):
        does = next((does for does, names in _ENGINES_OWN.items() if field.name in names), "")
        value = getattr(table, field.name)
        if not does or value == getattr(unset, field.name) or (field.name, value) == ("drafter", "off"):
            continue
        text = f"the engine {backend!r} {does} by itself; see the backend's own options"
        raise TopologyError(f"engine.{field.encode_name}", text)


def check_support(stage: StagePlan, plugins: Plugins, config: ModelConfig, *, is_check: bool) -> StagePlan:
    """The stage with what its backend, which supports these layers of the model, can do with them.

    A check also asks whether it works on this machine, and for its devices. Raises `BackendError`, `UnsupportedModel`.
    """
    spec, place = stage.spec, f"stage[{stage.index}]"
    if stage.python is not None and not is_check:
        return stage

    if stage.python is not None:
        machine, model = probe_in(stage.python, stage.backend, spec)
    else:
        factory = plugins.backends.get(stage.backend)
        machine = asked("probe", factory.probe) if is_check else Probe(available=True)
        spec = with_options(spec, factory, f"{place}.options")
        model = asked("supports", lambda: factory.supports(spec)) if machine.available else machine
    if not machine.available:
        raise BackendError(f"{place}: the backend {stage.backend!r} cannot be used here: {machine.sentence}")
    if not model.available:
        raise UnsupportedModel(f"{place}: {model.sentence}{_about_own_code(config)}")
    _check_device(stage, machine.devices)
    capabilities = [str(each) for each in model.capabilities]
    return msgspec.structs.replace(stage, devices=machine.devices, capabilities=capabilities, dtype=model.dtype)


def _check_device(stage: StagePlan, devices: list[str]) -> None:
    """The device that the file names is one of those that the backend sees. Raises `TopologyError`."""
    name = stage.spec.device
    kinds = {device.partition(":")[0] for device in devices}
    if name == "auto" or not devices or name in devices or name in kinds:
        return
    text = f"the backend {stage.backend!r} cannot use {name[:40]!r} here; it sees {', '.join(devices)}"
    raise TopologyError(f"stage[{stage.index}].device", text)


def check_memory(stages: list[StagePlan], checkpoint_dtype: str | None) -> None:
    """All stages that share this machine's main memory fit into it together. Raises `DoesNotFit` with the numbers.

    A backend checks its own stage when it loads; it knows nothing of the others.
    """
    on_cpu = [stage for stage in stages if stage.spec.device == "cpu" or stage.devices == ["cpu"]]
    stored = _ELEMENT_BYTES.get(checkpoint_dtype or "", 0)
    needed = 0
    for stage in on_cpu:
        factor = _ELEMENT_BYTES[stage.spec.dtype] / stored if stored and stage.spec.dtype in _ELEMENT_BYTES else 1
        needed += int((stage.weight_bytes or 0) * factor)
    total = memory_bytes()
    ratio = max((stage.spec.param_mem_ratio for stage in on_cpu), default=1.0)
    if needed > total * ratio:
        raise DoesNotFit(
            f"the weights need {needed / _GIB:.1f} GiB; this machine has {total / _GIB:.1f} GiB, of which "
            f"param-mem-ratio {ratio:g} allows {total * ratio / _GIB:.1f} GiB: raise it, or use a smaller model"
        )


def _about_own_code(config: ModelConfig) -> str:
    if not config.own_code:
        return ""
    return f" (the model comes with code of its own, {', '.join(config.own_code)}, which histrio never runs)"
