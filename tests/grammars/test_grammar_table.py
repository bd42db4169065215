"""The last stage's table: masks of a step for those rows that have a grammar, whatever the other rows are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from histrio.contracts.backend import StageOutput
from histrio.contracts.grammar import GrammarCapability, GrammarKinds, VocabularySpec
from histrio.errors import PluginError, RequestError, UnsupportedModel
from histrio.messages import Ask, GrammarSpec, Open, Reasoning, Row, Step
from histrio.stage.sampling.grammar_table import BROKEN_GRAMMAR, GrammarTable
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_grammars.backend import Llguidance
from histrio_samplers.temperature import Temperature
from histrio_torch.arrays import TorchArrays

EOS, PADDED = 257, 300
YES, NUMBER = GrammarSpec("choice", '["yes"]'), GrammarSpec("regex", "[0-9]+")


@pytest.fixture
def table(toy: Any) -> Iterator[GrammarTable]:
    table = GrammarTable(GrammarKinds([Llguidance()]), toy.spec)
    yield table
    table.shutdown()


def masked(table: GrammarTable, sampled: Sequence[tuple[int, Sequence[int]]], xp: Any = None) -> Any:
    """Logits of ones with the masks of a step applied, on the host."""
    xp = xp or NumpyArrays()
    num_rows = sum(1 + len(drafts) for _, drafts in sampled)
    logits = xp.asarray(np.ones((num_rows, PADDED), np.float32))
    masks = table.begin(sampled)
    assert masks is not None
    result = xp.to_host(masks.apply(xp, logits))
    assert (xp.to_host(logits) == 1).all(), "the logits themselves stay as they are"
    return result


def allowed(row: Any) -> set[int]:
    assert set(np.unique(row)) <= {1.0, -np.inf}
    return set(np.flatnonzero(np.isfinite(row)).tolist())


@pytest.mark.parametrize("xp", [NumpyArrays(), TorchArrays()], ids=lambda xp: xp.name)
def test_each_row_gets_the_mask_of_its_own_grammar(toy: Any, table: GrammarTable, xp: Any) -> None:
    table.open(3, YES)
    table.open(5, NUMBER)
    rows = masked(table, [(5, []), (0, []), (3, []), (1, [])], xp)
    assert [allowed(row) for row in rows] == [
        set(toy.ids("0123456789")),
        set(range(PADDED)),
        set(toy.ids("y")),
        set(range(PADDED)),
    ]
    alone = [masked(table, [(slot, [])], xp)[0] for slot in (5, 3)]
    assert (np.stack(alone) == rows[[0, 2]]).all()


def test_drafts_take_rows_of_their_own(toy: Any, table: GrammarTable) -> None:
    table.open(0, YES)
    table.open(1, NUMBER)
    table.open(3, NUMBER)
    y, e = toy.ids("ye")
    rows = masked(table, [(2, [7]), (0, [y, e]), (1, toy.ids("1")), (3, [])])
    assert [allowed(row) for row in rows[2:5]] == [{y}, {e}, set(toy.ids("s"))]
    assert allowed(rows[6]) == {*toy.ids("0123456789"), EOS}
    assert allowed(rows[5]) == allowed(rows[7]) == set(toy.ids("0123456789"))
    assert allowed(rows[0]) == allowed(rows[1]) == set(range(PADDED))


def test_a_step_without_grammars_costs_nothing(table: GrammarTable) -> None:
    table.open(0, YES)
    assert table.begin([(1, []), (2, [3])]) is None
    assert table.begin([(0, [])]) is not None
    table.close(0)
    table.close(0)
    assert table.begin([(0, [])]) is None


def test_a_slot_follows_its_tokens_and_starts_again_where_they_were_delivered(toy: Any, table: GrammarTable) -> None:
    y, e, s = toy.ids("yes")
    table.open(0, YES)
    assert table.follow(0, [y, e]) == []
    table.open(1, YES, output_ids=[y, e])
    rows = masked(table, [(0, []), (1, [])])
    assert allowed(rows[0]) == allowed(rows[1]) == {s}
    table.open(2, YES)
    assert table.follow(2, [y, e], 5) == [s, EOS]
    table.open(3, YES)
    assert table.follow(3, [y], 1) == [e]
    assert allowed(masked(table, [(3, [])])[0]) == {s}, "it has followed what it returned"
    table.open(0, YES)
    assert allowed(masked(table, [(0, [])])[0]) == {y}, "a new sequence in an old slot begins anew"
    assert table.follow(9, [y], 5) == []


def test_a_failed_grammar_ends_its_row_and_no_other(toy: Any, table: GrammarTable) -> None:
    table.open(0, GrammarSpec("regex", "(broken"))
    table.open(1, YES)
    table.open(2, YES)
    table.open(4, GrammarSpec("sonnet", "of a plugin that this environment lacks"))
    assert table.follow(2, toy.ids("x"), 5) == []
    rows = masked(table, [(0, [5]), (1, []), (2, []), (4, [])])
    assert [allowed(row) for row in rows] == [{EOS}, {EOS}, set(toy.ids("y")), {EOS}, {EOS}]
    assert "kind" in table.failure(4)
    assert "malformed" in table.failure(0)
    assert table.failure(1) == table.failure(7) == ""
    assert "forbids" in table.failure(2)
    assert table.follow(0, [1], 3) == []
    assert table.has_grammar(0)
    assert not table.has_grammar(7)


class Failing:
    """A grammar backend whose every part raises the same."""

    name = "failing"
    kinds: tuple[str, ...] = ("failing",)
    capabilities: tuple[GrammarCapability, ...] = ()
    is_finished = False

    def __init__(self, error: Exception, *, compiles: bool = True) -> None:
        self._error = error
        self._compiles = compiles

    def check(self, spec: GrammarSpec) -> None:
        pass

    def open(self, spec: VocabularySpec) -> Failing:
        return self

    def matcher(self, spec: GrammarSpec) -> Failing:
        if self._compiles:
            return self
        raise self._error

    def fill(self, requests: Any, masks: Any) -> None:
        raise self._error

    def advance(self, ids: Sequence[int]) -> bool:
        if ids:
            raise self._error
        return True

    def rollback(self, num_tokens: int) -> None:
        raise self._error

    def forced(self, max_tokens: int) -> list[int]:
        raise self._error

    @property
    def error(self) -> str:
        raise self._error


@pytest.mark.parametrize("compiles", [True, False])
def test_the_end_of_the_memory_is_not_the_grammars_alone(toy: Any, compiles: bool) -> None:
    """What raises it ends the process, and another one goes on; any other failure ends the request alone."""
    for error, is_contained in ((MemoryError(), False), (ValueError("broken"), True)):
        table = GrammarTable(GrammarKinds([Failing(error, compiles=compiles)]), toy.spec)
        asked: list[Callable[[], object]] = [partial(table.follow, 3, [5]), partial(table.failure, 3)]
        if compiles:
            asked.append(partial(masked, table, [(3, [])]))
        for ask in asked:
            table.open(3, GrammarSpec("failing", ""))
            with contextlib.nullcontext() if is_contained else pytest.raises(MemoryError):
                ask()
            assert not is_contained or table.failure(3) == BROKEN_GRAMMAR
        table.shutdown()


def test_a_tokenizer_that_cannot_be_read_fails_the_row_with_the_reason(tmp_path: Any) -> None:
    spec = VocabularySpec(str(tmp_path), PADDED, (EOS,))
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        Llguidance().open(spec)
    table = GrammarTable(GrammarKinds([Llguidance()]), spec)
    table.open(0, YES)
    assert "tokenizer.json" in table.failure(0)
    table.shutdown()


def test_a_kind_belongs_to_one_backend() -> None:
    class Other(Llguidance):
        name = "other"

    with pytest.raises(PluginError, match="'llguidance' and 'other' both enforce"):
        GrammarKinds([Llguidance(), Other()])
    kinds = GrammarKinds([Llguidance()])
    assert kinds.known == sorted(Llguidance.kinds)
    with pytest.raises(RequestError, match="json_object"):
        kinds.backend(GrammarSpec("sonnet", ""))


class Plain:
    """A backend that knows neither reasoning nor capabilities."""

    name = "plain"
    kinds = ("regex",)

    def check(self, spec: GrammarSpec) -> None:
        Llguidance().check(spec)

    def open(self, spec: VocabularySpec) -> Any:
        return Llguidance().open(spec)


@pytest.mark.parametrize("reasoning", ["maybe", "already"])
def test_reasoning_is_refused_where_the_backend_does_not_declare_it(toy: Any, reasoning: Reasoning) -> None:
    foreign: Any = Plain()
    kinds = GrammarKinds([foreign])
    with pytest.raises(RequestError, match=r"'plain' does not declare 'reasoning'") as caught:
        kinds.backend(GrammarSpec("regex", "yes", reasoning))
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert kinds.backend(GrammarSpec("regex", "yes")) is foreign, "a control: without reasoning it serves"
    assert GrammarKinds([Llguidance()]).backend(GrammarSpec("regex", "yes", reasoning)).name == "llguidance"

    table = GrammarTable(kinds, toy.spec)
    table.open(0, GrammarSpec("regex", "yes", reasoning))
    table.open(1, GrammarSpec("regex", "yes"))
    assert "'reasoning'" in table.failure(0), "a last stage whose environment has another backend than the front"
    assert table.failure(1) == ""
    table.shutdown()


def test_a_slot_that_was_never_closed_has_nothing_left_of_its_grammar(toy: Any, table: GrammarTable) -> None:
    last_stage = LastStage(SamplerChain([Temperature], 4), table)
    logits = np.linspace(0, 1, PADDED, dtype=np.float32)[None]
    drawn = []
    for grammar in (NUMBER, None, NUMBER):
        last_stage.open(Open(2, [5], 1, Ask({"temperature": 0.0}, grammar=grammar)))
        step = Step(1, 1, [Row(2, 0, 1, 1)], [5])
        last_stage.begin(step)
        drawn.append(last_stage.draw(NumpyArrays(), StageOutput([], logits.copy()), step).ids)
    digit = max(toy.ids("0123456789"))
    assert drawn == [[digit], [PADDED - 1], [digit]]
