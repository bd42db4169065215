"""Which actors a process hosts, and how they are made: the same pieces for every topology."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from histrio.actors.directory import Directory
from histrio.actors.mailbox import Actor, ThreadDispatcher
from histrio.actors.refs import BATCHING, ENGINE, KV, ROOT, Tell, stage_ref
from histrio.actors.supervisor import Child, Supervisor
from histrio.batching.actor import BatchingActor, BatchingSpec
from histrio.config.model_config import read_model_config
from histrio.contracts.backend import BackendFactory, StageSpec
from histrio.contracts.drafter import Drafter
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.first_contract import FirstBackendFactory, current
from histrio.contracts.grammar import GrammarBackend, GrammarKinds, VocabularySpec
from histrio.contracts.options import with_options
from histrio.contracts.policy import BatchingPolicy
from histrio.contracts.sampler import Sampler
from histrio.errors import BackendError
from histrio.kv.actor import KvActor
from histrio.messages import Message
from histrio.plan.draft import drafter_tools
from histrio.plan.policies import batching_policy
from histrio.plugins.asked import asked
from histrio.plugins.registry import Plugins
from histrio.replica.hosted_engine import EngineActor
from histrio.stage.actor import Activity, StageActor
from histrio.stage.sampling.grammar_table import GrammarTable
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.sampling.sampler_chain import SamplerChain

__all__ = ["BatchingParts", "Choosers", "DeviceThread", "batching_children", "engine_child", "stage_child"]


@dataclass(frozen=True, slots=True)
class Choosers:
    """What decides which token comes: the samplers and the grammar backends that plugins offer."""

    samplers: Sequence[type[Sampler]]
    grammars: Sequence[GrammarBackend] = ()

    @classmethod
    def of(cls, plugins: Plugins) -> Choosers:
        """With the samplers and grammar backends of all plugins."""
        return cls(list(plugins.samplers), list(plugins.grammars))

    def last_stage(self, spec: StageSpec) -> LastStage:
        """What the last stage has besides its backend."""
        chain = SamplerChain(self.samplers, spec.sizes.max_batch_size)
        if not self.grammars:
            return LastStage(chain)

        config = read_model_config(Path(spec.model))
        if config.kind != "generate":
            return LastStage(chain)

        vocabulary = VocabularySpec(spec.model, config.vocab_size, tuple(config.eos_ids))
        return LastStage(chain, GrammarTable(GrammarKinds(self.grammars), vocabulary))


@dataclass(frozen=True, slots=True)
class BatchingParts:
    """What plugins add to batching."""

    make_drafter: Callable[[], Drafter] | None = None
    vocab_size: int = 0
    """Vocabulary of the model that the drafter drafts for."""
    policy: BatchingPolicy | None = None
    """None: by priority."""

    @classmethod
    def of(cls, batching: BatchingSpec, plugins: Plugins) -> BatchingParts:
        """The drafter and the policy that it names. Raises `PluginError`, `TopologyError`."""
        policy = batching_policy(batching.settings, plugins)
        spec = batching.drafter_spec
        if spec is None:
            return cls(policy=policy)

        factory = plugins.drafters.get(batching.drafter)
        tools = drafter_tools(plugins)
        spec = with_options(spec, factory, "engine.drafter-options")
        return cls(lambda: factory.create(spec, tools), spec.vocab_size, policy)


def stage_child(
    index: int,
    spec: StageSpec,
    factory: BackendFactory | FirstBackendFactory,
    choosers: Choosers,
    tell: Tell,
    watch: Callable[[Activity], None] = lambda _activity: None,
) -> Child:
    """A stage; starting it loads its weights. `watch` gets the activity that heartbeats report."""

    def make() -> Actor[Any]:
        _check_machine(factory)
        checked = with_options(spec, factory, f"{stage_ref(index)}.options")
        last_stage = choosers.last_stage(spec) if spec.is_last else None
        actor = StageActor(index, checked, current(factory).open, tell, last_stage)
        watch(actor.activity)
        return actor

    return Child(stage_ref(index), make)


def batching_children(tell: Tell, spec: BatchingSpec, parts: BatchingParts) -> list[Child]:
    """Kv and batching, which every replica of stages has once."""
    return [
        Child(KV, lambda: KvActor(tell, prefix_cache=spec.settings.prefix_cache)),
        Child(
            BATCHING,
            lambda: BatchingActor(
                tell,
                spec,
                make_drafter=parts.make_drafter,
                vocab_size=parts.vocab_size,
                policy=parts.policy,
            ),
        ),
    ]


def engine_child(spec: StageSpec, factory: EngineFactory, tell: Tell) -> Child:
    """An engine, which is a whole replica; starting it loads the model."""

    def make() -> Actor[Any]:
        _check_machine(factory)
        return EngineActor(with_options(spec, factory, "stage[0].options"), factory, tell)

    return Child(ENGINE, make)


def _check_machine(factory: BackendFactory | FirstBackendFactory | EngineFactory) -> None:
    """A backend whose packages are missing says how to get them; its import would only say which."""
    machine = asked("probe", factory.probe)
    if not machine.available:
        raise BackendError(f"the backend {factory.name!r} cannot be used here: {machine.sentence}")


class DeviceThread:
    """Supervised actors on one blocking dispatcher: a device process's main thread, or a thread beside the front.

    `end_process` and `can_mend` are the supervisor's.
    """

    def __init__(
        self,
        directory: Directory,
        children: list[Child],
        *,
        end_process: Callable[[], NoReturn] | None = None,
        can_mend: bool = True,
    ) -> None:
        self.dispatcher = ThreadDispatcher(self._on_failure)
        self.has_loaded = False
        """Whether all children have been made, which may take minutes."""
        self._supervisor = Supervisor(
            children,
            host=lambda name, actor: directory.host(name, self.dispatcher, actor),
            report=lambda failed: directory.tell(ROOT, failed),
            end_process=end_process,
            can_mend=can_mend,
        )

    def run(self) -> None:
        """Make the children (this loads weights), then handle messages until `stop`; then stop them in reverse."""
        self._supervisor.start()
        self.has_loaded = True
        try:
            self.dispatcher.run()
        finally:
            self._supervisor.stop()

    def stop(self) -> None:
        """End `run`; callable from any thread."""
        self.dispatcher.stop()

    def _on_failure(self, name: str, error: BaseException, message: Message | None) -> None:
        self._supervisor.failed(name, error, message)
