"""Vocabularies are read while a stage loads, grammars compiled beside its steps: requests without one never wait."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from histrio.contracts.gateway import Submission
from histrio.contracts.grammar import GrammarKinds, VocabularySpec
from histrio.errors import UnsupportedModel
from histrio.messages import Ask, GrammarSpec, RequestState
from histrio.stage.sampling.grammar_compiler import MAX_PREPARED, GrammarCompiler
from histrio.stage.sampling.grammar_table import GrammarTable
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_grammars.backend import Llguidance
from histrio_grammars.matcher import LlguidanceMatcher, LlguidanceVocabulary
from histrio_samplers.plugin import SAMPLERS

SLOW, QUICK = GrammarSpec("regex", "[a-f]{5}"), GrammarSpec("regex", "[x-z]{5}")


class Gated(Llguidance):
    """A compiler that needs as long for `SLOW` as the test wants."""

    def __init__(self) -> None:
        self.num_opened = 0
        self.begun, self.may_end = threading.Event(), threading.Event()

    def open(self, spec: VocabularySpec) -> LlguidanceVocabulary:
        """Count; the vocabulary waits at the gate."""
        self.num_opened += 1
        vocabulary = super().open(spec)
        compile_now = vocabulary.matcher

        def matcher(spec: GrammarSpec) -> LlguidanceMatcher:
            if spec == SLOW:
                self.begun.set()
                assert self.may_end.wait(60)
            return compile_now(spec)

        vocabulary.matcher = matcher  # type: ignore[method-assign]
        return vocabulary


def test_a_step_waits_for_its_grammar_only_if_it_was_not_prepared(toy: Any) -> None:
    gated, prepared = Gated(), threading.Event()
    table = GrammarTable(GrammarKinds([gated]), toy.spec)
    for _ in range(2):
        table.idle()
    table.prepare(7, SLOW, toy.ids("ab"), prepared.set)
    assert gated.begun.wait(20)
    table.open(1, SLOW, toy.ids("ab"), request=7)
    masks = table.begin([(1, [])])
    assert masks is not None
    assert not prepared.is_set()
    assert not masks._future.done(), "a control: it entered too early"
    gated.may_end.set()
    assert prepared.wait(20)
    assert masks._future.result(20) is not None
    assert table.follow(1, toy.ids("cde"), 5) == [toy.spec.eos_ids[0]], "it is behind what was delivered"
    assert gated.num_opened == 1
    table.shutdown()


def test_matchers_that_are_not_taken_are_forgotten(toy: Any) -> None:
    compiler = GrammarCompiler(GrammarKinds([Llguidance()]), toy.spec)
    for request in range(MAX_PREPARED + 1):
        compiler.prepare(request, QUICK, [], lambda: None)
    taken = [compiler.take(request, QUICK, []).result(20).matcher for request in (0, 1, 1)]
    assert len({id(each) for each in taken}) == 3, "no two sequences share one"
    compiler.forget()
    assert compiler.take(2, QUICK, toy.ids("x")).result(20).matcher.advance(toy.ids("yzxy"))
    compiler.shutdown()


def test_a_vocabulary_that_cannot_be_read_stops_no_stage(toy: Any, tmp_path: Path) -> None:
    class Broken(Llguidance):
        name = "broken"
        kinds: tuple[str, ...] = ("never",)

        def open(self, spec: VocabularySpec) -> LlguidanceVocabulary:
            raise ValueError("of the plugin")

    table = GrammarTable(GrammarKinds([Broken(), Llguidance()]), toy.spec)
    table.idle()
    table.open(0, GrammarSpec("never", ""))
    table.open(1, QUICK)
    assert table.failure(0)
    assert table.failure(1) == ""
    table.shutdown()
    unreadable = GrammarTable(
        GrammarKinds([Llguidance()]), VocabularySpec(str(tmp_path), toy.spec.vocab_size, toy.spec.eos_ids)
    )
    with pytest.raises(UnsupportedModel):
        Llguidance().open(VocabularySpec(str(tmp_path), toy.spec.vocab_size, toy.spec.eos_ids))
    unreadable.idle()
    unreadable.shutdown()


@pytest.mark.anyio
@pytest.mark.timeout(60)  # starts a replica
@pytest.mark.parametrize("prefix_cache", [True, False])
async def test_others_go_on_while_a_grammar_is_compiled(tmp_path: Path, prefix_cache: bool) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=2)
    gated = Gated()
    free = Submission([6], 60, Ask({"temperature": 1.0}, seed=2))
    slow = Submission([7], 60, Ask({"temperature": 1.0}, eos_ids=[257], seed=3, grammar=SLOW))
    options = HarnessOptions(prefix_cache=prefix_cache)
    async with serving(
        model, ToyFactory(), samplers=list(SAMPLERS), grammars=[gated], cuts=(1,), options=options
    ) as harness:
        await eventually_async(lambda: gated.num_opened == 1)  # before any request, because it is idle
        answers: list[tuple[list[int], RequestState]] = []

        async def ask() -> None:
            answers.append(await harness.run(slow))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await eventually_async(gated.begun.is_set)
            for _ in range(3):
                ids, state = await harness.run(free)
                assert (len(ids), state) == (60, RequestState.FINISHED_MAX_LENGTH)
            (cancelled,) = harness.gateway.submit(slow)
            cancelled.cancel()
            assert answers == [], "a control: its own request waits"
            gated.may_end.set()
        ((ids, state),) = answers
        assert (len(ids), state) == (6, RequestState.FINISHED_EOS)
        assert gated.num_opened == 1
        assert harness.gateway.status.num_replays == 0
