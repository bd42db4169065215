"""From a topology to a plan: every name looked up, every range checked against the model, nothing started.

A plan is plain data: the root process acts on it, `--check` prints it, and a stage's part of it travels to the process
that runs the stage.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.gguf.pointer import is_gguf_folder
from histrio.config.hub import remote_tensors
from histrio.config.locate import DEMO, DEMO_DRAFT, is_local, local_name, locate_model
from histrio.config.model_config import ModelConfig, read_model_config
from histrio.config.tables import convert_table, did_you_mean
from histrio.config.topology import TABLES, ModelTable, StageTable, Topology, is_here
from histrio.config.weights import LayerBytes, read_layer_bytes, sum_layer_bytes, weight_files
from histrio.contracts.backend import StageSpec, Traits
from histrio.contracts.gateway import ServedModel
from histrio.contracts.grammar import GrammarKinds
from histrio.contracts.hooks import EdgeService
from histrio.contracts.request_fields import FieldTable
from histrio.errors import PluginError, RequestError, TopologyError
from histrio.plan.choose import before_model, with_backends
from histrio.plan.draft import drafter_name, drafter_spec
from histrio.plan.plans import EdgePlan, Plan, StagePlan
from histrio.plan.policies import check_policies
from histrio.plan.precision import check_precision, with_precision
from histrio.plan.process_names import assign_processes
from histrio.plan.support import (
    backend_traits,
    check_adapter,
    check_engine_keys,
    check_kv_cache_dtype,
    check_support,
    interpreter,
)
from histrio.plugins.registry import Plugins

__all__ = [
    "edge_settings",
    "field_table",
    "resolve",
    "split_layers",
]

_log = logging.getLogger(__name__)

DEFAULT_EDGE = "api"
"""Runs where a topology has no table of any edge service."""
DEFAULT_MAX_SEQUENCE_LENGTH = 32_768
"""Where the model could do more and the topology says nothing: longer contexts are to be asked for."""


def resolve(topology: Topology, plugins: Plugins, *, is_check: bool = False) -> Plan:
    """Look everything up. Raises the `HistrioError` of the first thing that cannot be.

    A check fetches only the configuration of a hub's model. Device, number format and share of memory of the stages are
    settled later (`histrio.plan.placement`): asking for them imports array libraries, which the front never needs.
    """
    edges = _edges(topology, plugins)
    requested, topology = topology, before_model(topology, plugins)
    traits, processes = _assign(topology, plugins)
    engine = topology.stages[0].backend if traits[0].level == "engine" else ""
    table = topology.model
    folder = locate_model(
        table.path, revision=table.revision, offline=table.offline, weights=not is_check, form=table.format
    )
    config = read_model_config(folder)
    if config.own_code:
        _log.info("%s names code of its own (%s), which is never run", table.path, ", ".join(config.own_code))
    if config.unknown_eos_ids:
        _log.warning("ends of text that are not in the vocabulary are left out: %s", config.unknown_eos_ids)
    fields = field_table(plugins, engine)
    honours = fields.honours
    if not engine:
        honours = msgspec.structs.replace(honours, grammar_kinds=GrammarKinds(plugins.grammars).known)
    model = _served_model(table, folder, config, fields)
    is_whole = not is_check or table.path in (DEMO, DEMO_DRAFT) or is_local(table.path) or is_gguf_folder(folder)
    sizes = _layer_bytes(folder, table, config, is_whole=is_whole)
    ranges = split_layers(topology.stages, config.num_layers)
    requested = with_precision(requested, config.dtype)
    specs = [
        msgspec.structs.replace(_spec(requested, model, index, layers), has_weights=is_whole)
        for index, layers in enumerate(ranges)
    ]
    chosen = with_backends(requested, specs, plugins)
    if chosen != topology:
        topology = chosen
        traits, processes = _assign(topology, plugins)
    check_precision(topology, plugins)
    backends = [stage.backend for stage in topology.stages]
    model = msgspec.structs.replace(
        model, engine=engine, honours=honours, honoured_by=fields.honoured_by, backends=backends
    )
    stages = []
    for index, (layers, spec) in enumerate(zip(ranges, specs, strict=True)):
        stage = StagePlan(
            index=index,
            spec=spec,
            backend=topology.stages[index].backend,
            level=traits[index].level,
            process=processes[index],
            python=interpreter(topology.stages[index], index),
            host="" if is_here(topology.stages[index].host) else topology.stages[index].host,
            weight_bytes=None if sizes is None else sizes.of_range(*layers),
        )
        stages.append(stage)
    plan = Plan(
        model=model,
        stages=stages,
        engine=topology.engine,
        runtime=topology.runtime,
        cluster=topology.cluster,
        edges=edges,
        checkpoint_dtype=config.dtype,
        own_code=config.own_code,
    )
    for stage in stages:
        check_support(stage, plugins, plan.about_own_code)
    _check_context(table, config)
    _check_edges(edges, plugins, model)
    if engine:
        return plan
    return msgspec.structs.replace(
        plan,
        drafter=drafter_name(topology.engine.speculation, plugins),
        drafter_spec=drafter_spec(topology, stages[0].spec, config, plugins),
    )


def _assign(topology: Topology, plugins: Plugins) -> tuple[list[Traits], list[str]]:
    """Traits and process of every stage, and every check that needs no model. Raises `TopologyError`."""
    traits = backend_traits(topology.stages, plugins)
    processes = assign_processes(topology.stages, traits, topology.runtime)
    check_adapter(topology.model.adapter, topology.stages, traits)
    check_kv_cache_dtype(topology.engine.memory.kv_cache_dtype, topology.stages, traits)
    is_engine = traits[0].level == "engine"
    if is_engine:
        check_engine_keys(topology.engine, topology.stages[0].backend)
    check_policies(topology.engine, plugins, is_engine=is_engine)
    return traits, processes


def field_table(plugins: Plugins, engine: str) -> FieldTable:
    """The request fields that are honoured: an engine backend's own, or without one (`engine` empty) the samplers'."""
    return FieldTable.of_engine(plugins.engine_backend(engine)) if engine else FieldTable(list(plugins.samplers))


def split_layers(stages: list[StageTable], num_layers: int) -> list[tuple[int, int]]:
    """First and end layer of every stage, from the file or by an even split. Raises `TopologyError`.

    Where an even split leaves a rest, earlier stages get one layer more.
    """
    named = [stage.layer_range for stage in stages]
    ranges = [each for each in named if each is not None]
    if ranges:
        last = len(ranges) - 1
        if ranges[last][1] != num_layers:
            raise TopologyError(
                f"stage[{last}].layers",
                f"layers end at {ranges[last][1]}, but the model has {num_layers}: the last stage must end there",
            )
        return ranges

    if len(stages) > num_layers:
        raise TopologyError("stage", f"{len(stages)} stages are too many for a model of {num_layers} layers")
    share, rest = divmod(num_layers, len(stages))
    ends = [share * (index + 1) + min(index + 1, rest) for index in range(len(stages))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def edge_settings(service: EdgeService, table: dict[str, Any]) -> dict[str, Any]:
    """A service's table, checked against its settings struct and completed with defaults. Raises `TopologyError`."""
    settings = convert_table(table, service.settings, service.name)
    checked: dict[str, Any] = msgspec.to_builtins(settings)
    return checked


def _edges(topology: Topology, plugins: Plugins) -> list[EdgePlan]:
    tables = topology.edges or {DEFAULT_EDGE: {}}
    plans = []
    for name, table in tables.items():
        try:
            service = plugins.edges.get(name)
        except PluginError as error:
            hint = did_you_mean(name, TABLES)
            raise TopologyError(name, f"{error}" if not hint else f"no such table{hint}") from None
        plans.append(EdgePlan(name=name, settings=edge_settings(service, table)))
    return plans


def _check_edges(edges: list[EdgePlan], plugins: Plugins, model: ServedModel) -> None:
    """Whether the services can serve this model, where they have an opinion. Raises `ModelError`."""
    for edge in edges:
        check = getattr(plugins.edges.get(edge.name), "check_model", None)
        if check is not None:
            check(model)


def _served_model(table: ModelTable, folder: Path, config: ModelConfig, fields: FieldTable) -> ServedModel:
    return ServedModel(
        id=table.served_name or (local_name(table.path) if is_local(table.path) else table.path),
        path=str(folder),
        created=int(time.time()),
        architecture=config.architecture,
        num_layers=config.num_layers,
        vocab_size=config.vocab_size,
        max_sequence_length=_max_sequence_length(table.max_sequence_length, config),
        bos_id=config.bos_id,
        eos_ids=config.eos_ids,
        default_sampling=_honoured(config.default_sampling, fields),
        sampling_fields=fields.known_fields,
        kind=config.kind,
        vectors=config.vectors,
    )


def _max_sequence_length(requested: int | None, config: ModelConfig) -> int:
    if requested is None:
        return min(config.usual_positions, DEFAULT_MAX_SEQUENCE_LENGTH)

    if config.names_context and requested > config.max_positions:
        raise TopologyError(
            "model.max-sequence-length", f"{requested} is more than the model's own {config.max_positions}"
        )
    return requested


def _check_context(table: ModelTable, config: ModelConfig) -> None:
    """Whether a context was named anywhere; asked last, since models that cannot be served often name none."""
    if not config.names_context and table.max_sequence_length is None:
        raise TopologyError(
            "model.max-sequence-length",
            "is needed: neither config.json (max_position_embeddings) nor tokenizer_config.json (model_max_length) "
            "says how many tokens the model can take",
        )


def _honoured(defaults: dict[str, Any], fields: FieldTable) -> dict[str, Any]:
    """The model's defaults, without those that no sampler here knows or allows; a log line names each one left out."""
    kept = {}
    for field, value in defaults.items():
        if field not in fields.known_fields:
            _log.warning("generation_config.json sets %s, which is left out: %s", field, fields.unknown)
            continue
        try:
            fields.check({field: value})
        except RequestError as error:
            _log.warning("generation_config.json sets %s, which is left out: %s", field, error)
        else:
            kept[field] = value
    return kept


def _layer_bytes(folder: Path, table: ModelTable, config: ModelConfig, *, is_whole: bool) -> LayerBytes | None:
    """From the files; of a model whose weights were not fetched, from what the hub says of them."""
    if is_whole:
        vocab_size = None if config.is_wrapper else config.vocab_size
        return read_layer_bytes(folder, config.num_layers, vocab_size) if weight_files(folder) else None

    tensors = remote_tensors(table.path, revision=table.revision, offline=table.offline)
    return None if tensors is None else sum_layer_bytes(tensors, config.num_layers)


def _spec(topology: Topology, model: ServedModel, index: int, layers: tuple[int, int]) -> StageSpec:
    table, engine = topology.stages[index], topology.engine
    return StageSpec(
        model=model.path,
        first_layer=layers[0],
        last_layer=layers[1],
        num_layers=model.num_layers,
        device=table.device,
        dtype=topology.model.dtype,
        max_sequence_length=model.max_sequence_length,
        sizes=engine.sizes,
        memory=engine.memory,
        block_mem_ratio=engine.memory.kv_share,
        threads=table.threads,
        options=table.options,
        adapter=topology.model.adapter and str(Path(topology.model.adapter).expanduser().absolute()),
    )
