"""A whole replica in this process: every stage on a thread of its own, everything else on the front's loop."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from histrio.actors.root import HostedActors
from histrio.actors.stage import StagePlace
from histrio.actors.supervisor import RestartIntensity, Supervisor
from histrio.backend import BackendFactory, StageSpec
from histrio.launch.compose import DeviceThread, batching_children, stage_child
from histrio.launch.front import Front
from histrio.sampling import Sampler

__all__ = ["LocalStage", "run_local_replica"]


@dataclass(frozen=True, slots=True)
class LocalStage:
    """One stage of a local replica."""

    spec: StageSpec
    factory: BackendFactory


@asynccontextmanager
async def run_local_replica(
    front: Front,
    stages: list[LocalStage],
    samplers: list[type[Sampler]],
    *,
    prefill_chunk: int,
    max_restarts: int = 3,
    restart_window_s: float = 60.0,
) -> AsyncIterator[None]:
    """Kv and batching on the front's loop, stages on threads, `queue` links between them. Stops in reverse order."""
    directory = front.directory
    names = ["kv", "batching", *(f"stage{index}" for index in range(len(stages)))]
    front.root.process_started(HostedActors("local", directory.process, names))

    def intensity() -> RestartIntensity:
        return RestartIntensity(max_restarts, restart_window_s)

    supervisor = Supervisor(
        batching_children(directory.tell, prefill_chunk),
        intensity(),
        host=lambda name, actor: directory.host(name, front.dispatcher, actor),
        report=lambda failed: directory.tell("root", failed),
    )
    front.supervise(supervisor)
    supervisor.start()
    devices = []
    for index, stage in enumerate(stages):
        after = f"stage{index + 1}" if index + 1 < len(stages) else "batching"
        child = stage_child(StagePlace(index, after), stage.spec, stage.factory, samplers, directory.tell)
        devices.append(DeviceThread(directory, [child], intensity()))
    threads = [threading.Thread(target=device.run, name=f"stage{i}", daemon=True) for i, device in enumerate(devices)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for device, thread in reversed(list(zip(devices, threads, strict=True))):
            device.stop()
            thread.join(timeout=10.0)
        supervisor.stop()
