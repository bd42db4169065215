"""Whether the stages of a plan can be: the backend exists, runs here and knows the model, and the weights fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histrio.backend import Probe
from histrio.errors import BackendError, DoesNotFit, PluginError, TopologyError, UnsupportedModel
from histrio.launch.probe import probe_in
from histrio.machine import memory_bytes
from histrio.model_config import ModelConfig
from histrio.plugins import Plugins
from histrio.topology import StageTable

if TYPE_CHECKING:
    from histrio.launch.plan import StagePlan

__all__ = ["check_backend_name", "check_memory", "check_support"]

_GIB = 2**30
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_backend_name(stage: StageTable, index: int, plugins: Plugins) -> None:
    """Known here, unless another environment is to know it. Raises `TopologyError`."""
    if stage.python is not None:
        return

    try:
        plugins.backends.get(stage.backend)
    except PluginError as error:
        raise TopologyError(f"stage[{index}].backend", str(error)) from None


def check_support(stage: StagePlan, plugins: Plugins, config: ModelConfig, *, is_check: bool) -> list[str]:
    """The backend supports these layers of the model; in a check also: it works on this machine, and its devices.

    Raises `BackendError`, `UnsupportedModel`.
    """
    spec, place = stage.spec, f"stage[{stage.index}]"
    if stage.python is not None and not is_check:
        return []

    if stage.python is not None:
        machine, model = probe_in(stage.python, stage.backend, spec)
    else:
        factory = plugins.backends.get(stage.backend)
        machine = factory.probe() if is_check else Probe(available=True)
        model = factory.supports(spec) if machine.available else machine
    if not machine.available:
        raise BackendError(f"{place}: the backend {stage.backend!r} cannot be used here: {_sentence(machine)}")
    if not model.available:
        raise UnsupportedModel(f"{place}: {_sentence(model)}{_about_own_code(config)}")
    return machine.devices


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


def _sentence(probe: Probe) -> str:
    return f"{probe.reason}; {probe.remedy}" if probe.remedy else probe.reason


def _about_own_code(config: ModelConfig) -> str:
    if not config.own_code:
        return ""
    return f" (the model comes with code of its own, {', '.join(config.own_code)}, which histrio never runs)"
