"""The contract between the core and an *engine backend*: a whole engine with a scheduler and a cache of its own.

An engine hosts the whole model. Requests are passed through to it as they are, and it answers tokens when it likes. An
engine actor takes the place of batching, kv and stages behind the same mailbox, so the front cannot tell the
difference. Engines start processes and install signal handlers as they please, so each has a process of its own, which
ends when the engine breaks and is started again.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from histrio.contracts.backend import Probe, StageSpec, Traits
from histrio.contracts.honours import Honours
from histrio.messages import EngineCapacity, Generate, TokenRow

__all__ = ["ENGINE_CONTRACT", "EngineBackend", "EngineCapacity", "EngineEvents", "EngineFactory"]

ENGINE_CONTRACT = 2
"""The version of this contract. An engine of version 1 has no `honours`: what it does not say is not honoured."""


class EngineEvents(Protocol):
    """The calls by which an engine tells its news, from any thread."""

    def progress(self, fraction: float, text: str) -> None:
        """Report the progress of loading, 0 to 1."""

    def tokens(self, rows: list[TokenRow]) -> None:
        """New tokens, and how requests ended; one call per step rather than per request. Rows of requests that have
        ended or were aborted are dropped. A row with ERROR has a reason that is safe to show."""

    def failed(self, error: str) -> None:
        """The engine is broken: its process ends with this in the log, and another is started."""


class EngineBackend(Protocol):
    """A whole engine. All calls come from one thread, the main thread of its process, and none but `open` and `close`
    waits for the engine. What a method raises beyond what it says breaks the engine, as `EngineEvents.failed` does."""

    def open(self, spec: StageSpec, events: EngineEvents) -> EngineCapacity:
        """Load the model, all of its layers; return once requests may come. `spec.sizes.num_cache_tokens` is how many
        tokens the cache shall hold, if given. Raises `ModelError`, `BackendError` where another try would fail in the
        same way.
        """

    def submit(self, command: Generate) -> None:
        """Run a request until it ends: FINISHED_EOS after an id of `command.ask.eos_ids`, FINISHED_STOP after one of
        `command.ask.stop_ids`, FINISHED_MAX_LENGTH at `max_total_tokens`. The id that ended it is part of its tokens.
        Fields were checked against `EngineFactory.fields`. `command.request` is a number of this one run, of up to 63
        bits.

        With more `ids` than `num_prompt_tokens` it goes on with an answer: what follows `ids` is told, and nothing of
        them again. Raises `RequestError` for a command it cannot run, which ends that request alone.
        """

    def abort(self, request: int) -> None:
        """Forget a request; it may have ended already."""

    def close(self) -> None:
        """End the engine and its processes. Safe to call twice, and after a failure."""


class EngineFactory(Protocol):
    """What a plugin registers under a name, with `traits.level == "engine"`; cheap to import."""

    name: str
    traits: Traits
    fields: type[msgspec.Struct]
    """The sampling fields the engine enforces, with their bounds as `msgspec.Meta` and defaults that do nothing. A
    request that needs another is refused with 400.

    Two names have a meaning. `logprobs: bool` asks for `Extras.logprobs`, of the distribution before temperature.
    `seed`, with the bounds of a client's seed, says that draws depend on `Generate.seed` and `choice` alone, where the
    seed then comes; without it a request with a seed is refused. `top_logprobs: int` is reserved."""

    honours: Honours
    """The request fields besides those that the engine honours. A request that gives another is refused with 400."""

    def probe(self) -> Probe:
        """Whether this machine can run the engine, without loading a model."""

    def supports(self, spec: StageSpec) -> Probe:
        """Whether it can serve the model of `spec`, whose range is always the whole; reads configuration files only."""

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        """Whether a request with these fields, part of whose tokens were delivered before the engine died, goes on with
        the very tokens that an undisturbed run would have given. Where not, it ends at once with `EngineRestarted`."""

    def create(self) -> EngineBackend:
        """An engine that is not yet open."""
