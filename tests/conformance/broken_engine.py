"""Engines with one known defect each, chosen by `--backend-option defect=NAME`; without one the toy engine itself."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from histrio.contracts.backend import Capability, Probe, StageSpec, Traits
from histrio.contracts.engine_backend import EngineBackend, EngineEvents
from histrio.contracts.honours import Honours
from histrio.messages import EngineCapacity, Extras, Generate, RequestState, TokenLogprobs, TokenRow
from histrio.testing.toy import ToyFactory, toy_logits
from histrio.testing.toy_engine import Running, ToyEngine, ToyEngineFactory, log_softmax

ENGINE_DEFECTS = {
    "abort-ignored": "an_aborted_request_ends_and_harms_no_other",
    "accepts-a-part": "a_part_of_the_model_is_refused",
    "accepts-unknown-options": "the_engine_refuses_an_unknown_option_by_name",
    "all-at-once": "tokens_come_as_they_are_made",
    "breaks-on-foreign-aborts": "aborting_what_ended_or_never_was_is_harmless",
    "capacity-of-nothing": "engine_capacity_is_sane",
    "closes-once": "an_engine_opened_again_says_the_same",
    "drops-the-last-id": "an_id_that_ends_a_request_is_its_last",
    "forgets-what-was-delivered": "what_can_be_continued_goes_on_with_the_same_tokens",
    "hides-its-top": "a_request_field_is_honoured_or_refused",
    "hides-logprobs": "logprobs_are_declared_where_they_can_be_asked_for",
    "logprobs-a-little-off": "logprobs_equal_the_reference",
    "logprobs-unasked": "logprobs_come_when_asked_for",
    "mixes-requests": "requests_at_a_time_equal_single_ones",
    "obeys-its-own-eos": "the_models_own_eos_ends_nothing_by_itself",
    "runs-beyond-its-length": "a_command_beyond_the_longest_sequence_ends_alone",
    "shares-across-salts": "a_request_field_is_honoured_or_refused",
    "second-best": "engine_tokens_equal_the_reference",
    "wanders": "a_greedy_request_says_the_same_every_time",
}
"""Defect → a test that finds it."""


class NeedyFields(msgspec.Struct, frozen=True):
    """A field without a default."""

    temperature: float


class BrokenEngineFactory(ToyEngineFactory):
    """Not registered: `--backend broken_engine:BrokenEngineFactory`."""

    name = "broken-engine"
    honours = Honours(cache_salt=True, logprobs=True, top_logprobs=True)
    options: Any = None  # it gets the plain table, and refuses what it does not know by itself

    def supports(self, spec: StageSpec) -> Probe:
        if spec.options.get("defect") == "accepts-a-part":
            return ToyFactory().supports(spec)
        return msgspec.structs.replace(super().supports(spec), capabilities=[])

    def create(self) -> EngineBackend:
        return BrokenEngine()


class BoastfulEngineFactory(BrokenEngineFactory):
    """Claims too much in its traits and of what it can continue, and has a field without a default."""

    traits = Traits(contract=2, level="engine", capabilities=[Capability.REWIND])
    fields = NeedyFields

    def can_continue(self, sampling: dict[str, Any]) -> bool:
        return True


def _asking(command: Generate, **changes: Any) -> Generate:
    return msgspec.structs.replace(command, ask=msgspec.structs.replace(command.ask, **changes))


class BrokenEngine(ToyEngine):
    """The toy engine with the chosen defect."""

    def open(self, spec: StageSpec, events: EngineEvents) -> EngineCapacity:
        options = dict(spec.options)
        self.defect = options.pop("defect", None)
        self.num_closed = 0
        self.held: dict[int, TokenRow] = {}
        if self.defect == "accepts-unknown-options":
            options = {}
        capacity = super().open(msgspec.structs.replace(spec, options=options), events)
        if self.defect == "capacity-of-nothing":
            return msgspec.structs.replace(capacity, max_sequence_length=10**6)
        if self.defect == "hides-logprobs":
            return msgspec.structs.replace(capacity, capabilities=[])
        return capacity

    def submit(self, command: Generate) -> None:
        if self.defect == "forgets-what-was-delivered":
            command = msgspec.structs.replace(command, ids=command.ids[: command.num_prompt_tokens])
        if self.defect == "obeys-its-own-eos":
            command = _asking(command, eos_ids=[*command.ask.eos_ids, 257])
        if self.defect == "logprobs-unasked":
            command = _asking(command, sampling={**command.ask.sampling, "logprobs": True})
        if self.defect == "runs-beyond-its-length":
            self._longest = 10**6
        super().submit(command)

    def abort(self, request: int) -> None:
        if self.defect == "breaks-on-foreign-aborts" and request not in self._requests:
            self._events.failed("what request?")
        if self.defect != "abort-ignored":
            super().abort(request)

    def close(self) -> None:
        self.num_closed = getattr(self, "num_closed", 0) + 1
        if getattr(self, "defect", None) == "closes-once" and self.num_closed > 1:
            raise RuntimeError("closed already")
        super().close()

    def _step(self) -> list[TokenRow]:
        rows = [self._changed(row) for row in super()._step()]
        return self._hold(rows) if self.defect == "all-at-once" else rows

    def _next_token(self, running: Running) -> TokenRow:
        row = self._with_top(super()._next_token(running), running)
        is_off = (
            self.defect == "second-best"
            or (self.defect == "mixes-requests" and len(self._requests) > 3)
            or (self.defect == "wanders" and self._random.random() < 0.5)
        )
        if not is_off:
            return row

        running.ids[-1] ^= 1
        return msgspec.structs.replace(row, ids=running.ids[-1:])

    def _with_top(self, row: TokenRow, running: Running) -> TokenRow:
        """The toy engine tells nothing of the most likely tokens."""
        num_top = running.command.ask.num_logprobs
        if not num_top or row.extras is None or self.defect == "hides-its-top":
            return row

        logits = toy_logits(running.ids[:-1], num_layers=self._spec.num_layers, vocab_size=self._vocab_size)
        logprobs = log_softmax(logits)
        top = [(int(id_), float(logprobs[id_])) for id_ in np.argsort(-logits, kind="stable")[:num_top]]
        (chosen,) = row.extras.logprobs
        return msgspec.structs.replace(row, extras=Extras(logprobs=[TokenLogprobs(chosen.logprob, top)]))

    def _changed(self, row: TokenRow) -> TokenRow:
        ended = row.state in (RequestState.FINISHED_EOS, RequestState.FINISHED_STOP)
        if self.defect == "drops-the-last-id" and ended:
            return msgspec.structs.replace(row, ids=[])
        if self.defect == "shares-across-salts":
            return msgspec.structs.replace(row, extras=Extras(num_cached_tokens=16))
        if self.defect == "logprobs-a-little-off" and row.extras is not None:
            off = [msgspec.structs.replace(each, logprob=each.logprob - 0.01) for each in row.extras.logprobs]
            return msgspec.structs.replace(row, extras=Extras(logprobs=off))
        return row

    def _hold(self, rows: list[TokenRow]) -> list[TokenRow]:
        """Rows of requests that have ended, with everything they said."""
        for row in rows:
            before = self.held.get(row.request)
            ids = (before.ids if before else []) + row.ids
            self.held[row.request] = msgspec.structs.replace(row, ids=ids)
        return [self.held.pop(row.request) for row in rows if row.state.is_finished]
