"""The hooks a plugin may implement; `docs/hooks.md` describes each with an example.

Those that register are called at start-up: they hand over objects, and the core calls methods on those. Those that
watch are told of requests, intervals and failures. None is called per step or per token.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from histrio.contracts.backend import BackendFactory
from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.grammar import GrammarBackend
from histrio.contracts.observed import FinishedRequest, IntervalStats
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy
from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.sampler import Sampler
from histrio.contracts.tool_format import ToolFormat

if TYPE_CHECKING:
    from histrio.contracts.gateway import Gateway

__all__ = [
    "EdgeContext",
    "EdgeService",
    "hookimpl",
    "on_actor_failed",
    "on_interval",
    "on_request_finished",
    "register_admission_policies",
    "register_backends",
    "register_batching_policies",
    "register_drafters",
    "register_edges",
    "register_grammars",
    "register_reasoning_formats",
    "register_samplers",
    "register_tool_formats",
]

PROJECT = "histrio"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(slots=True)
class EdgeContext:
    """The gateway and the settings for an edge service."""

    gateway: Gateway
    settings: Any
    """Its table of the topology (`[api]` for the endpoint), as an instance of `EdgeService.settings`."""
    ready: Callable[[str], None]
    """Call once with the address when connections are accepted."""


class EdgeService(Protocol):
    """A service in the front process that turns foreign requests into submissions, such as the HTTP endpoint.

    One that has `check_model(model)` is asked before anything starts, and by `--check`, whether it can serve this
    `ServedModel`; it raises `ModelError` where it cannot.
    """

    name: str
    """Also the name of its table in a topology."""
    settings: type[Any]
    """A msgspec struct with `rename="kebab"` and defaults: the keys its table may have."""

    def run(self, context: EdgeContext) -> Coroutine[Any, Any, None]:
        """Serve until cancelled; clean up in `finally`. Raise `HistrioError` for a mistake that a user can mend."""


@hookspec
def register_backends(register: Callable[[BackendFactory | EngineFactory], None]) -> None:
    """Offer stage and engine backends: call `register(factory)` for each."""


@hookspec
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    """Offer samplers: call `register(SamplerClass)` for each."""


@hookspec
def register_grammars(register: Callable[[GrammarBackend], None]) -> None:
    """Offer what enforces grammars: call `register(backend)` for each."""


@hookspec
def register_tool_formats(register: Callable[[ToolFormat], None]) -> None:
    """Offer forms in which models write calls of tools: call `register(tool_format)` for each."""


@hookspec
def register_reasoning_formats(register: Callable[[ReasoningFormat], None]) -> None:
    """Offer forms in which models write what they think: call `register(reasoning_format)` for each."""


@hookspec
def register_edges(register: Callable[[EdgeService], None]) -> None:
    """Offer services of the front process: call `register(service)` for each."""


@hookspec
def register_drafters(register: Callable[[DrafterFactory], None]) -> None:
    """Offer drafters, which propose tokens for the model to verify: call `register(factory)` for each."""


@hookspec
def register_batching_policies(register: Callable[[type[BatchingPolicy]], None]) -> None:
    """Offer policies that decide in which order requests enter: call `register(PolicyClass)` for each."""


@hookspec
def register_admission_policies(register: Callable[[type[AdmissionPolicy]], None]) -> None:
    """Offer policies that decide which requests are accepted: call `register(PolicyClass)` for each."""


@hookspec
def on_request_finished(record: FinishedRequest) -> None:
    """A request has ended: called once for each of its choices, in the front process."""


@hookspec
def on_interval(stats: IntervalStats) -> Mapping[str, float] | None:
    """An interval of `metrics-interval-s` is over; answer numbers for `/metrics` by their names, or nothing."""


@hookspec
def on_actor_failed(actor: str, error: str, restarts: int) -> None:
    """An actor or a process failed; `restarts` counts its failures since the start, this one included."""
