"""An opened engine backend with one model, and what it has told about each request."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from histrio.contracts.backend import StageSpec
from histrio.contracts.engine_backend import EngineBackend, EngineFactory
from histrio.messages import Ask, EngineCapacity, Extras, Generate, RequestState, TokenRow
from histrio.testing.conformance.hosts import checked_spec
from histrio.testing.conformance.kit import Kit, KitModel

__all__ = ["EngineDriver", "EngineSubject", "Run"]

_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Run:
    """One request and its answer so far."""

    command: Generate
    ids: list[int] = field(default_factory=list)
    extras: Extras = field(default_factory=Extras)
    """Extras of all its rows, joined."""
    state: RequestState = RequestState.WAITING
    num_rows: int = 0
    """How many rows told of it, those after its end or abort included."""

    @property
    def logprobs(self) -> list[float]:
        """Log probabilities of its tokens, as far as they were told."""
        return [each.logprob for each in self.extras.logprobs]

    @property
    def reason(self) -> str:
        """Why it ended with an error; empty if it did not."""
        return self.extras.reason


class _Events:
    """Takes in what an engine tells, from any thread."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[list[TokenRow] | str] = queue.SimpleQueue()
        self.fractions: list[float] = []

    def progress(self, fraction: float, text: str) -> None:
        self.fractions.append(fraction)

    def tokens(self, rows: list[TokenRow]) -> None:
        self.told.put(rows)

    def failed(self, error: str) -> None:
        self.told.put(error)


class EngineDriver:
    """One opened engine. Raises what opening raises."""

    def __init__(self, factory: EngineFactory, model: KitModel, options: dict[str, Any]) -> None:
        self._events = _Events()
        self._runs: dict[int, Run] = {}
        self._num_commands = 0
        self.engine: EngineBackend = factory.create()
        try:
            self.capacity: EngineCapacity = self.engine.open(
                checked_spec(model.spec(options=options), factory), self._events
            )
        except BaseException:
            self.engine.close()
            raise

    @property
    def fractions(self) -> list[float]:
        """What it said of its progress."""
        return self._events.fractions

    def submit(self, ids: Sequence[int], num_tokens: int, **fields: Any) -> Run:
        """Ask for the continuation of `ids`; `fields` are those of `Ask`."""
        return self.submit_ask(ids, num_tokens, Ask(**fields))

    def submit_ask(self, ids: Sequence[int], num_tokens: int, ask: Ask) -> Run:
        """The same with the fields as one."""
        return self.submit_command(Generate(0, list(ids), len(ids), len(ids) + num_tokens, ask, ask.seed or 0))

    def submit_command(self, command: Generate) -> Run:
        """The same with everything said; the request gets a number of its own. Raises what submitting raises."""
        self._num_commands += 1
        run = Run(msgspec.structs.replace(command, request=self._num_commands))
        self._runs[run.command.request] = run
        self.engine.submit(run.command)
        return run

    def wait(self, *runs: Run, num_tokens: int | None = None) -> None:
        """Until all have ended, or each has at least `num_tokens`. Fails if the engine does, or is silent for long."""
        while not all(run.state.is_finished or len(run.ids) >= (num_tokens or 10**9) for run in runs):
            try:
                told = self._events.told.get(timeout=_TIMEOUT_S)
            except queue.Empty:
                raise AssertionError(f"the engine was silent for {_TIMEOUT_S:g} s") from None

            assert not isinstance(told, str), f"the engine failed: {told}"
            for row in told:
                self._take(row)

    def abort(self, run: Run) -> None:
        """Abort the request; what still comes of it is counted, and nothing else."""
        run.state = RequestState.CANCELLED
        self.engine.abort(run.command.request)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _take(self, row: TokenRow) -> None:
        run = self._runs[row.request]
        run.num_rows += 1
        if run.state.is_finished:
            return

        run.ids += row.ids
        run.state = row.state
        if row.extras is not None:
            run.extras = Extras.joined([run.extras, row.extras])


class EngineSubject:
    """The engine backend with one model, opened once for all tests."""

    def __init__(self, kit: Kit, model: KitModel) -> None:
        self.kit = kit
        self.model = model
        self.factory = cast(EngineFactory, kit.factory)
        self._driver: EngineDriver | None = None

    @property
    def driver(self) -> EngineDriver:
        """The engine that all tests share."""
        if self._driver is None:
            self._driver = self.open()
        return self._driver

    @property
    def capabilities(self) -> list[str]:
        """What the opened engine declares."""
        return self.driver.capacity.capabilities

    @property
    def fields(self) -> list[str]:
        """Sampling fields it enforces."""
        return [each.encode_name for each in msgspec.structs.fields(self.factory.fields)]

    @property
    def greedy(self) -> dict[str, Any]:
        """The sampling fields of a greedy request."""
        return {"temperature": 0.0} if "temperature" in self.fields else {}

    def spec(self, **changes: Any) -> StageSpec:
        """The placement of the whole model with the options of the run, and with changes."""
        return self.model.spec(**{"options": self.kit.options, **changes})

    def open(self) -> EngineDriver:
        """An engine for one test, which closes it; the shared engine is closed first."""
        self.close()
        return EngineDriver(self.factory, self.model, self.kit.options)

    def run(self, ids: Sequence[int], num_tokens: int, **fields: Any) -> Run:
        """One greedy request until its end, alone."""
        run = self.driver.submit(ids, num_tokens, **{"sampling": self.greedy, **fields})
        self.driver.wait(run)
        return run

    def close(self) -> None:
        """Close the engine that all tests share."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None
