"""Where and how each stage runs: settled once, from what the backends say, for a check and for a start alike.

A backend is asked where its stage would run, because only there its libraries may be loaded: by a start in the stage's
own process, before anything is loaded; by a check in this process, or in the stage's own interpreter. One function
makes placements of the answers, so that a start refuses what a check refuses, in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from histrio.errors import BackendError, DoesNotFit, TopologyError, UnsupportedModel
from histrio.kit.cores import num_cores
from histrio.kit.memory import describe_bytes
from histrio.messages import Placement, StageAnswer
from histrio.plan.plans import Plan, StagePlan
from histrio.plan.probe import ask_here, ask_in
from histrio.plugins.registry import Plugins

__all__ = ["ask_backends", "settle"]

_CPU = "cpu"
_Device: TypeAlias = tuple[str, str]
"""Machine, and the device's name there."""
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def ask_backends(plan: Plan, plugins: Plugins) -> list[StageAnswer]:
    """The answers for all stages of a plan that is not started, in order; may import array libraries."""
    return [
        ask_here(stage.index, stage.backend, stage.spec, plugins)
        if stage.python is None
        else ask_in(stage.python, stage.index, stage.backend, stage.spec)
        for stage in plan.stages
    ]


def settle(plan: Plan, answers: Sequence[StageAnswer]) -> list[Placement]:
    """The placement of every stage, in order, from the answers in the same order.

    Raises `BackendError`, `TopologyError`, `UnsupportedModel` or `DoesNotFit` for the first thing that cannot be.
    """
    placements = [_place(plan, stage, answer) for stage, answer in zip(plan.stages, answers, strict=True)]
    _check_memory(plan, placements, answers)
    return _share_cores(plan, _share_memory(plan, placements))


def _place(plan: Plan, stage: StagePlan, answer: StageAnswer) -> Placement:
    """The placement as if the stage had its device's share of memory for itself."""
    machine, model, path = answer.machine, answer.model, f"stage[{stage.index}]"
    if machine is None:
        raise BackendError(f"{stage.python or path}: {answer.error}")
    if not machine.available:
        raise BackendError(f"{path}: the backend {stage.backend!r} cannot be used here: {machine.sentence}")
    if model is None:
        seen, name = ", ".join(machine.devices), stage.spec.device[:40]
        raise TopologyError(f"{path}.device", f"the backend {stage.backend!r} cannot use {name!r} here; it sees {seen}")
    if not model.available:
        raise UnsupportedModel(f"{path}: {model.sentence}{plan.about_own_code}")

    weight_bytes = _estimated_bytes(plan, stage, model.dtype) if model.weight_bytes is None else model.weight_bytes
    return Placement(
        stage=stage.index,
        device=answer.device,
        block_mem_ratio=stage.spec.block_mem_ratio,
        dtype=model.dtype,
        weight_bytes=weight_bytes,
        capabilities=[str(each) for each in model.capabilities],
    )


def _estimated_bytes(plan: Plan, stage: StagePlan, dtype: str) -> int | None:
    """Bytes of the weights as stored, in another number format where one is known."""
    if stage.weight_bytes is None:
        return None

    stored = _ELEMENT_BYTES.get(plan.checkpoint_dtype or "")
    loaded = _ELEMENT_BYTES.get(dtype or stage.spec.dtype)
    return stage.weight_bytes if stored is None or loaded is None else stage.weight_bytes * loaded // stored


def _check_memory(plan: Plan, placements: Sequence[Placement], answers: Sequence[StageAnswer]) -> None:
    """The stages of each device fit into its memory together: a backend that loads knows nothing of the others.

    Raises `DoesNotFit` with the numbers.
    """
    needed: Counter[_Device] = Counter()
    for placement in placements:
        needed[_device_of(plan, placement)] += placement.weight_bytes or 0
    totals = {
        _device_of(plan, placement): _device_bytes(answer)
        for placement, answer in zip(placements, answers, strict=True)
    }
    ratio = plan.engine.memory.param_mem_ratio
    for device, total in totals.items():
        if total is not None and needed[device] > total * ratio:
            host, name = device
            owner = (host or "this machine") if name == _CPU else f"{name} of {host}" if host else name
            needs, has, allowed = (describe_bytes(each) for each in (needed[device], total, int(total * ratio)))
            raise DoesNotFit(
                f"the weights need {needs}; {owner} has {has}, of which param-mem-ratio {ratio:g} allows {allowed}: "
                "raise it, or use a smaller model"
            )


def _device_of(plan: Plan, placement: Placement) -> _Device:
    return plan.stages[placement.stage].host, placement.device


def _device_bytes(answer: StageAnswer) -> int | None:
    return None if answer.model is None else answer.model.device_bytes


def _share_memory(plan: Plan, placements: Sequence[Placement]) -> list[Placement]:
    """Stages on one device divide its memory for blocks by their layers, since each of them measures all of it."""
    num_layers = {stage.index: stage.spec.last_layer - stage.spec.first_layer for stage in plan.stages}
    on_device: Counter[_Device] = Counter()
    for placement in placements:
        on_device[_device_of(plan, placement)] += num_layers[placement.stage]

    def share(placement: Placement) -> float:
        return placement.block_mem_ratio * num_layers[placement.stage] / on_device[_device_of(plan, placement)]

    return [msgspec.structs.replace(each, block_mem_ratio=share(each)) for each in placements]


def _share_cores(plan: Plan, placements: Sequence[Placement]) -> list[Placement]:
    """Stages on one device take turns. Side by side each would take the other's cores or bandwidth away, and would read
    its weights for half of the sequences at a time. Only stages whose `threads` divide a CPU have cores of their own.
    """

    def computes_on(placement: Placement) -> str:
        host, device = _device_of(plan, placement)
        name = f"{device} of {host}" if host else device
        return f"{name}, cores of stage {placement.stage}" if device == _CPU and host in divided else name

    on_cpu = [plan.stages[each.stage] for each in placements if each.device == _CPU]
    hosts = {stage.host for stage in on_cpu}
    divided = {
        host for host in hosts if _is_divided([stage.spec.threads for stage in on_cpu if stage.host == host], host)
    }
    return [msgspec.structs.replace(each, computes_on=computes_on(each)) for each in placements]


def _is_divided(threads: Sequence[int | None], host: str) -> bool:
    """Whether the stages of one machine have cores of their own; of another machine only its topology tells."""
    if host:
        return None not in threads
    return sum(number or num_cores() for number in threads) <= num_cores()
