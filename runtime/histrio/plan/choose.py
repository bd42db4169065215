"""Which backend computes where a topology says `auto`: the native one on CPUs, or torch.

The native backend is taken where nothing speaks against it: it is installed and works here, it supports the model and
everything else that is asked for, and torch would find no accelerator. That is told without importing torch, which
takes seconds and is what the native backend spares.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from histrio.config.topology import StageTable, Topology
from histrio.contracts.backend import BackendFactory, Capability, StageSpec
from histrio.contracts.options import with_options
from histrio.errors import HistrioError
from histrio.plugins.asked import asked
from histrio.plugins.registry import Plugins

__all__ = ["AUTO", "before_model", "find_accelerator", "with_backends"]

_log = logging.getLogger(__name__)

AUTO = "auto"
_NATIVE, _TORCH = "cpu", "torch"
_NONE_VISIBLE = ("", "-1")
"""Values of CUDA_VISIBLE_DEVICES that hide every device."""


def before_model(topology: Topology, plugins: Plugins) -> Topology:
    """The topology with torch, or what is installed in its place, wherever it says `auto`: what can be checked before
    the model is known is checked with it."""
    has_torch = _TORCH in plugins.backends or _NATIVE not in plugins.backends
    return _replaced(topology, _TORCH if has_torch else _NATIVE)


def with_backends(topology: Topology, specs: list[StageSpec], plugins: Plugins) -> Topology:
    """The topology with a backend for each stage; `specs` are the placements of its stages. Where the native backend
    cannot run a stage that leaves the choice open, none of them gets it, and a log line says why.

    Raises `TopologyError` for values of options that only the native backend has.
    """
    open_stages = [index for index, stage in enumerate(topology.stages) if stage.backend == AUTO]
    if not open_stages or _NATIVE not in plugins.backends or _TORCH not in plugins.backends:
        return before_model(topology, plugins)

    factory = plugins.stage_backend(_NATIVE)
    for index in open_stages:
        if specs[index].options and specs[index].options.keys() <= _option_names(factory):
            with_options(specs[index], factory, f"stage[{index}].options")
        reason = _reason_against(topology.stages[index], specs[index], factory)
        if reason:
            _log.info("torch computes, because %s", reason)
            return before_model(topology, plugins)

    return _replaced(topology, _NATIVE)


def find_accelerator() -> str:
    """An accelerator that torch would compute on, told without importing it; empty for none."""
    try:
        build = version("torch")
    except PackageNotFoundError:
        return ""

    if build.endswith("+cpu"):
        return ""
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else ""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in _NONE_VISIBLE:
        return ""
    return "cuda" if any(map(_exists, ("/dev/nvidia0", "/dev/kfd", "/dev/dxg"))) else ""


def _reason_against(stage: StageTable, spec: StageSpec, factory: BackendFactory) -> str:
    """Why the native backend is not for this stage; empty where it is."""
    capabilities = factory.traits.capabilities
    if stage.python is not None:
        return "a stage runs in another environment"
    if spec.device not in (AUTO, "cpu"):
        return f"the device is {spec.device}"
    if spec.adapter is not None and Capability.ADAPTERS not in capabilities:
        return "the native backend applies no adapters"
    if spec.memory.kv_cache_dtype != "auto" and Capability.INT8_KV not in capabilities:
        return f"the native backend keeps no keys and values as {spec.memory.kv_cache_dtype}"
    accelerator = find_accelerator() if spec.device == AUTO else ""
    if accelerator:
        return f"there is an accelerator ({accelerator})"
    try:
        for answer in (asked("probe", factory.probe), asked("supports", lambda: _supports(factory, spec))):
            if not answer.available:
                return answer.reason
    except HistrioError as error:
        return str(error)
    return ""


def _option_names(factory: BackendFactory) -> set[str]:
    kind = getattr(factory, "options", None)
    return set() if kind is None else {field.encode_name for field in msgspec.structs.fields(kind)}


def _supports(factory: BackendFactory, spec: StageSpec) -> object:
    return factory.supports(with_options(spec, factory, "options"))


def _replaced(topology: Topology, backend: str) -> Topology:
    stages = [
        msgspec.structs.replace(each, backend=backend) if each.backend == AUTO else each for each in topology.stages
    ]
    return msgspec.structs.replace(topology, stages=stages)


def _exists(path: str) -> bool:
    return Path(path).exists()
