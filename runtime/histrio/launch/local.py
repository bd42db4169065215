"""A whole replica in this process: every stage on a thread of its own, everything else on the front's loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from histrio.actors.root import HostedActors
from histrio.actors.stage import StagePlace
from histrio.actors.supervisor import RestartIntensity, Supervisor
from histrio.backend import BackendFactory, StageSpec
from histrio.launch.compose import DeviceThread, batching_children, stage_child
from histrio.launch.front import Front
from histrio.sampling import Sampler

__all__ = ["LocalStage", "run_batching", "run_local_replica"]

_JOIN_S = 10.0


@dataclass(frozen=True, slots=True)
class LocalStage:
    """One stage of a local replica."""

    spec: StageSpec
    factory: BackendFactory


@contextmanager
def run_batching(front: Front, prefill_chunk: int, intensity: RestartIntensity) -> Iterator[None]:
    """Kv and batching on the front's loop, supervised."""
    supervisor = Supervisor(
        batching_children(front.directory.tell, prefill_chunk),
        intensity,
        host=lambda name, actor: front.directory.host(name, front.dispatcher, actor),
        report=lambda failed: front.directory.tell("root", failed),
    )
    front.supervise(supervisor)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()


@contextmanager
def run_local_replica(
    front: Front,
    stages: list[LocalStage],
    samplers: list[type[Sampler]],
    *,
    prefill_chunk: int,
    max_restarts: int = 3,
    restart_window_s: float = 60.0,
) -> Iterator[None]:
    """Stages on threads, everything else on the front's loop, `queue` links between them. Stops in reverse order."""
    directory = front.directory
    names = ["kv", "batching", *(f"stage{index}" for index in range(len(stages)))]
    front.root.process_started(HostedActors("local", directory.process, names))
    devices = []
    for index, stage in enumerate(stages):
        place = StagePlace.of(index, len(stages))
        child = stage_child(place, stage.spec, stage.factory, samplers, directory.tell)
        devices.append(DeviceThread(directory, [child], RestartIntensity(max_restarts, restart_window_s)))
    threads = [threading.Thread(target=device.run, name=f"stage{i}", daemon=True) for i, device in enumerate(devices)]
    with run_batching(front, prefill_chunk, RestartIntensity(max_restarts, restart_window_s)):
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for device, thread in reversed(list(zip(devices, threads, strict=True))):
                device.stop()
                thread.join(_JOIN_S)
