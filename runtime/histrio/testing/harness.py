"""A complete histrio in one process, without HTTP: for tests of plugins, and of the runtime itself.

async with serving(folder, ToyFactory(), cuts=[2], samplers=[...]) as harness:
    ids = await harness.generate([1, 2, 3], num_tokens=8)

`serving_engine` does the same with an engine backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import msgspec

from histrio.batching.actor import BatchingSpec
from histrio.config.model_config import read_model_config
from histrio.config.settings import AdmissionSettings, BatchingSettings, SizeSettings, SpeculationSettings
from histrio.config.topology import RuntimeTable
from histrio.contracts.backend import BackendFactory, StageSpec
from histrio.contracts.drafter import DrafterFactory, DrafterSpec, DrafterTools
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.gateway import Gateway, ServedModel, StageStatus, Submission
from histrio.contracts.grammar import GrammarBackend, GrammarKinds
from histrio.contracts.options import as_options
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy
from histrio.contracts.request_fields import FieldTable
from histrio.contracts.sampler import Sampler
from histrio.messages import Ask, RequestState
from histrio.plugins.hook_calls import Implementation
from histrio.processes.compose import BatchingParts, Choosers
from histrio.processes.front import Front, FrontSettings
from histrio.processes.local import LocalStage, run_local_engine, run_local_replica
from histrio.replica.lifecycle import replica_actors
from histrio.stage.sampling.sampler_chain import SamplerChain

__all__ = ["Harness", "HarnessOptions", "StageRunner", "serving", "serving_engine", "serving_with"]

_WATCHERS_GRACE_S = 2.0
_LONGEST_STEP_MS = 1e6


@dataclass(frozen=True, slots=True)
class HarnessOptions:
    """Limits of the harness; small ones make chunks, preemption and refusals happen."""

    kv_block_size: int = 4
    num_cache_blocks: int | None = 256
    max_batch_size: int = 16
    max_num_tokens_per_batch: int = 64
    chunked_prefill_size: int = 32
    prefix_cache: bool = True
    batching_options: dict[str, Any] = field(default_factory=dict)
    """Further fields of `BatchingSettings`."""
    num_micro_batches: int = 1
    num_ahead: int = 0
    drafter: DrafterFactory | None = None
    drafter_options: dict[str, Any] = field(default_factory=dict)
    speculation: SpeculationSettings = SpeculationSettings()
    policy: BatchingPolicy | None = None
    admission: AdmissionPolicy | None = None
    watching: Sequence[Implementation] = ()
    """The hooks of plugins that watch: `Plugins.watching`."""
    metrics_interval_s: float = 10.0
    max_sequence_length: int = 512
    max_unfinished_requests: int = 512
    dtype: str = "float32"
    device: str = "cpu"
    stage_options: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> SizeSettings:
        """How much the replica shall hold."""
        return SizeSettings(
            kv_block_size=self.kv_block_size,
            num_cache_blocks=self.num_cache_blocks,
            max_batch_size=self.max_batch_size,
            max_num_tokens_per_batch=self.max_num_tokens_per_batch,
        )

    @property
    def batching(self) -> BatchingSpec:
        """What batching goes by. Unless `batching_options` say otherwise, neither time nor a reserve of blocks bounds a
        step, so that what happens depends on the requests alone."""
        settings = {
            "chunked_prefill_size": self.chunked_prefill_size,
            "prefix_cache": self.prefix_cache,
            "step_budget_ms": _LONGEST_STEP_MS,
            "preemption_threshold": 0.0,
        }
        return BatchingSpec(
            settings=BatchingSettings(**settings | self.batching_options),
            speculation=self.speculation,
            num_micro_batches=self.num_micro_batches,
            num_ahead=self.num_ahead,
            drafter="" if self.drafter is None else self.drafter.name,
        )


class Harness:
    """What a test gets: the gateway, the front, and a short way to generate."""

    def __init__(self, front: Front) -> None:
        self.front = front

    @property
    def gateway(self) -> Gateway:
        """What an edge would get."""
        return self.front.gateway

    async def generate(self, ids: list[int], num_tokens: int, **sampling: Any) -> list[int]:
        """The continuation of one prompt, greedy unless told otherwise; ends early only by failure."""
        tokens, state = await self.run(Submission(ids, num_tokens, Ask({"temperature": 0.0} | sampling)))
        assert state is RequestState.FINISHED_MAX_LENGTH, state
        return tokens

    async def run(self, submission: Submission) -> tuple[list[int], RequestState]:
        """All tokens of the first choice and how it ended."""
        (stream, *_others) = self.gateway.submit(submission)
        tokens: list[int] = []
        state = RequestState.WAITING
        async for delta in stream:
            tokens += delta.ids
            state = delta.state
        return tokens, state


StageRunner = Callable[[Front, list[StageSpec]], AbstractContextManager[None]]
"""Runs the stages of a replica, wherever it likes; `histrio.testing.workers` has one for processes of their own."""


@asynccontextmanager
async def serving(
    model: Path,
    factory: BackendFactory,
    *,
    samplers: list[type[Sampler]],
    grammars: Sequence[GrammarBackend] = (),
    cuts: Sequence[int] = (),
    options: HarnessOptions | None = None,
) -> AsyncIterator[Harness]:
    """Serve the model in folder `model`, split before the layers named in `cuts`, until the block ends."""
    options = options or HarnessOptions()

    def run_stages(front: Front, specs: list[StageSpec]) -> AbstractContextManager[None]:
        stages = [LocalStage(spec, factory) for spec in specs]
        return run_local_replica(
            front,
            stages,
            Choosers(samplers, grammars),
            batching=options.batching,
            parts=_parts(specs[0], factory, samplers, options),
        )

    kinds = GrammarKinds(grammars).known
    async with serving_with(
        run_stages,
        model,
        samplers=samplers,
        grammar_kinds=kinds,
        cuts=cuts,
        options=options,
        backends=[factory.name] * (len(cuts) + 1),
    ) as harness:
        yield harness


@asynccontextmanager
async def serving_engine(
    model: Path, factory: EngineFactory, *, options: HarnessOptions | None = None
) -> AsyncIterator[Harness]:
    """Serve the model in folder `model` with an engine on a thread of this process, until the block ends."""
    options = options or HarnessOptions()
    fields = FieldTable.of_engine(factory)
    served = _served(model, fields, options)
    served = msgspec.structs.replace(
        served, engine=factory.name, honours=fields.honours, honoured_by=fields.honoured_by
    )
    spec = _spec(model, served, 0, served.num_layers, options)
    front = Front(_settings(served, [], fields, options), "front")
    with run_local_engine(front, spec, factory):
        async with _up(front) as harness:
            yield harness


@asynccontextmanager
async def serving_with(
    run_stages: StageRunner,
    model: Path,
    *,
    samplers: list[type[Sampler]],
    grammar_kinds: Sequence[str] = (),
    cuts: Sequence[int] = (),
    options: HarnessOptions,
    process: str = "front",
    backends: Sequence[str] = (),
) -> AsyncIterator[Harness]:
    """The same with the stages run by `run_stages`; `backends` are their names, for messages."""
    fields = FieldTable(samplers)
    honours = msgspec.structs.replace(fields.honours, grammar_kinds=list(grammar_kinds))
    served = msgspec.structs.replace(_served(model, fields, options), honours=honours, backends=list(backends))
    bounds = [0, *cuts, served.num_layers]
    specs = [_spec(model, served, first, last, options) for first, last in pairwise(bounds)]
    stages = [
        StageStatus(index=index, first_layer=spec.first_layer, last_layer=spec.last_layer, backend="", process=process)
        for index, spec in enumerate(specs)
    ]
    front = Front(_settings(served, stages, fields, options), process)
    with run_stages(front, specs):
        async with _up(front) as harness:
            yield harness


@asynccontextmanager
async def _up(front: Front) -> AsyncIterator[Harness]:
    """From ready to the end of the block."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(front.run_timer)
        await front.wait_ready()
        try:
            yield Harness(front)
        finally:
            front.watchers.close(_WATCHERS_GRACE_S)
        tasks.cancel_scope.cancel()


def _parts(
    spec: StageSpec, factory: BackendFactory, samplers: list[type[Sampler]], options: HarnessOptions
) -> BatchingParts:
    """The drafter, with the factory of the stages for whatever backend it wants, and the policy."""
    drafter = options.drafter
    if drafter is None:
        return BatchingParts(policy=options.policy)

    tools = DrafterTools(lambda _name: factory, lambda max_slots: SamplerChain(samplers, max_slots))
    settings = DrafterSpec.of_stage(
        spec,
        options.speculation,
        vocab_size=read_model_config(Path(spec.model)).vocab_size,
        options=as_options(options.drafter_options, drafter.options, "drafter_options"),
    )
    return BatchingParts(lambda: drafter.create(settings, tools), settings.vocab_size, options.policy)


def _served(model: Path, fields: FieldTable, options: HarnessOptions) -> ServedModel:
    config = read_model_config(model)
    return ServedModel(
        id=model.name,
        path=str(model),
        created=0,
        architecture=config.architecture,
        num_layers=config.num_layers,
        vocab_size=config.vocab_size,
        max_sequence_length=min(config.max_positions, options.max_sequence_length),
        eos_ids=config.eos_ids,
        default_sampling=config.default_sampling,
        sampling_fields=fields.known_fields,
        kind=config.kind,
        vectors=config.vectors,
    )


def _spec(model: Path, served: ServedModel, first: int, last: int, options: HarnessOptions) -> StageSpec:
    return StageSpec(
        model=str(model),
        first_layer=first,
        last_layer=last,
        num_layers=served.num_layers,
        device=options.device,
        dtype=options.dtype,
        max_sequence_length=served.max_sequence_length,
        sizes=options.sizes,
        options=options.stage_options,
    )


def _settings(
    served: ServedModel, stages: list[StageStatus], fields: FieldTable, options: HarnessOptions
) -> FrontSettings:
    """Without stages an engine serves."""
    return FrontSettings(
        model=served,
        actors=replica_actors(len(stages)),
        fields=fields,
        stages=stages,
        sizes=options.sizes,
        admission=AdmissionSettings(max_unfinished_requests=options.max_unfinished_requests),
        admission_policy=options.admission,
        runtime=RuntimeTable(metrics_interval_s=options.metrics_interval_s),
        watching=options.watching,
    )
