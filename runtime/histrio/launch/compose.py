"""Which actors a process hosts, and how they are made: the same pieces for every topology."""

from __future__ import annotations

from collections.abc import Callable

from histrio.actors.batching import BatchingActor
from histrio.actors.directory import Directory, Tell
from histrio.actors.kv import KvActor
from histrio.actors.mailbox import Actor, ThreadDispatcher
from histrio.actors.stage import Activity, StageActor, StagePlace
from histrio.actors.supervisor import Child, RestartIntensity, Supervisor
from histrio.backend import BackendFactory, StageSpec
from histrio.sampler_chain import SamplerChain
from histrio.sampling import Sampler

__all__ = ["DeviceThread", "batching_children", "stage_child"]


def stage_child(
    place: StagePlace,
    spec: StageSpec,
    factory: BackendFactory,
    samplers: list[type[Sampler]],
    tell: Tell,
    watch: Callable[[Activity], None] = lambda _activity: None,
) -> Child:
    """A stage; starting it loads its weights. `watch` gets the activity that heartbeats report."""

    def make() -> Actor:
        chain = SamplerChain(samplers, spec.max_rows) if spec.is_last else None
        actor = StageActor(place, spec, factory.create(), tell, chain)
        watch(actor.activity)
        return actor

    return Child(place.name, make)


def batching_children(tell: Tell, prefill_chunk: int) -> list[Child]:
    """Kv and batching, which every replica has once."""
    return [
        Child("kv", lambda: KvActor("kv", tell, "batching")),
        Child("batching", lambda: BatchingActor("batching", tell, prefill_chunk)),
    ]


class DeviceThread:
    """Supervised actors on one blocking dispatcher: a device process's main thread, or a thread beside the front."""

    def __init__(self, directory: Directory, children: list[Child], intensity: RestartIntensity) -> None:
        self.dispatcher = ThreadDispatcher(self._on_failure)
        self._supervisor = Supervisor(
            children,
            intensity,
            host=lambda name, actor: directory.host(name, self.dispatcher, actor),
            report=lambda failed: directory.tell("root", failed),
        )

    def run(self) -> None:
        """Make the children (this loads weights), then handle messages until `stop`; then stop them in reverse."""
        self._supervisor.start()
        try:
            self.dispatcher.run()
        finally:
            self._supervisor.stop()

    def stop(self) -> None:
        """End `run`; callable from any thread."""
        self.dispatcher.stop()

    def _on_failure(self, name: str, error: Exception) -> None:
        self._supervisor.failed(name, error)
