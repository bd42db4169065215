"""Which actor takes which messages: a reference names an actor, and `tell` is checked against what that actor takes.

A reference is a plain string at run time. The types are for mypy: telling kv a `Step` does not type-check, and the
`match` of each actor, which ends in `refuse`, does not either as long as it leaves out a message of its union.
"""

from __future__ import annotations

from typing import Any, Final, Generic, Never, NoReturn, Protocol, TypeAlias, TypeVar

from histrio.errors import WireError
from histrio.messages import (
    Allocated,
    Beat,
    Cancel,
    ChildEnded,
    ChildFailed,
    Close,
    Copy,
    EndChild,
    EngineOpened,
    Generate,
    Granted,
    Hello,
    HostBeat,
    HostUp,
    LeaseBlocks,
    Loading,
    LoadStages,
    Machines,
    Match,
    Matched,
    Message,
    OnTrial,
    Open,
    Opened,
    Prepare,
    Prepared,
    Probed,
    Ready,
    Release,
    ReplicaDown,
    ReplicaUp,
    ResetCache,
    ReturnBlocks,
    Sealed,
    SpawnChild,
    Start,
    Stats,
    Step,
    StepResult,
    Stop,
    Tokens,
    Tune,
)

__all__ = [
    "ADMISSION",
    "BATCHING",
    "ENGINE",
    "HOSTS",
    "KV",
    "METRICS",
    "ROOT",
    "Ref",
    "Tell",
    "ToAdmission",
    "ToAgent",
    "ToBatching",
    "ToEngine",
    "ToHosts",
    "ToKv",
    "ToMetrics",
    "ToProcess",
    "ToRoot",
    "ToStage",
    "agent_ref",
    "process_ref",
    "refuse",
    "stage_ref",
]

M = TypeVar("M", bound=Message)
M_contra = TypeVar("M_contra", contravariant=True)

ToRoot: TypeAlias = Allocated | Beat | ChildFailed | EngineOpened | Hello | Loading | OnTrial | Opened | Probed | Ready
ToAdmission: TypeAlias = ReplicaDown | ReplicaUp | Tokens
ToMetrics: TypeAlias = Stats
ToBatching: TypeAlias = Cancel | Generate | Granted | Matched | Prepared | Start | StepResult | Stop | Tune
ToKv: TypeAlias = LeaseBlocks | Match | Release | ResetCache | ReturnBlocks | Sealed | Start | Stop
ToStage: TypeAlias = Close | Copy | Open | Prepare | Start | Step | Stop
ToEngine: TypeAlias = Cancel | ChildFailed | Generate | Start | Stop | Tokens
"""What a whole engine takes, which is addressed as batching; `Tokens` and `ChildFailed` come from its own threads."""

ToHosts: TypeAlias = ChildEnded | HostBeat | HostUp
ToAgent: TypeAlias = EndChild | SpawnChild
ToProcess: TypeAlias = LoadStages | Machines
"""What a device process takes before it has made its actors, and what its links take."""


class Ref(str, Generic[M_contra]):
    """The name of an actor that takes the messages `M_contra`."""

    __slots__ = ()

    def __new__(cls, name: str) -> Ref[Any]:
        """A plain string: names are looked up for every message."""
        return name  # type: ignore[return-value]


class Tell(Protocol):
    """`tell(actor, message)` appends to that actor's mailbox, in order; it never blocks and never runs the handler."""

    def __call__(self, actor: Ref[M], message: M, /) -> None: ...


ROOT: Final[Ref[ToRoot]] = Ref("root")
ADMISSION: Final[Ref[ToAdmission]] = Ref("admission")
METRICS: Final[Ref[ToMetrics]] = Ref("metrics")
BATCHING: Final[Ref[ToBatching]] = Ref("batching")
KV: Final[Ref[ToKv]] = Ref("kv")
ENGINE: Final[Ref[ToEngine]] = Ref("batching")
HOSTS: Final[Ref[ToHosts]] = Ref("hosts")


def stage_ref(index: int) -> Ref[ToStage]:
    """The stage with this index, counted from 0 along the model's layers."""
    return Ref(f"stage{index}")


def agent_ref(agent: str) -> Ref[ToAgent]:
    """The agent of another machine, which has the name of its link as an actor."""
    return Ref(agent)


def process_ref(process: str) -> Ref[ToProcess]:
    """A device process, which has its own name as an actor until its stages load."""
    return Ref(process)


def refuse(actor: str, message: Never) -> NoReturn:
    """The last case of an actor's `match`. Raises `WireError`: some peer told what this actor never takes."""
    raise WireError(f"{actor} does not understand {type(message).__name__}")
