"""A plan is plain data: the root process acts on it, `--check` prints it, and a stage's part of it travels to the
process that runs the stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from histrio.actors.refs import ENGINE, stage_ref
from histrio.batching.actor import BatchingSpec
from histrio.config.topology import ClusterTable, EngineTable, RuntimeTable
from histrio.contracts.backend import StageSpec
from histrio.contracts.drafter import DrafterSpec
from histrio.contracts.gateway import ServedModel, StageStatus
from histrio.messages import Placement
from histrio.plan.process_names import ENGINE_PROCESS, FRONT

__all__ = ["EdgePlan", "Plan", "StagePlan"]


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: its layers, its backend, and its process."""

    index: int
    spec: StageSpec
    backend: str
    process: str
    """`front`, `engine`, or `stage1`, `stage2` … for processes of their own."""
    level: Literal["stage", "engine"] = "stage"
    """`engine`: the backend is a whole engine, which takes the place of stages, kv and batching."""
    python: str | None = None
    """Interpreter of the process; None: this one."""
    host: str = ""
    """The machine that runs it, by its name in the cluster; empty: that of the front."""
    weight_bytes: int | None = None
    """Bytes of its layers as stored; None where that is not known without fetching the weights."""
    placement: Placement | None = None
    """None until the backends of all stages have been asked."""

    @property
    def status(self) -> StageStatus:
        """What the front shows of it before it has been placed and opened."""
        placement = self.placement
        return StageStatus(
            index=self.index,
            first_layer=self.spec.first_layer,
            last_layer=self.spec.last_layer,
            backend=self.backend,
            process=self.process,
            device=placement.device if placement is not None else "",
        )

    @property
    def is_engine(self) -> bool:
        """Whether it is no stage among others, but all there is."""
        return self.level == "engine"

    @property
    def actor(self) -> str:
        """Name of the actor that hosts it."""
        return ENGINE if self.is_engine else stage_ref(self.index)

    def placed(self, placement: Placement) -> StagePlan:
        """The stage as it is to be opened: on this device, with this share of its memory."""
        device, ratio = placement.device, placement.block_mem_ratio
        spec = msgspec.structs.replace(self.spec, device=device, block_mem_ratio=ratio)
        return msgspec.structs.replace(self, spec=spec, placement=placement)


class EdgePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A service of the front process and its checked settings, kebab-case keys, defaults filled in."""

    name: str
    settings: dict[str, Any]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to start, and nothing that was guessed."""

    model: ServedModel
    stages: list[StagePlan]
    engine: EngineTable
    runtime: RuntimeTable
    edges: list[EdgePlan]
    cluster: ClusterTable | None = None
    """None: other machines cannot join."""
    drafter: str = ""
    """Name of the drafter; empty for none."""
    drafter_spec: DrafterSpec | None = None
    """The drafter's settings, and the model that it drafts for; None without a drafter."""
    checkpoint_dtype: str | None = None
    """Number format of the weights as stored, by the model's own account."""
    own_code: list[str] = []
    """Files of code that come with the model and are never run."""

    @property
    def about_own_code(self) -> str:
        """What a refusal of the model adds; empty for most."""
        if not self.own_code:
            return ""
        return f" (the model comes with code of its own, {', '.join(self.own_code)}, which histrio never runs)"

    def placed(self, placements: Sequence[Placement]) -> Plan:
        """The plan with its stages placed, all in order."""
        stages = [stage.placed(placement) for stage, placement in zip(self.stages, placements, strict=True)]
        return msgspec.structs.replace(self, stages=stages)

    @property
    def num_stages(self) -> int:
        """0 with an engine backend."""
        return sum(not stage.is_engine for stage in self.stages)

    @property
    def num_side_by_side(self) -> int:
        """How many stages of the placed plan can compute at the same time."""
        return len({stage.placement.computes_on for stage in self.stages if stage.placement is not None})

    @property
    def batching(self) -> BatchingSpec:
        """What the process that hosts batching gets."""
        return BatchingSpec(
            settings=self.engine.batching,
            speculation=self.engine.speculation,
            num_micro_batches=self.engine.batching.micro_batch_ratio,
            num_ahead=int(self.num_stages == 1 and self.stages[0].process != ENGINE_PROCESS),
            drafter=self.drafter,
            drafter_spec=self.drafter_spec,
        )

    @property
    def processes(self) -> list[str]:
        """Every process of the plan in starting order, the front first."""
        core = [FRONT] if self.runtime.processes == "one" else [FRONT, ENGINE_PROCESS]
        return list(dict.fromkeys([*core, *(stage.process for stage in self.stages)]))
