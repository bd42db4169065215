"""What an edge of the runtime (the HTTP endpoint, a benchmark, a test) sees: submit ids, iterate deltas.

The gateway lives in the front process. Text never crosses it: the edge that submits owns tokenizer and detokenizer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from histrio.config.model_kind import ModelKind
from histrio.config.vector_habits import VectorHabits
from histrio.contracts.honours import OF_STAGES, Honours
from histrio.messages import Ask, Extras, RequestState, SamplingFields, Tune

__all__ = [
    "MAX_EVENTS",
    "Delta",
    "Event",
    "Gateway",
    "GatewayStatus",
    "ServedModel",
    "StageStatus",
    "Submission",
    "TokenStream",
]

MAX_EVENTS = 100
"""Most of them that a status keeps; older ones are forgotten."""


class ServedModel(msgspec.Struct, frozen=True):
    """What the front knows of the model it serves, read from its configuration files only."""

    id: str
    """Name clients use: `demo`, the hub id, or the folder's name."""
    path: str
    """Local folder with tokenizer.json, chat template and configuration."""
    created: int
    """Unix seconds."""
    architecture: str
    num_layers: int
    vocab_size: int
    max_sequence_length: int
    """Prompt + output tokens of one request, after the topology's own limit."""
    bos_id: int | None = None
    eos_ids: list[int] = []
    """All ids that end a text, from generation_config.json and config.json."""
    default_sampling: SamplingFields = {}
    """Sampling fields that generation_config.json sets (`temperature`, `top_k`, …)."""
    sampling_fields: list[str] = []
    """Every request field that some sampler, or the engine backend, honours."""
    engine: str = ""
    """Name of the engine backend that serves it; empty where stages and samplers do."""
    honours: Honours = OF_STAGES
    """Which other request fields are honoured; requests that give others get 400. `prompt_logprobs` and `pooling` are
    known once a replica is up."""
    honoured_by: str = "this server"
    """What serves the model, in words."""
    backends: list[str] = []
    """Names of the backends of its stages."""
    kind: ModelKind = "generate"
    """What it answers with; requests for anything else get 400."""
    vectors: VectorHabits = VectorHabits()
    """How it makes vectors of texts where a request does not say."""


_NO_EXTRAS = Extras()


class Submission(msgspec.Struct, frozen=True):
    """One prompt, already tokenized and checked, which is to be continued `num_choices` times."""

    ids: list[int]
    max_new_tokens: int
    """At least 1, and 0 with `ask.pooling`; ids + max_new_tokens <= max_sequence_length."""
    ask: Ask = Ask()
    """What each continuation has to be like, checked: `sampling` with `Gateway.check_sampling`, a grammar for one of
    `ServedModel.honours.grammar_kinds`."""
    num_choices: int = 1
    timeout_s: float | None = None
    """None: the topology's `request-timeout-s`."""
    id: str = ""
    """What the edge calls the request that this belongs to, such as `chatcmpl-…`; for hooks and logs."""
    key: str = ""
    """A label of the API key that the request came with, the same for the same key, and never the key itself; empty
    without one."""
    user: str = ""
    """Whom the request says that it is for; whatever the client wrote there."""


@dataclass(slots=True)
class Delta:
    """New tokens of one choice; with a finished `state` it is the last one."""

    ids: list[int]
    state: RequestState
    extras: Extras = _NO_EXTRAS
    """What came beside the tokens."""


class TokenStream(Protocol):
    """The tokens of one choice, as they come. Iterate it to the end, or `cancel()` it."""

    num_prompt_tokens: int

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def __anext__(self) -> Delta:
        """Wait for the next delta. Several steps' tokens are one delta if the reader was slow."""

    @property
    def is_recovering(self) -> bool:
        """Whether the replica that ran this request is being replaced (send a keep-alive)."""

    def cancel(self, state: RequestState = RequestState.CANCELLED) -> None:
        """Stop generating and free the blocks; no delta follows. Does nothing after the end."""


class StageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, or the engine backend that takes the place of all, as the front knows it."""

    index: int
    first_layer: int
    last_layer: int
    """The layer after its last one."""
    backend: str
    process: str
    """Role of the process that it runs in."""
    device: str = ""
    """The device as its backend names it; empty until the stage is placed."""
    dtype: str = ""
    """Number format that it computes in; empty until it is open."""
    param_bytes: int = 0
    """Bytes of its weights; 0 until it is open, and for an engine backend."""
    block_bytes_per_token: int = 0
    """Bytes that one token takes in its blocks."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened to the service, in words that clients may see."""

    time_s: float
    """Unix seconds."""
    level: Literal["info", "warning", "error"]
    text: str


@dataclass(slots=True)
class GatewayStatus:
    """What /health and /metrics show."""

    state: str = "loading"
    """"loading" | "ready" | "recovering" | "draining" | "failed"."""
    detail: str = ""
    """Progress while loading, the reason when failed."""
    progress: float = 0.0
    num_unfinished: int = 0
    max_unfinished_requests: int = 0
    epoch: int = 0
    num_replays: int = 0
    counters: dict[str, float] = field(default_factory=dict)
    """Monotonic totals by Prometheus-style name without prefix, e.g. `generated_tokens_total`."""
    gauges: dict[str, float] = field(default_factory=dict)
    """Present values, e.g. `running_sequences`, `free_blocks`."""
    plugin_metrics: Mapping[str, float] = field(default_factory=dict)
    """What plugins add, by name and labels; replaced as a whole after each interval."""
    stages: dict[int, StageStatus] = field(default_factory=dict)
    """Index → stage; an engine backend has index 0."""
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    """The latest ones, the oldest first."""


class Gateway(Protocol):
    """The front's door to the replica."""

    model: ServedModel
    status: GatewayStatus

    def check_sampling(self, fields: dict[str, Any]) -> None:
        """Raise `RequestError` with the field as `param` for an unknown field or a value out of its bounds."""

    def sampling_schemas(self) -> dict[str, dict[str, Any]]:
        """For each of `ServedModel.sampling_fields` the JSON schema of its values, with its default."""

    def submit(self, submission: Submission) -> Sequence[TokenStream]:
        """One stream per choice. Raises `RequestError` for what cannot be honoured,
        `Overloaded`, `EngineError`; takes all credits or none."""

    def reset_cache(self) -> None:
        """Forget all prefixes that no running request reads."""

    def tune(self, tuning: Tune) -> None:
        """Change the bounds of steps, for replicas to come too. An engine has bounds of its own."""
