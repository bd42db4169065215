"""In which process each stage runs: what the file asks for, within what the backends' traits allow."""

from __future__ import annotations

from histrio.config.topology import RuntimeTable, StageTable
from histrio.contracts.backend import Capability, Traits
from histrio.errors import TopologyError

__all__ = ["ENGINE_PROCESS", "FRONT", "assign_processes"]

FRONT = "front"
"""Process of the edges and admission; with `processes = "one"` of everything."""
ENGINE_PROCESS = "engine"
"""Process of batching, kv and, by default, stage 0; or of an engine backend, instead of all three."""


def assign_processes(stages: list[StageTable], traits: list[Traits], runtime: RuntimeTable) -> list[str]:
    """The process of each stage: `front`, `engine`, or `stage0`, `stage1` … for processes of their own.

    Raises `TopologyError` where the file puts a stage into a process that its backend does not allow.
    """
    for index, (stage, its) in enumerate(zip(stages, traits, strict=True)):
        if its.level == "engine" and len(stages) > 1:
            text = f"{stage.backend!r} is a whole engine, which must be the only stage, not one of {len(stages)}"
            raise TopologyError(f"stage[{index}].backend", text)

    processes = [
        _own_process(stage, index, its, runtime) if _needs_own_process(its) else _process(stage, index, runtime)
        for index, (stage, its) in enumerate(zip(stages, traits, strict=True))
    ]
    for index, its in enumerate(traits):
        if Capability.ONE_STAGE_PER_PROCESS in its.capabilities:
            _check_alone(stages, processes, index, runtime)
    return processes


def _needs_own_process(traits: Traits) -> bool:
    return traits.level == "engine" or Capability.OWN_PROCESS in traits.capabilities


def _own_process(stage: StageTable, index: int, traits: Traits, runtime: RuntimeTable) -> str:
    if runtime.processes == "one":
        text = f'{stage.backend!r} needs a process of its own, but [runtime] says processes = "one"'
        raise TopologyError(f"stage[{index}].backend", text)
    if stage.process == "engine":
        text = f'the backend {stage.backend!r} needs a process of its own: remove process = "engine"'
        raise TopologyError(f"stage[{index}].process", text)
    return ENGINE_PROCESS if traits.level == "engine" else f"stage{index}"


def _process(stage: StageTable, index: int, runtime: RuntimeTable) -> str:
    if runtime.processes == "one":
        return FRONT
    if stage.process == "engine" or (index == 0 and not stage.wants_own_process):
        return ENGINE_PROCESS
    return f"stage{index}"


def _check_alone(stages: list[StageTable], processes: list[str], index: int, runtime: RuntimeTable) -> None:
    """No earlier stage of the same backend is in the same process."""
    mine = (stages[index].backend, processes[index])
    for other in range(index):
        if (stages[other].backend, processes[other]) == mine:
            key = "process" if runtime.processes == "split" else "backend"
            text = f"{mine[0]!r} needs a process for each of its stages, and stage[{other}] is in the same one"
            raise TopologyError(f"stage[{index}].{key}", text)
