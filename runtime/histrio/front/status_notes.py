"""What happened to the replica, and what its stages are: notes in the status that the front shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from histrio.actors.refs import ENGINE, stage_ref
from histrio.contracts.gateway import Event, GatewayStatus, StageStatus
from histrio.messages import EngineCapacity, Placement, StageCapacity

__all__ = ["StatusNotes"]

_LEVELS: dict[str, Literal["info", "warning", "error"]] = {"recovering": "warning", "failed": "error"}


class StatusNotes:
    """Writes `stages` and `events` of one status. Texts never quote an exception: clients may see them."""

    def __init__(
        self, status: GatewayStatus, stages: Sequence[StageStatus] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self._status = status
        self._clock = clock
        self._told = (status.state, status.epoch)
        """State and epoch that the last event spoke of."""
        status.stages |= {stage.index: stage for stage in stages}

    def placed(self, placement: Placement) -> None:
        """Note on which device a stage runs."""
        self._change(placement.stage, device=placement.device, dtype=placement.dtype)

    def opened(self, actor: str, capacity: StageCapacity | EngineCapacity) -> None:
        """A stage or an engine is open, and has said what it takes."""
        if isinstance(capacity, EngineCapacity):
            self._change(0, dtype=capacity.dtype)
            return
        index = next((index for index in self._status.stages if stage_ref(index) == actor), -1)
        self._change(
            index,
            dtype=capacity.dtype,
            param_bytes=capacity.param_bytes,
            block_bytes_per_token=capacity.block_bytes_per_token,
        )

    def failed(self, actor: str) -> None:
        """An actor or a process failed."""
        self._note("warning", f"{actor or ENGINE} failed")

    def changed(self) -> None:
        """The service may have come to another state, or to another epoch."""
        status = self._status
        if (status.state, status.epoch) == self._told:
            return
        self._told = (status.state, status.epoch)
        about = status.detail or (f"epoch {status.epoch}" if status.epoch else "")
        self._note(_LEVELS.get(status.state, "info"), f"{status.state}: {about}" if about else status.state)

    def _change(self, index: int, **fields: str | int) -> None:
        stage = self._status.stages.get(index)
        if stage is not None:
            known = {name: value for name, value in fields.items() if value}
            self._status.stages[index] = msgspec.structs.replace(stage, **known)

    def _note(self, level: Literal["info", "warning", "error"], text: str) -> None:
        self._status.events.append(Event(self._clock(), level, text))
