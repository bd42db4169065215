"""What `rt-launch --check` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histrio.config.model_kind import ModelKind
from histrio.config.topology import EngineTable
from histrio.contracts.backend import Capability
from histrio.kit.memory import describe_bytes, memory_bytes
from histrio.plan.plans import EdgePlan, Plan, StagePlan
from histrio.plan.process_names import FRONT
from histrio.replica.sizing import lost_capabilities

__all__ = ["describe_plan"]

_ANSWERS: dict[ModelKind, str] = {
    "generate": "text, and vectors, scores and rankings of texts where the backend gives hidden states",
    "embed": "vectors of texts, and by them scores and rankings; no text",
    "score": "scores and rankings of texts; no text, and no vectors",
}


def describe_plan(plan: Plan) -> str:
    """The resolved plan as text: model, stages, limits, addresses. Keys and other settings of services stay unsaid."""
    model, runtime = plan.model, plan.runtime
    admission, sizes, memory = plan.engine.admission, plan.engine.sizes, plan.engine.memory
    rows = [["stage", "layers", "backend", "level", "device", "dtype", "process", "weights", "capabilities"]]
    rows += [_stage_row(stage, plan.checkpoint_dtype) for stage in plan.stages]
    blocks = "from memory" if sizes.num_cache_blocks is None else str(sizes.num_cache_blocks)
    block_size = f"{sizes.requested_block_size} tokens" + (" or more" if sizes.kv_block_size is None else "")
    adapter, generates = plan.stages[0].spec.adapter, model.kind == "generate"
    facts = [
        ("model", f"{model.id} ({model.architecture}, {model.num_layers} layers, vocabulary {model.vocab_size})"),
        ("kind", f"{model.kind}: {_ANSWERS[model.kind]}"),
        ("folder", model.path),
        *([("adapter", adapter)] if adapter else []),
        ("context", f"{model.max_sequence_length} tokens of prompt and output"),
        *([("sampling", _sampling(plan))] if generates else []),
        ("requests", f"{admission.max_unfinished_requests} unfinished at most, {admission.request_timeout_s:g} s each"),
        (
            "step",
            f"{sizes.max_batch_size} sequences, {sizes.max_num_tokens_per_batch} tokens, {_of_one(plan)}"
            f"{_in_flight(plan)}",
        ),
        ("policies", _policies(plan.engine)),
        *([("drafter", _drafter(plan))] if generates else []),
        ("kv blocks", f"{blocks}, size {block_size}, number format {memory.kv_cache_dtype}"),
        (
            "memory",
            f"weights up to {memory.param_mem_ratio:.0%}, kv up to {memory.kv_share:.0%} of each device; "
            f"this machine has {describe_bytes(memory_bytes())}",
        ),
        ("restarts", f"{runtime.max_restarts} in {runtime.restart_window_s:g} s"),
        ("processes", ", ".join(plan.processes)),
        *((edge.name, _address(edge)) for edge in plan.edges),
    ]
    lines = [f"{name:<10} {text}" for name, text in facts]
    return "\n".join([*lines, "", *_table(rows), *_losses(plan)])


def _stage_row(stage: StagePlan, checkpoint_dtype: str | None) -> list[str]:
    spec, placement = stage.spec, stage.placement
    assert placement is not None, "a plan is placed before it is described"
    return [
        str(stage.index),
        f"{spec.first_layer}:{spec.last_layer}",
        stage.backend,
        stage.level,
        placement.device,
        placement.dtype or (f"auto: {checkpoint_dtype}" if spec.dtype == "auto" and checkpoint_dtype else spec.dtype),
        stage.process + (f" ({stage.python})" if stage.python else ""),
        describe_bytes(placement.weight_bytes),
        ", ".join(placement.capabilities) or "-",
    ]


def _of_one(plan: Plan) -> str:
    """How much of one sequence a step takes."""
    placements = [stage.placement for stage in plan.stages]
    if all(each is not None and Capability.WHOLE_TEXTS in each.capabilities for each in placements):
        return "each text whole"
    return f"{plan.engine.batching.chunked_prefill_size} of one prompt"


def _in_flight(plan: Plan) -> str:
    """How many steps of several stages there are at a time."""
    if plan.num_stages < 2:
        return ""
    return f"; {plan.engine.batching.micro_batch_ratio or plan.num_side_by_side} in flight"


def _policies(engine: EngineTable) -> str:
    batching, admission = engine.batching, engine.admission
    return (
        f"batching {_with_options(batching.batching_policy, batching.batching_policy_options)}, "
        f"admission {_with_options(admission.admission_policy, admission.admission_policy_options)}"
    )


def _drafter(plan: Plan) -> str:
    return _with_options(plan.drafter, plan.engine.speculation.drafter_options) if plan.drafter else "none"


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    return f"{name} ({', '.join(f'{key} = {value}' for key, value in options.items())})" if options else name


def _losses(plan: Plan) -> list[str]:
    """What the replica cannot do although some of its stages can; an engine loses nothing to others."""
    placed = [(stage.actor, stage.placement) for stage in plan.stages if not stage.is_engine]
    capabilities = {actor: [] if placement is None else placement.capabilities for actor, placement in placed}
    lost = [*lost_capabilities(capabilities), *_idle(plan, capabilities)]
    return ["", *lost] if lost else []


def _idle(plan: Plan, capabilities: Mapping[str, list[str]]) -> list[str]:
    """What is asked for, or there by default, and cannot act; only where the backends told what they can do."""
    if plan.model.kind != "generate" or not any(capabilities.values()):
        return []

    def lacking(*needed: Capability) -> str:
        return ", ".join(name for name in sorted(capabilities) if not set(needed) <= set(capabilities[name]))

    idle = []
    if plan.drafter and (names := lacking(Capability.REWIND, Capability.ALL_POSITION_LOGITS)):
        idle.append(f"the drafter {plan.drafter} cannot act: {names} cannot verify what it drafts")
    if plan.engine.batching.prefix_cache and (names := lacking(Capability.PREFIX_SHARE)):
        idle.append(f"the prefix cache cannot act: {names} cannot share blocks")
    if not plan.model.honours.grammar_kinds:
        idle.append("grammars cannot act: no plugin enforces them, so response_format and forced tool calls get 400")
    return idle


def _sampling(plan: Plan) -> str:
    defaults = ", ".join(f"{field} {value:g}" for field, value in plan.model.default_sampling.items())
    return f"{defaults or 'no defaults of the model'}; fields: {', '.join(plan.model.sampling_fields) or 'none'}"


def _address(edge: EdgePlan) -> str:
    host, port = edge.settings.get("host"), edge.settings.get("port")
    if host is None or port is None:
        return f"in the process {FRONT}"
    return f"http://{f'[{host}]' if ':' in str(host) else host}:{port}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
