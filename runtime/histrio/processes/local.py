"""A whole replica in this process: every stage, or an engine, on a thread of its own, the rest on the front's loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from histrio.actors.directory import Directory
from histrio.actors.refs import BATCHING, KV, ROOT, stage_ref
from histrio.actors.supervisor import Child, Supervisor
from histrio.batching.actor import BatchingSpec
from histrio.contracts.backend import BackendFactory, StageSpec
from histrio.contracts.engine_backend import EngineFactory
from histrio.processes.compose import (
    BatchingParts,
    Choosers,
    DeviceThread,
    batching_children,
    engine_child,
    stage_child,
)
from histrio.processes.front import Front
from histrio.replica.lifecycle import HostedActors

__all__ = ["LocalStage", "run_batching", "run_local_engine", "run_local_replica"]

_JOIN_S = 10.0


@dataclass(frozen=True, slots=True)
class LocalStage:
    """One stage of a local replica."""

    spec: StageSpec
    factory: BackendFactory


@contextmanager
def run_batching(front: Front, spec: BatchingSpec, parts: BatchingParts | None = None) -> Iterator[None]:
    """Kv and batching on the front's loop, supervised."""
    supervisor = Supervisor(
        batching_children(front.directory.tell, spec, parts or BatchingParts()),
        host=lambda name, actor: front.directory.host(name, front.dispatcher, actor),
        report=lambda failed: front.directory.tell(ROOT, failed),
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
    choosers: Choosers,
    *,
    batching: BatchingSpec,
    parts: BatchingParts | None = None,
) -> Iterator[None]:
    """Stages on threads, everything else on the front's loop, `queue` links between them. Stops in reverse order."""
    directory = front.directory
    names: list[str] = [KV, BATCHING, *(stage_ref(index) for index in range(len(stages)))]
    front.root.process_started(HostedActors("local", directory.process, names))
    children = [
        stage_child(index, stage.spec, stage.factory, choosers, directory.tell) for index, stage in enumerate(stages)
    ]
    with run_batching(front, batching, parts), _on_threads(directory, children):
        yield


@contextmanager
def run_local_engine(front: Front, spec: StageSpec, factory: EngineFactory) -> Iterator[None]:
    """An engine on a thread of this process, for tests: one that fails is made anew here, and leaves what it left."""
    child = engine_child(spec, factory, front.directory.tell)
    front.root.process_started(HostedActors("local", front.directory.process, [child.name]))
    with _on_threads(front.directory, [child]):
        yield


@contextmanager
def _on_threads(directory: Directory, children: list[Child]) -> Iterator[None]:
    """Each child on a thread of its own; stops in reverse order."""
    devices = [DeviceThread(directory, [child]) for child in children]
    threads = [
        threading.Thread(target=device.run, name=child.name, daemon=True)
        for child, device in zip(children, devices, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for device, thread in reversed(list(zip(devices, threads, strict=True))):
            device.stop()
            thread.join(_JOIN_S)
