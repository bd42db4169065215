"""Whatever is on and in the way, a greedy or seeded answer is the one that its request gets alone: on the toy backend.

So are the log probabilities that it asks for, of its own tokens and of its prompt's, to the last bit.
`HISTRIO_COMBINATIONS=500` plays so many random combinations more per drafter, each with a crowd of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest

from histrio.batching.sequence import Sequence
from histrio.contracts.backend import StepBatch
from histrio.contracts.philox import uniform
from histrio.kv import manager as kv_manager
from histrio.messages import GrammarSpec, Open, Step
from histrio.plugins.registry import installed_plugins
from histrio.stage.sampling import prompt_scores, sampler_chain
from histrio.stage.sampling.grammar_table import GrammarTable
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.sampling.logprobs import token_logprobs
from histrio.stage.slots import DrawnTokens, SlotTable
from histrio.testing.harness import HarnessOptions
from histrio.testing.toy import ToyFactory, ToyStage, toy_continuation, write_toy_model
from tests.matrix.covering import NUM_RANDOM, Combination, covering, pairs, random_combinations
from tests.matrix.crowds import Crowd, Run, differences, make_crowd, play, play_alone, with_forms
from tests.matrix.drafters import OPTIONS, drafter_options, make_drafter, names
from tests.matrix.obstacles import FACTORS, LONGEST, FailingFactory, RandomOrder, met, not_met, options_of

NUM_LAYERS, VOCAB = 3, 258
ALONE = HarnessOptions(max_batch_size=1, chunked_prefill_size=512, prefix_cache=False, max_sequence_length=LONGEST)


DESIGN = FACTORS | {"drafter": names()}
HARD: Combination = {
    "cuts": (),
    "prefix_cache": True,
    "chunked_prefill_size": 16,
    "max_batch_size": 5,
    "max_num_tokens_per_batch": 512,
    "kv_block_size": 4,
    "blocks": "few",
    "num_micro_batches": 1,
    "num_ahead": 1,
    "speculation": {"adaptive": False, "speculation_length": 2},
    "bounds": {},
    "policy": RandomOrder.name,
    "has_forms": False,
    "fails": True,
}
CROWDED: Combination = HARD | {"max_batch_size": 32, "blocks": "some", "has_forms": True, "fails": False}
MOST_FURTHER = 20
"""Further tries where no request was forked: whose prompt is computed when others come is a matter of time."""
Alone = Callable[..., tuple[Crowd, Run]]
"""Seed, and whether answers have forms → a crowd, a large one for 0, and what each of its requests gets alone."""


def erring_oracle(ids: list[int], num_tokens: int) -> list[int]:
    """Knows what the toy will say to the greedy, and errs now and then."""
    right = toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    return [token if index % 3 < 2 or len(ids) % 2 else 7 for index, token in enumerate(right)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_toy_model(folder / "draft", num_layers=NUM_LAYERS - 1)
    return write_toy_model(folder / "toy", num_layers=NUM_LAYERS)


@pytest.fixture(scope="module")
def alone(model: Path) -> Alone:
    @cache
    def get(seed: int, has_forms: bool = False) -> tuple[Crowd, Run]:
        crowd = make_crowd(seed, VOCAB - 2, num_requests=16 if seed else 48)
        crowd = with_forms(crowd) if has_forms else crowd
        return crowd, anyio.run(play_alone, model, ToyFactory(), crowd, ALONE)

    return get


def played(model: Path, crowd: Crowd, row: Combination, drafter: str, seed: int) -> Run:
    """One combination, with a device that may fail twice."""
    options = options_of(
        row,
        seed,
        drafter=make_drafter(drafter, erring_oracle),
        drafter_options=drafter_options(drafter, model.parent / "draft", "toy"),
    )
    fails_at = {30 + seed % 17, 130 + seed % 29} if row["fails"] else set()
    return anyio.run(play, model, FailingFactory(ToyFactory(), fails_at), crowd, options, row["cuts"])


@pytest.mark.timeout(60 + 5 * NUM_RANDOM, func_only=True)  # several engines one after the other
@pytest.mark.parametrize("drafter", names())
def test_no_combination_changes_a_stream(drafter: str, model: Path, alone: Alone) -> None:
    seen: Counter[str] = Counter()
    design = [row for row in covering(DESIGN, seed=5) if row["drafter"] == drafter]
    rows = [(number % 2 + 1, row) for number, row in enumerate(design)]
    rows.append((0, CROWDED))  # some request is preempted
    rows += enumerate(random_combinations(FACTORS, names().index(drafter), NUM_RANDOM), 1)
    for number, (seed, row) in enumerate([*rows, *[(0, CROWDED)] * MOST_FURTHER]):
        if number >= len(rows) and not not_met(seen, drafter):
            break
        crowd, expected = alone(seed, has_forms=row["has_forms"])
        print(f"combination {number}: {row}")
        run = played(model, crowd, row, drafter, number)
        found = differences(crowd, run, expected)
        assert not found, f"{len(found)} answers differ with {drafter}: {found[0]}"
        seen.update(met(run))
        assert row["prefix_cache"] or not run.num_cached_tokens
        assert row["bounds"].get("enable_preemption", True) or not run.totals["preemptions_total"]
    assert not not_met(seen, drafter), seen


def test_every_registered_drafter_has_its_options_here() -> None:
    assert set(OPTIONS) == set(installed_plugins().drafters.owners)


def test_every_two_settings_meet() -> None:
    every = {pair for row in random_combinations(DESIGN, 1, 3000) for pair in pairs(row)}
    rows = covering(DESIGN, seed=5)
    assert {pair for row in rows for pair in pairs(row)} == every
    assert {pair for row in rows[1:] for pair in pairs(row)} < every, "a control"


def _swaps_tables(self: SlotTable, step: Step) -> StepBatch:
    batch = _BATCH(self, step)
    batch.block_tables = batch.block_tables[::-1]
    return batch


def _accepts_everything(ids: Any, slots: Any, drafts: Any) -> tuple[Any, list[int]]:
    _kept, num_ids = _ACCEPT(ids, slots, drafts)
    counts = [len(list(rows)) for _slot, rows in groupby(slots.tolist())]
    return (np.arange(len(ids)), counts) if num_ids else (_kept, num_ids)


def _names_a_block_only(parent: bytes, ids: list[int], block_size: int) -> list[bytes]:
    return [b"%r" % ids[end - block_size : end] for end in range(block_size, len(ids) + 1, block_size)]


def _opens_afresh(self: LastStage, command: Open) -> None:
    _OPEN(self, msgspec.structs.replace(command, sampler_state={}))


def _keeps_scores(self: Sequence) -> list[int]:
    scores = self.extras
    block_ids = _FORGET(self)
    self.extras = scores
    return block_ids


def _forgets_the_text(self: GrammarTable, slot: int, grammar: GrammarSpec, output_ids: Any = ()) -> None:
    _COMPILE(self, slot, grammar)


_BATCH, _ACCEPT, _UNIFORM, _OPEN = SlotTable.batch, sampler_chain._accept, uniform, LastStage.open
_FORGET, _COMPILE, _LOGPROBS = Sequence.forget_blocks, GrammarTable.open, token_logprobs
DEFECTS: dict[str, tuple[str, Any, str, Any]] = {
    "tables of other slots": ("none", SlotTable, "batch", _swaps_tables),
    "wrong drafts are accepted": ("oracle", sampler_chain, "_accept", _accepts_everything),
    "copies that copy nothing": ("none", ToyStage, "copy", lambda self, src, dst: None),
    "names of single blocks": ("none", kv_manager, "block_names", _names_a_block_only),
    "draws that depend on their row": (
        "none",
        sampler_chain,
        "uniform",
        lambda seeds, choices, positions: _UNIFORM(seeds + np.arange(len(seeds), dtype=np.uint64), choices, positions),
    ),
    "steps ahead that go on from nothing": ("none", DrawnTokens, "note", lambda self, step, result: None),
    "samplers that forget what they had learnt": ("none", LastStage, "open", _opens_afresh),
    "scores that outlive a preemption": ("none", Sequence, "forget_blocks", _keeps_scores),
    "scores of other tokens": (
        "none",
        prompt_scores,
        "token_logprobs",
        lambda xp, logits, ids, *args, **options: _LOGPROBS(xp, logits, [*ids[1:], *ids[:1]], *args, **options),
    ),
    "grammars that forget what was said": ("none", GrammarTable, "open", _forgets_the_text),
}


@pytest.mark.parametrize(("drafter", "has_forms"), [("none", False), ("oracle", False), ("none", True)])
def test_without_a_defect_the_hard_combination_changes_nothing(
    drafter: str, has_forms: bool, model: Path, alone: Alone
) -> None:
    crowd, expected = alone(0, has_forms=has_forms)
    assert not differences(crowd, played(model, crowd, HARD, drafter, 0), expected)


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_changes_a_stream(defect: str, model: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter, owner, name, broken = DEFECTS[defect]
    crowd, expected = alone(0, has_forms=owner is GrammarTable)
    # Names and copies matter where blocks are found again; everything else while they are short.
    row = HARD | {"blocks": "many", "fails": False} if name in ("block_names", "copy") else HARD
    monkeypatch.setattr(owner, name, broken)
    # When commands come, and so what is copied or preempted, is not the same each time.
    assert any(differences(crowd, played(model, crowd, row, drafter, 0), expected) for _attempt in range(15))


def test_another_seed_changes_its_own_stream_only(model: Path, alone: Alone) -> None:
    crowd, expected = alone(0)
    index = next(
        i for i, each in enumerate(crowd) if each.submission.ask.sampling.get("top_k") and not each.is_leaving(0)
    )
    asked = crowd[index].submission
    other_ask = msgspec.structs.replace(asked.ask, seed=12)
    other = replace(crowd[index], submission=msgspec.structs.replace(asked, ask=other_ask))
    changed = [*crowd[:index], other, *crowd[index + 1 :]]
    found = differences(crowd, played(model, changed, HARD, "none", 0), expected)
    assert found
    assert all(text.startswith(f"request {index},") for text in found)
