"""Admission: takes credits, keeps the table of unfinished requests, and is the gateway edges submit to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from histrio.actors.mailbox import Actor
from histrio.actors.refs import BATCHING, KV, ROOT, Tell, ToAdmission, refuse
from histrio.contracts.backend import Capability
from histrio.contracts.gateway import GatewayStatus, ServedModel, Submission
from histrio.contracts.honours import require_honoured, require_task
from histrio.contracts.request_fields import FieldTable
from histrio.errors import EngineError, PluginFailed, RequestError, WireError
from histrio.front.requests import RequestTable, Ticket
from histrio.front.streams import RequestStream
from histrio.messages import (
    Cancel,
    Generate,
    OnTrial,
    ReplicaDown,
    ReplicaSize,
    ReplicaUp,
    RequestState,
    ResetCache,
    TokenRow,
    Tokens,
    Tune,
)
from histrio.net.wire import encode

__all__ = ["AdmissionActor"]

log = logging.getLogger(__name__)


class AdmissionActor(Actor[ToAdmission]):
    """Lives on the front's loop. After a failure every unfinished request is sent to the replica that follows: those
    that were in the failed one at first alone, one after the other (`front/trials.py`)."""

    def __init__(
        self,
        tell: Tell,
        model: ServedModel,
        table: RequestTable,
        fields: FieldTable,
        *,
        request_timeout_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.status = GatewayStatus(max_unfinished_requests=table.max_unfinished_requests)
        self._tell = tell
        self._table = table
        table.clock = clock
        table.can_continue = fields.can_continue
        self._fields = fields
        self._request_timeout_s = request_timeout_s
        self._clock = clock
        self._epoch: int | None = None
        """Epoch of the replica that serves; None while there is none."""
        self._tuning = Tune()
        """What was changed since the start: every replica is told."""
        self._told_trial = OnTrial(0)
        """What root was told last."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after a replica came or went."""

    # --- gateway -----------------------------------------------------------------------------------------------------

    def check_sampling(self, fields: dict[str, Any]) -> None:
        """Raise `RequestError` with the field as `param` for an unknown field or a value out of its bounds."""
        self._fields.check(fields, self.model.vocab_size)

    def sampling_schemas(self) -> dict[str, dict[str, Any]]:
        """For each field that is honoured the JSON schema of its values, with its default."""
        return self._fields.schemas()

    def submit(self, submission: Submission) -> list[RequestStream]:
        """One stream per choice. Raises `RequestError` for a field that would be ignored, `Overloaded`, `EngineError`
        while loading, draining or after a failure."""
        if self.status.state not in ("ready", "recovering"):
            raise EngineError(f"the engine is {self.status.state}: {self.status.detail or 'no requests are taken'}")

        ask = submission.ask
        if ask.pooling is None:
            require_task(self.model.kind, "generate")
        require_honoured(ask, self.model.honours, self.model.honoured_by, self.model.backends)
        if ask.seed is not None and "seed" in self.model.sampling_fields:
            self.check_sampling({"seed": ask.seed})  # an engine may have bounds of its own

        now = self._clock()
        deadline = now + (submission.timeout_s or self._request_timeout_s)
        commands = self._table.accept(submission)
        streams = [self._open(command, deadline, now) for command in commands]
        try:
            # What cannot cross a link is refused while its client can be told; ids were checked, and are long.
            encode(BATCHING, msgspec.structs.replace(commands[0], ids=[]))
        except WireError as error:
            log.warning("a request is refused: %s", error)
            for stream in streams:
                stream.cancel(RequestState.ERROR)
            raise RequestError("a value of the request is too large, or of a form that cannot be passed on") from None

        self._send_next()
        return streams

    def reset_cache(self) -> None:
        """Forget all prefixes that no running request reads. With no replica there are none."""
        if self._epoch is not None and not self.model.engine:
            self._tell(KV, ResetCache())

    def tune(self, tuning: Tune) -> None:
        """Change the bounds of steps, for replicas to come too. An engine has bounds of its own."""
        given = {name: value for name, value in msgspec.structs.asdict(tuning).items() if value is not None}
        self._tuning = msgspec.structs.replace(self._tuning, **given)
        self._tell_tuning()

    def expire(self) -> None:
        """End requests whose time is over. Called by the front's timer."""
        for request in self._table.expire(self._clock()):
            self._forget(request, RequestState.ERROR)

    def drain(self) -> None:
        """Take no more requests; what runs goes on."""
        self.status.state = "draining"
        self.status.detail = "shutting down"

    @property
    def num_unfinished(self) -> int:
        """Accepted requests that have not ended."""
        return len(self._table)

    # --- actor -------------------------------------------------------------------------------------------------------

    def receive(self, message: ToAdmission) -> None:
        """Tokens for the streams; a replica that came or went."""
        match message:
            case Tokens(epoch, rows):
                if epoch == self._epoch:
                    for row in rows:
                        self._deliver(row)
                    self._send_next()
                    self._count()
            case ReplicaUp():
                self._up(message)
                self.on_change()
            case ReplicaDown():
                self._down(message)
                self.on_change()
            case _:
                refuse("admission", message)

    def _open(self, command: Generate, deadline: float, now: float) -> RequestStream:
        request = command.request
        stream = RequestStream(
            command.num_prompt_tokens, lambda state: self._cancel(request, state), lambda: self._is_recovering
        )
        self._table.add(Ticket(command, deadline, stream.push, accepted_s=now))
        self.status.num_unfinished = len(self._table)
        return stream

    @property
    def _is_recovering(self) -> bool:
        return self._epoch is None or self._table.on_trial != 0

    def _deliver(self, row: TokenRow) -> None:
        """Hand the row to its stream. A stream that fails costs no other stream its tokens."""
        if row.extras is not None and row.extras.code == PluginFailed.code:
            log.error("request %d ended: %s", row.request, row.extras.reason)
        try:
            self._table.deliver(row)
        except Exception:
            log.exception("the tokens of request %d cannot be delivered, so it ends", row.request)
            self._cancel(row.request, RequestState.ERROR)

    def _send_next(self) -> None:
        """Hand on what the replica may have now."""
        while self._epoch is not None and (commands := self._table.next_commands()):
            self._tell_trial()
            for command in commands:
                self._send(command)
        self._tell_trial()

    def _send(self, command: Generate) -> None:
        """A command that cannot be sent ends alone: those behind it are sent all the same."""
        try:
            self._tell(BATCHING, command)
        except Exception:
            log.exception("request %d cannot be sent to the engine, so it ends", command.request)
            self._table.fail(command.request, EngineError("the request cannot be sent to the engine"))
            self._table.unsent(command.request)

    def _tell_trial(self) -> None:
        """Tell root which request is alone in the replica, before the command arrives there."""
        trial = OnTrial(self._table.on_trial, self._table.on_trial != 0 and self._table.has_got_on)
        if trial == self._told_trial:
            return
        self._told_trial = trial
        self._tell(ROOT, trial)
        if not trial.request and self.status.state == "recovering" and self._epoch is not None:
            self._set_ready()

    def _cancel(self, request: int, state: RequestState) -> None:
        if self._table.remove(request, state):
            self._forget(request, state)

    def _forget(self, request: int, state: RequestState) -> None:
        self._count()
        if self._epoch is not None and self._table.needs_cancel(request):
            self._tell(BATCHING, Cancel(request, state))
            self._send_next()

    def _count(self) -> None:
        self.status.num_unfinished = len(self._table)
        if self.status.state == "draining" and not self._table:
            self.on_change()

    def _up(self, message: ReplicaUp) -> None:
        self._epoch = message.epoch
        self.status.epoch = message.epoch
        self.status.gauges["num_blocks"] = message.size.num_blocks
        self.status.gauges["block_size"] = message.size.block_size
        self._table.num_cache_tokens = message.size.num_blocks * message.size.block_size
        self._limit_length(message.size)
        self._limit_answers(message.size.capabilities)
        self.status.num_replays += self._table.num_suspects
        self._tell_tuning()
        self._send_next()
        if not self._table.on_trial:
            self._set_ready()

    def _tell_tuning(self) -> None:
        if self._epoch is not None and not self.model.engine and self._tuning != Tune():
            self._tell(BATCHING, self._tuning)

    def _set_ready(self) -> None:
        """Requests flow: none is on trial."""
        if self.status.state != "draining":
            self.status.state, self.status.detail = "ready", ""
            self.on_change()

    def _limit_length(self, size: ReplicaSize) -> None:
        """One sequence cannot be longer than all blocks together hold, or than a step of whole texts."""
        longest = size.max_sequence_length
        if longest >= self.model.max_sequence_length:
            return

        is_step = Capability.WHOLE_TEXTS in size.capabilities and longest == size.max_step_tokens
        holder = "a step (max-num-tokens-per-batch), which has whole texts, holds" if is_step else "the KV blocks hold"
        log.warning("%s %d tokens: no request can be longer", holder, longest)
        self.model = msgspec.structs.replace(self.model, max_sequence_length=longest)

    def _limit_answers(self, capabilities: Collection[str]) -> None:
        """Prompts are scored from the logits of all their positions, and vectors are made of hidden states; a model
        that classifies gives scores in their place."""
        pools = Capability.SCORES if self.model.kind == "score" else Capability.HIDDEN_STATES
        can_score, can_pool = Capability.ALL_POSITION_LOGITS in capabilities, pools in capabilities
        honours = msgspec.structs.replace(self.model.honours, prompt_logprobs=can_score, pooling=can_pool)
        self.model = msgspec.structs.replace(self.model, honours=honours)
        self._table.end_what_needs(scores=not can_score, vectors=not can_pool)

    def _down(self, message: ReplicaDown) -> None:
        self._epoch, self._told_trial = None, OnTrial(0)
        if message.final:
            self.status.state, self.status.detail = "failed", message.reason
            self._table.fail_all(message.reason)
            return

        errors = self._table.down(message.convicted, message.suspects, message.culprits, message.code)
        for request, error in errors.items():
            log.error("request %d ended: %s; %s", request, message.reason, error)
        self._count()
        if self.status.state == "ready":
            self.status.state, self.status.detail = "recovering", message.reason
