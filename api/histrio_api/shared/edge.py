"""What all routes share: the gateway, the model's text side, the settings and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2s
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from histrio.config.model_kind import ModelKind
from histrio.contracts.gateway import Gateway
from histrio.contracts.honours import require_task
from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.tool_format import ToolFormat
from histrio.errors import EngineError, ModelNotFound, Overloaded
from histrio.front.grammar_check import GrammarChecker
from histrio.messages import ReasoningMarks
from histrio_api.keys.ring import KeyRing
from histrio_api.shared.body_room import BodyRoom
from histrio_api.shared.metrics import EndpointMetrics
from histrio_api.shared.response_store import ResponseStore
from histrio_api.shared.settings import ApiSettings
from histrio_api.text.template import ChatTemplate
from histrio_api.text.tokenizer import Tokenizer
from histrio_api.usage.counts import Counts
from histrio_api.usage.ledger import UsageLedger

__all__ = ["BYTES_PER_SCORE", "Edge"]

T = TypeVar("T")

BYTES_PER_SCORE = 4
_MANY_TOKENS = 1024
_SERVED = ("", "default")
"""Names of the served model besides its id."""


@dataclass
class Edge:
    """One endpoint over one gateway; the `state` of all requests."""

    gateway: Gateway
    settings: ApiSettings
    tokenizer: Tokenizer
    template: ChatTemplate | None
    metrics: EndpointMetrics
    tool_format: ToolFormat | None = None
    """How the model writes calls of tools; None if that is not known."""
    reasoning_format: ReasoningFormat | None = None
    """How it writes what it thinks before it answers; None if it does not, as far as is known."""
    grammars: GrammarChecker | None = None
    """None: the engine that enforces the served model's grammars checks them too."""
    keys: KeyRing = field(default_factory=KeyRing)
    usage: UsageLedger | None = None
    """None: usage is not kept."""
    max_speculation: int | None = None
    """Of requests that have none of their own; None for as many drafts as the engine's settings allow."""
    openapi: bytes = b""
    """The OpenAPI document, once it was asked for."""
    _num_encoding: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the served model does."""
        model = self.gateway.model
        return "fp_" + blake2s(f"{model.id} {model.path} {model.created}".encode(), digest_size=5).hexdigest()

    @property
    def reasoning_marks(self) -> ReasoningMarks | None:
        """Between which the model reasons, if it does so between marks."""
        return None if self.reasoning_format is None else self.reasoning_format.marks

    @cached_property
    def sampling_fields(self) -> frozenset[str]:
        """Request fields that some sampler, or the engine backend, honours."""
        return frozenset(self.gateway.model.sampling_fields)

    @cached_property
    def integers(self) -> frozenset[str]:
        """Those of them that are integers, or lists of such."""
        return frozenset(name for name, schema in self.gateway.sampling_schemas().items() if _of_integers(schema))

    @cached_property
    def honoured_by(self) -> str:
        """What serves the model, for messages about fields that it does not support."""
        return self.gateway.model.honoured_by

    @cached_property
    def body_room(self) -> BodyRoom:
        """For the bodies of all requests."""
        return BodyRoom(max(self.settings.max_waiting_body_bytes, self.settings.max_body_bytes))

    @cached_property
    def score_room(self) -> BodyRoom:
        """For the log probabilities of whole vocabularies, in bytes."""
        return BodyRoom(BYTES_PER_SCORE * self.settings.max_vocabulary_scores)

    @cached_property
    def score_threads(self) -> CapacityLimiter:
        """In which they become JSON: one, because several would hold the interpreter's lock from the loop."""
        return CapacityLimiter(1)

    @cached_property
    def responses(self) -> ResponseStore:
        """What `/v1/responses` answered."""
        settings = self.settings
        max_responses = settings.max_stored_responses if settings.store_responses else 0
        return ResponseStore(max_responses, settings.max_stored_response_bytes)

    @cached_property
    def _encode_threads(self) -> CapacityLimiter:
        return CapacityLimiter(self.settings.max_encode_threads)

    def require_model(self, name: str) -> None:
        """Raise `ModelNotFound` unless what is served here answers to `name`."""
        if not (name in _SERVED or self.settings.any_model):
            self.require_id(name)

    def require_task(self, task: ModelKind) -> None:
        """Raise `RequestError` if the served model is of a kind that does not do this."""
        require_task(self.gateway.model.kind, task)

    def require_id(self, name: str) -> None:
        """Raise `ModelNotFound` unless `name` is the id of what is served here."""
        if name != self.gateway.model.id:
            raise ModelNotFound(f"no such model here; this server has: {self.gateway.model.id}", param="model")

    def count_usage(self, key: str, counts: Counts) -> None:
        """Count what a request with this key used, if usage is kept."""
        if self.usage is not None:
            self.usage.count(key, self.gateway.model.id, counts)

    def require_accepting(self) -> None:
        """Raise `EngineError` while requests cannot be taken: loading, draining, failed."""
        status = self.gateway.status
        match status.state:
            case "loading":
                raise EngineError(f"the model is loading ({status.progress:.0%}); try again soon")
            case "draining":
                raise EngineError("the server is shutting down")
            case "failed":
                raise EngineError("the engine failed and was not restarted; the server's log has the reason")

    async def run_answer(self, work: Callable[[], T], num_tokens: int) -> T:
        """Make an answer with the log probabilities of so many tokens, here or in a thread as `run_text` does."""
        return work() if num_tokens <= _MANY_TOKENS else await to_thread.run_sync(work)

    async def run_text(self, work: Callable[[], T], num_chars: int) -> T:
        """Do parsing, rendering or encoding here if it is short, else in a thread so that running streams don't wait.

        Only what releases the interpreter's lock now and then frees them there.
        """
        if num_chars <= self.settings.thread_encode_chars:
            return work()

        if self._num_encoding >= self.settings.max_encode_queue:
            raise Overloaded("too many long requests are waiting to be read; try again soon")

        self._num_encoding += 1
        try:
            return await to_thread.run_sync(work, limiter=self._encode_threads)
        finally:
            self._num_encoding -= 1


def _of_integers(schema: dict[str, Any]) -> bool:
    """Whether a JSON schema takes integers, and no other numbers, by themselves or in lists."""
    kinds = {schema.get("type"), *(_kind_within(each) for each in schema.get("anyOf", [])), _kind_within(schema)}
    return "integer" in kinds and "number" not in kinds


def _kind_within(schema: dict[str, Any]) -> str:
    """The type of the items of a list, of lists of lists too; else the type."""
    items = schema.get("items")
    return _kind_within(items) if isinstance(items, dict) else str(schema.get("type"))
