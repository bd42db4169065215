"""What a test of the kit gets: the backend with one model, opened in the ways the test asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from histrio.contracts.backend import BackendFactory, Capability, StageSpec
from histrio.testing.chain import StageChain, stage_specs
from histrio.testing.conformance.engine_driver import EngineSubject
from histrio.testing.conformance.hosts import Host, LocalHost
from histrio.testing.conformance.kit import MAX_SEQUENCE_LENGTH, Kit, KitModel
from histrio.testing.conformance.remote import RemoteHost, WorkerPool
from histrio.testing.conformance.replay import Trace, make_trace
from histrio.testing.harness import HarnessOptions

__all__ = ["EngineSubject", "StageSubject", "prompt"]

_MOST_CHAINS = 4
_MOST_CHAINS_IN_PROCESSES = 1
_MOST_ROWS = 8


class StageSubject:
    """A stage backend with one model. Chains are kept, and start anew (with a new epoch) for each test."""

    def __init__(self, kit: Kit, model: KitModel, workers: WorkerPool) -> None:
        self.kit = kit
        self.model = model
        self.factory = cast(BackendFactory, kit.factory)
        needs_processes = Capability.ONE_STAGE_PER_PROCESS in self.factory.traits.capabilities
        self._workers = workers if needs_processes else None
        self.options = HarnessOptions(
            num_cache_blocks=None,
            max_batch_size=_MOST_ROWS,
            max_num_tokens_per_batch=2048,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            device="auto",
            stage_options=kit.options,
        )
        self._chains: dict[tuple[int, ...], StageChain] = {}
        self._traces: dict[tuple[int, int, int], Trace] = {}
        self._reference: StageChain | None = None

    @property
    def reference(self) -> StageChain:
        """The whole model, used for nothing but undisturbed runs."""
        if self._reference is None:
            self._reference = self.open(())
        return self._reference

    @property
    def capabilities(self) -> list[str]:
        """What the opened model declares."""
        return self.reference.size.capabilities

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.reference.size.block_size

    @property
    def num_rows(self) -> int:
        """How many sequences a test may run at a time."""
        return min(_MOST_ROWS, self.reference.size.max_slots)

    def spec(self, **changes: Any) -> StageSpec:
        """The placement of the whole model with the options of the run, and with changes."""
        return self.model.spec(**{"options": self.kit.options, **changes})

    def chain(self, cuts: Sequence[int] = ()) -> StageChain:
        """The model split at `cuts`, with nothing in it. Skips the test where the backend refuses such a split."""
        key = tuple(cuts)
        chain = self._chains.pop(key, None)
        if chain is None:
            self._skip_refused(key)
            most_chains = _MOST_CHAINS if self._workers is None else _MOST_CHAINS_IN_PROCESSES
            while len(self._chains) >= most_chains:
                self._chains.pop(next(iter(self._chains))).close()
            chain = self.open(key)
        self._chains[key] = chain
        chain.disturb = None
        chain.restart()
        return chain

    def open(self, cuts: Sequence[int]) -> StageChain:
        """A chain for one test, which closes it."""
        return StageChain(self.factory, self.model.folder, cuts, self.options, workers=self._workers)

    def host(self, spec: StageSpec) -> Host:
        """A stage for one test, not open yet; the test closes it."""
        if self._workers is None:
            return LocalHost(self.factory, spec)

        self._close_chains()  # a worker of theirs is sooner there than another one
        return RemoteHost(self.factory, spec, self._workers)

    def trace(self, num_prompt_tokens: int, *, seed: int = 0, num_tokens: int = 6) -> Trace:
        """What the whole model says to a random prompt alone."""
        key = (num_prompt_tokens, seed, num_tokens)
        if key not in self._traces:
            ids = prompt(self.model.vocab_size, num_prompt_tokens, seed)
            self._traces[key] = make_trace(self.reference, ids, num_tokens)
        return self._traces[key]

    def traces(self, count: int, *, num_tokens: int = 6) -> list[Trace]:
        """Traces of different prompts; the longest spans several blocks, the shortest is one token."""
        lengths = [5, 2 * self.block_size + 1, self.block_size, 2, 3 * self.block_size - 2, 11, self.block_size + 9, 1]
        return [self.trace(lengths[seed % 8], seed=seed, num_tokens=num_tokens) for seed in range(count)]

    def middle(self) -> StageChain:
        """The model in two stages, cut in the middle; whole if it cannot be split there."""
        cut = (self.model.num_layers // 2,)
        return self.chain(cut if self._refusal(cut) is None else ())

    def close(self) -> None:
        """Close all chains."""
        self._close_chains()
        if self._reference is not None:
            self._reference.close()
            self._reference = None

    def _close_chains(self) -> None:
        for chain in self._chains.values():
            chain.close()
        self._chains = {}

    def _refusal(self, cuts: tuple[int, ...]) -> str | None:
        probes = [self.kit.supports(spec) for spec in stage_specs(self.model.folder, cuts, self.options)]
        return next((probe.reason for probe in probes if not probe.available), None)

    def _skip_refused(self, cuts: tuple[int, ...]) -> None:
        reason = self._refusal(cuts)
        if reason is not None:
            pytest.skip(f"{self.kit.name} refuses this split of {self.model.name}: {reason}")


def prompt(vocab_size: int, num_tokens: int, seed: int) -> list[int]:
    """Random ids."""
    drawn: list[int] = np.random.default_rng([seed, num_tokens]).integers(3, vocab_size - 3, num_tokens).tolist()
    return drawn
