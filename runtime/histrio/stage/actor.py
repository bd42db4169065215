"""Stage: one backend, one device, a range of layers. Runs on the thread that owns the device and may block it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from histrio.actors.failed_step import blamed, note_failed_step
from histrio.actors.mailbox import FAILURES, Actor
from histrio.actors.refs import BATCHING, METRICS, ROOT, Tell, ToStage, refuse, stage_ref
from histrio.contracts.backend import StageBackend, StageSpec, StepBatch
from histrio.errors import request_code_of
from histrio.messages import (
    Allocated,
    Close,
    Copy,
    FailedStep,
    Loading,
    Open,
    Opened,
    Prepare,
    Prepared,
    StageCapacity,
    Start,
    Stats,
    Step,
    StepResult,
    Stop,
    Tensor,
)
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.slots import DrawnTokens, SlotTable
from histrio.system.flight_record import Code, begin_step, end_step, seat
from histrio.system.heap import release_free_memory

__all__ = ["Activity", "StageActor"]


class Activity:
    """What the device is doing, for the heartbeat: written by the stage's thread, read by the I/O thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[tuple[int, int], float] = {}
        self._shape = (0, 0)
        self.step = 0
        self.since = 0.0
        """Clock at the begin of the running step; 0 when idle."""
        self.total_s = 0.0
        """Seconds of all steps so far."""

    @property
    def busy_s(self) -> float:
        """Seconds the running step has taken so far."""
        since = self.since
        return self._clock() - since if since else 0.0

    @property
    def expected_s(self) -> float:
        """What the last step of about this shape took; 0 for a shape that is new."""
        return self._expected.get(self._shape, 0.0)

    def begin(self, step: int, num_rows: int, num_tokens: int) -> None:
        """A step starts."""
        self._shape = (num_rows.bit_length(), num_tokens.bit_length())
        self.step, self.since = step, self._clock()

    def go_on(self) -> None:
        """The step takes long for a reason: count from here."""
        self.since = self._clock()

    def now(self) -> float:
        """The clock, in seconds."""
        return self._clock()

    def end(self) -> float:
        """The step is done; seconds it took."""
        took = self._clock() - self.since
        self.since = 0.0
        self._expected[self._shape] = took
        self.total_s += took
        return took


class StageActor(Actor[ToStage]):
    """Turns steps into batches for the backend, samples on the last stage, passes everything else on in order."""

    def __init__(
        self, index: int, spec: StageSpec, backend: StageBackend, tell: Tell, last_stage: LastStage | None
    ) -> None:
        """`index` counts from 0 along the model's layers; the last stage has the `last_stage`."""
        assert (last_stage is not None) == spec.is_last, "the last stage samples, no other"
        self._index = index
        self._name = stage_ref(index)
        self._next = stage_ref(index + 1)
        """Takes what this stage hands on, unless this is the last one: then batching does."""
        self._spec = spec
        self._backend = backend
        self._tell = tell
        self._last_stage = last_stage
        self._epoch = 0
        self._is_closed = False
        self._capacity: StageCapacity | None = None
        self._table = SlotTable(0, 0)
        self._drawn = DrawnTokens(0)
        self._code = Code(f"backend ({type(backend).__module__})", is_request_code=False)
        self.activity = Activity()

    def start(self) -> None:
        """Open the backend, which may take minutes; raises what it raises."""
        self._capacity = self._backend.open(self._spec, self._progress)
        if self._last_stage is not None:
            self._progress(1.0, "reading the vocabulary")
            self._last_stage.start()
        self._tell(ROOT, Opened(self._index, self._capacity))

    def receive(self, message: ToStage) -> None:
        """One order of the line."""
        if self._is_closed or (self._epoch == 0 and isinstance(message, Open | Close | Copy | Prepare)):
            return  # of a chain that no longer exists: this stage has ended, or has taken the place of one that failed

        match message:
            case Step():
                self._step(message)
            case Open():
                self._open(message)
            case Close(slot):
                assert self._capacity is not None, "a stage opens before it is told anything"
                self._backend.close_slot(slot + self._capacity.first_row)
                if self._last_stage is not None:
                    self._last_stage.close(slot)
                self._forward(message)
            case Copy():
                self._copy(message)
                self._forward(message)
            case Prepare():
                self._prepare(message)
            case Start():
                self._start(message)
            case Stop():
                self._is_closed = True
                if self._last_stage is not None:
                    self._last_stage.shutdown()
                self._backend.close()
            case _:
                refuse("a stage", message)

    def idle(self) -> None:
        """Steps of many shapes leave a scattered heap behind; give it back while no step waits."""
        release_free_memory()
        self._tell(METRICS, Stats(self._epoch, {f"{self._name}_busy_seconds_total": self.activity.total_s}))

    def _progress(self, fraction: float, text: str) -> None:
        self._tell(ROOT, Loading(self._index, fraction, text))

    def _start(self, start: Start) -> None:
        assert self._capacity is not None, "a stage opens before it starts"
        self._epoch = start.epoch
        size = start.size
        self._backend.allocate(size)
        max_blocks = -(-size.max_sequence_length // size.page_size)
        self._table = SlotTable(size.max_rows, max_blocks, self._capacity.first_row, self._capacity.first_page_id)
        self._drawn = DrawnTokens(size.max_rows)
        if self._last_stage is not None:
            self._last_stage.forget_prepared()
        self._tell(ROOT, Allocated(self._name, start.epoch))

    def _copy(self, order: Copy) -> None:
        assert self._capacity is not None, "a stage opens before it is told anything"
        first = self._capacity.first_page_id
        self._backend.copy([page + first for page in order.src], [page + first for page in order.dst])

    def _open(self, order: Open) -> None:
        self._table.open(order.slot, order.num_cached_tokens, order.request)
        assert self._capacity is not None, "a stage opens before it is told anything"
        seat(order.slot + self._capacity.first_row, order.request)
        if self._last_stage is not None:
            self._last_stage.open(order)
        self._forward(order)

    def _prepare(self, order: Prepare) -> None:
        """Compile the grammar on another thread, which tells batching when it is done."""
        if self._last_stage is None:
            self._forward(order)
            return

        answer = Prepared(order.request, self._epoch)
        self._last_stage.prepare(order, lambda: self._tell(BATCHING, answer))

    def _forward(self, order: Open | Close | Copy | Prepare) -> None:
        """Pass an order on to the next stage, so that it cannot overtake a step."""
        if self._last_stage is None:
            self._tell(self._next, order)

    def _step(self, step: Step) -> None:
        if step.epoch != self._epoch:
            return  # from a chain that no longer exists

        self.activity.begin(step.step, len(step.rows), sum(row.num_tokens for row in step.rows))
        batch = self._table.batch(step)
        if self._last_stage is not None and batch.token_ids is not None:
            self._drawn.fill_in(batch.token_ids, step)
        try:
            hidden, result = self._computed(step, batch)
        except FAILURES as error:
            note_failed_step(error, self._failed_step(error, step, batch))
            end_step()
            raise
        end_step()
        busy_s = step.busy_s + self.activity.end()
        if result is None:
            self._tell(self._next, msgspec.structs.replace(step, ids=[], hidden=hidden, busy_s=busy_s))
            return

        self._drawn.note(step, result)
        self._tell(BATCHING, msgspec.structs.replace(result, busy_s=busy_s))

    def _computed(self, step: Step, batch: StepBatch) -> tuple[list[Tensor], StepResult | None]:
        """The hidden states for the next stage, or on the last stage the result for each sequence."""
        begin_step(step.step, batch.slots, batch.starts, batch.num_tokens)
        if self._last_stage is not None:
            self._last_stage.begin(step)
        with self._code:
            output = self._backend.step(batch)
        if self._last_stage is None:
            return output.hidden, None

        return output.hidden, self._last_stage.draw(self._backend.xp, output.logits, step)

    def _failed_step(self, error: BaseException, step: Step, batch: StepBatch) -> FailedStep:
        """Look for the rows that are to blame. What is computed once more for that changes nothing that is used again:
        this stage has failed, and another one begins anew."""

        def compute_alone(index: int) -> None:
            self.activity.go_on()
            self._computed(step.row(index), batch.row(index))

        code = request_code_of(error)
        failed = FailedStep(step.step, self._table.failed_rows(step), code, is_request_code=bool(code))
        return blamed(error, failed, compute_alone, self.activity.now)
