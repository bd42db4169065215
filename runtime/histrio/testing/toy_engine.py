"""A toy engine: the toy model behind an engine's door, with a scheduler thread and a request table of its own.

It says the tokens of `toy_continuation`, one per request and step, so that whatever hosts engines can be tried without
one. Like a real engine it draws with random numbers of its own where the temperature is above 0, so that such a request
cannot be continued by another run.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Capability, Probe, StageSpec, Traits
from histrio.contracts.engine_backend import EngineBackend, EngineEvents
from histrio.contracts.honours import Honours
from histrio.contracts.options import as_options
from histrio.errors import BackendError, RequestError, TopologyError, UnsupportedModel
from histrio.messages import EngineCapacity, Extras, Generate, RequestState, TokenLogprobs, TokenRow
from histrio.testing.toy import ToyFactory, read_toy_config, toy_logits

__all__ = ["Running", "ToyEngine", "ToyEngineFactory", "ToyEngineFields", "ToyEngineOptions", "log_softmax"]

_CLOSE_TIMEOUT_S = 10.0


class ToyEngineFields(msgspec.Struct, frozen=True):
    """What the toy engine enforces."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    logprobs: bool = False
    """Answer `Extras.logprobs`."""


class ToyEngineOptions(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a toy engine."""

    step_s: float = 0.0
    """Seconds every step sleeps, in place of a device that computes."""
    fail_at_step: int = 0
    """The step in which the engine breaks; 0 for never."""
    open_s: float = 0.0
    """Seconds that loading takes."""


class ToyEngineFactory:
    """Registers as `toy-engine`."""

    name = "toy-engine"
    traits = Traits(contract=2, level="engine", capabilities=[Capability.OWN_PROCESS])
    fields: type[msgspec.Struct] = ToyEngineFields
    honours = Honours(cache_salt=True, logprobs=True)
    options = ToyEngineOptions

    def probe(self) -> Probe:
        """Runs everywhere."""
        return Probe(available=True, devices=["cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        """Whole models written by `write_toy_model`."""
        if not (spec.is_first and spec.is_last):
            reason = f"an engine runs all layers, not {spec.first_layer}:{spec.last_layer} of {spec.num_layers}"
            return Probe(False, reason, "give the whole model to one stage")

        probe = ToyFactory().supports(spec)
        return Probe(True, capabilities=[Capability.LOGPROBS]) if probe.available else probe

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        """Greedy requests only: other draws come from random numbers that cannot be repeated."""
        return msgspec.convert(sampling, ToyEngineFields).temperature == 0

    def create(self) -> EngineBackend:
        """An engine that is not yet open."""
        return ToyEngine()


@dataclass(slots=True)
class Running:
    """A request and all of its tokens so far."""

    command: Generate
    ids: list[int]
    fields: ToyEngineFields = field(init=False)

    def __post_init__(self) -> None:
        self.fields = msgspec.convert(self.command.ask.sampling, ToyEngineFields)

    def state_after(self, token: int) -> RequestState:
        """Where the request stands once `token` is its last."""
        if token in self.command.ask.eos_ids:
            return RequestState.FINISHED_EOS
        if token in self.command.ask.stop_ids:
            return RequestState.FINISHED_STOP
        if len(self.ids) >= self.command.max_total_tokens:
            return RequestState.FINISHED_MAX_LENGTH
        return RequestState.DECODING


class ToyEngine:
    """Implements `histrio.contracts.engine_backend.EngineBackend`; computes on a thread of its own."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Generate | int | None] = queue.SimpleQueue()
        self._requests: dict[int, Running] = {}
        self._random = np.random.default_rng()
        self._num_steps = 0
        self._thread: threading.Thread | None = None

    def open(self, spec: StageSpec, events: EngineEvents) -> EngineCapacity:
        """Read the configuration and start the thread."""
        config = read_toy_config(spec.model)
        if config.get("model_type") != "toy":
            raise UnsupportedModel(f"the toy engine cannot run {config.get('model_type')!r}")
        try:
            self._options = as_options(spec.options, ToyEngineOptions, "options")
        except TopologyError as error:
            raise BackendError(str(error)) from None
        self._spec, self._events, self._vocab_size = spec, events, int(config["vocab_size"])
        time.sleep(self._options.open_s)
        events.progress(1.0, "toy engine")
        self._thread = threading.Thread(target=self._run, name="toy-engine", daemon=True)
        self._thread.start()
        self._longest = min(spec.max_sequence_length, int(config["max_position_embeddings"]))
        max_requests = spec.sizes.max_batch_size
        num_cache_tokens = spec.sizes.num_cache_tokens or max_requests * self._longest
        return EngineCapacity(max_requests, self._longest, num_cache_tokens, "int64", [Capability.LOGPROBS])

    def submit(self, command: Generate) -> None:
        """Hand the request to the thread. Raises `RequestError` for one that is too long."""
        if len(command.ids) >= self._longest:
            raise RequestError(f"{len(command.ids)} tokens leave no room in a sequence of {self._longest}")

        self._commands.put(command)

    def abort(self, request: int) -> None:
        """Tell the thread to forget the request."""
        self._commands.put(request)

    def close(self) -> None:
        """End the thread after its step. Safe to call twice."""
        if self._thread is None:
            return

        self._commands.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._thread = None

    def _run(self) -> None:
        """Orders, then a step, until closed or broken; waits while there is nothing to do."""
        while self._take_commands():
            try:
                rows = self._step()
            except RuntimeError as error:
                self._events.failed(str(error))
                return

            if rows:
                self._events.tokens(rows)

    def _take_commands(self) -> bool:
        """Apply every command that waits; False where the engine shall end."""
        while not self._commands.empty() or not self._requests:
            match self._commands.get():
                case None:
                    return False
                case Generate() as command:
                    self._requests[command.request] = Running(command, list(command.ids))
                case int() as request:
                    self._requests.pop(request, None)
        return True

    def _step(self) -> list[TokenRow]:
        """One token for each of the oldest `max_batch_size` requests; the others wait."""
        self._num_steps += 1
        if self._num_steps == self._options.fail_at_step:
            raise RuntimeError("the toy engine failed, as it was told to")

        time.sleep(self._options.step_s)
        running = list(self._requests.values())[: self._spec.sizes.max_batch_size]
        rows = [self._next_token(request) for request in running]
        for row in rows:
            if row.state.is_finished:
                del self._requests[row.request]
        return rows

    def _next_token(self, running: Running) -> TokenRow:
        logits = toy_logits(running.ids, num_layers=self._spec.num_layers, vocab_size=self._vocab_size)
        logprobs = log_softmax(logits)
        token = int(np.argmax(logits))
        if running.fields.temperature > 0:
            weights = np.exp(log_softmax(logits / running.fields.temperature))
            token = int(self._random.choice(len(weights), p=weights / weights.sum()))

        running.ids.append(token)
        shown = Extras(logprobs=[TokenLogprobs(float(logprobs[token]))]) if running.fields.logprobs else None
        return TokenRow(running.command.request, [token], running.state_after(token), shown)


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The log probabilities of one position."""
    shifted = logits.astype(np.float64) - logits.max()
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
