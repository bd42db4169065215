"""What one stage on SGLang must do with pages, positions and rows. `test_sglang_stage.py` runs this where SGLang is."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histrio.config.settings import SizeSettings
from histrio.contracts.backend import ReplicaSize, StageSpec, StepBatch
from histrio.errors import BackendError, DoesNotFit
from histrio.messages import Tensor
from histrio_sglang.backend import RunningSglangStage, SglangStage, open_stage
from histrio_sglang.factory import SglangFactory
from histrio_sglang.traits import CAPABILITIES
from histrio_torch.testing import MOST_ERROR, NUM_LAYERS, VOCAB_SIZE, logits_error, make_model

pytestmark = pytest.mark.timeout(120)

PAGE = 16
SIZE = ReplicaSize(num_blocks=32, block_size=PAGE, max_slots=8, max_step_tokens=256, max_sequence_length=64)


@dataclass(frozen=True)
class NewTokens:
    """A row of a step."""

    slot: int
    start: int
    ids: list[int]
    pages: list[int]
    num_sampled: int = 1


def make_step(*rows: NewTokens) -> StepBatch:
    """The core's batch of these rows, with SGLang's first page as padding."""
    counts = [len(row.ids) for row in rows]
    tables = np.ones((len(rows), max(len(row.pages) for row in rows)), np.int32)
    for index, row in enumerate(rows):
        tables[index, : len(row.pages)] = row.pages
    spans = [np.arange(row.start, row.start + len(row.ids), dtype=np.int64) for row in rows]
    return StepBatch(
        slots=np.array([row.slot for row in rows], np.int32),
        starts=np.array([row.start for row in rows], np.int32),
        num_tokens=np.array(counts, np.int32),
        num_sampled=np.array([row.num_sampled for row in rows], np.int32),
        offsets=np.cumsum([0, *counts]).astype(np.int32),
        block_tables=tables,
        positions=np.concatenate(spans),
        token_ids=np.concatenate([row.ids for row in rows]).astype(np.int64),
        hidden=[],
    )


def prompt(seed: int, num_tokens: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(3, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()
    return ids


class Reference:
    """A tiny model's folder, and the logits that transformers gives at every position of a sequence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model = make_model("qwen3", folder)

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self._model(torch.tensor([ids])).logits[0]
        return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("qwen3"))


def spec_of(folder: Path, **settings: Any) -> StageSpec:
    whole = {"first_layer": 0, "last_layer": NUM_LAYERS, "num_layers": NUM_LAYERS, "device": "cpu", "dtype": "float32"}
    sizes = SizeSettings(max_batch_size=SIZE.max_slots, num_cache_blocks=SIZE.num_blocks)
    limits = {"max_sequence_length": 64, "sizes": sizes}
    return StageSpec(str(folder), **{**whole, **limits, **settings})


def no_progress(_fraction: float, _text: str) -> None:
    """Progress is not shown."""


@pytest.fixture(scope="module")
def opened(reference: Reference) -> Iterator[SglangStage]:
    stage = open_stage(spec_of(reference.folder), no_progress)
    yield stage
    stage.close()
    stage.close()


@pytest.fixture
def stage(opened: SglangStage) -> RunningSglangStage:
    return opened.allocate(SIZE)


def assert_same(logits: Any, expected: torch.Tensor) -> None:
    """Equal up to rounding; logits of other positions are not."""
    assert logits.shape == expected.shape
    assert logits_error(logits, expected) < MOST_ERROR
    assert logits_error(logits.flip(-1), expected) > 100 * MOST_ERROR, "a control: other logits are far away"


def test_scattered_blocks_and_ragged_rows_give_the_logits_of_transformers(
    stage: RunningSglangStage, reference: Reference
) -> None:
    one, two, three = prompt(1, 5), prompt(2, 37), prompt(3, 16)
    rows = [NewTokens(1, 0, one, [9]), NewTokens(8, 0, two, [3, 32, 1]), NewTokens(4, 0, three, [20])]
    expected = torch.stack([reference.logits(ids)[-1] for ids in (one, two, three)])
    assert_same(stage.step(make_step(*rows)).logits, expected)


def test_a_decode_beside_a_prompt_and_a_chunk_is_undisturbed(stage: RunningSglangStage, reference: Reference) -> None:
    one, two, three = prompt(4, 18), prompt(5, 30), prompt(6, 7)
    stage.step(make_step(NewTokens(1, 0, one[:17], [5, 6]), NewTokens(2, 0, two[:13], [7, 8], 0)))
    rows = [
        NewTokens(1, 17, one[17:], [5, 6]),
        NewTokens(2, 13, two[13:], [7, 8]),
        NewTokens(3, 0, three, [11]),
    ]
    expected = torch.stack([reference.logits(ids)[-1] for ids in (one, two, three)])
    assert_same(stage.step(make_step(*rows)).logits, expected)


def test_steps_of_single_tokens_give_the_logits_of_transformers(
    stage: RunningSglangStage, reference: Reference
) -> None:
    one, two = prompt(7, 34), prompt(8, 20)
    stage.step(make_step(NewTokens(1, 0, one[:31], [2, 4, 6]), NewTokens(2, 0, two[:17], [10, 12], 0)))
    for index in range(3):
        rows = [
            NewTokens(1, 31 + index, [one[31 + index]], [2, 4, 6]),
            NewTokens(2, 17 + index, [two[17 + index]], [10, 12], index),
        ]
        got = stage.step(make_step(*[row for row in rows if row.num_sampled < 2])).logits
        expected = [reference.logits(one)[31 + index]] + [reference.logits(two)[17 + index]] * (index == 1)
        assert_same(got, torch.stack(expected))


def test_pages_shared_by_two_rows_serve_both(stage: RunningSglangStage, reference: Reference) -> None:
    prefix, one, two = prompt(9, 2 * PAGE), prompt(10, 3), prompt(11, 9)
    stage.step(make_step(NewTokens(1, 0, prefix, [14, 15], 0)))
    rows = [NewTokens(2, 32, one, [14, 15, 16]), NewTokens(3, 32, two, [14, 15, 17])]
    expected = torch.stack([reference.logits(prefix + ids)[-1] for ids in (one, two)])
    assert_same(stage.step(make_step(*rows)).logits, expected)

    stage.step(make_step(NewTokens(1, 0, prompt(99, 2 * PAGE), [14, 15], 0)))
    overwritten = stage.step(make_step(*rows)).logits
    assert logits_error(overwritten, expected) > 100 * MOST_ERROR, "a control: the shared pages are what is read"


def test_a_slot_and_its_pages_serve_another_sequence(stage: RunningSglangStage, reference: Reference) -> None:
    one, two = prompt(12, 40), prompt(13, 11)
    stage.step(make_step(NewTokens(1, 0, one, [21, 22, 23])))
    stage.close_slot(1)
    assert_same(stage.step(make_step(NewTokens(1, 0, two, [23]))).logits, reference.logits(two)[-1:])


def test_a_rewound_row_forgets_what_lay_beyond(stage: RunningSglangStage, reference: Reference) -> None:
    ids = prompt(14, 25)
    stage.step(make_step(NewTokens(2, 0, [*ids[:20], 7, 8, 9, 10, 11], [24, 25], 0)))
    assert_same(stage.step(make_step(NewTokens(2, 20, ids[20:], [24, 25]))).logits, reference.logits(ids)[-1:])


def test_drafts_are_verified_at_all_their_positions(stage: RunningSglangStage, reference: Reference) -> None:
    one, two, three = prompt(15, 22), prompt(16, 9), prompt(17, 4)
    stage.step(make_step(NewTokens(1, 0, one[:18], [26, 27])))
    rows = [
        NewTokens(1, 18, one[18:], [26, 27], num_sampled=4),
        NewTokens(2, 0, two, [28], num_sampled=0),
        NewTokens(3, 0, three, [29], num_sampled=2),
    ]
    expected = torch.cat([reference.logits(one)[18:], reference.logits(three)[-2:]])
    assert_same(stage.step(make_step(*rows)).logits, expected)


def test_a_step_that_samples_nothing_has_no_logits(stage: RunningSglangStage) -> None:
    assert stage.step(make_step(NewTokens(5, 0, prompt(18, 6), [30], 0))).logits is None


def test_copied_pages_hold_what_the_originals_did(stage: RunningSglangStage, reference: Reference) -> None:
    ids = prompt(19, 20)
    row = NewTokens(6, 19, ids[19:], [12, 13])
    stage.step(make_step(NewTokens(4, 0, ids[:19], [18, 19], 0)))
    before = stage.step(make_step(row)).logits
    stage.copy([18, 19], [12, 13])
    assert_same(stage.step(make_step(row)).logits, reference.logits(ids)[-1:])
    assert logits_error(before, reference.logits(ids)[-1:]) > 100 * MOST_ERROR, "a control: without the copy"


def test_the_first_and_the_last_page_and_row_are_usable(stage: RunningSglangStage, reference: Reference) -> None:
    one, two = prompt(20, 12), prompt(21, 14)
    rows = [NewTokens(1, 0, one, [1]), NewTokens(SIZE.max_slots, 0, two, [SIZE.num_blocks])]
    expected = torch.stack([reference.logits(one)[-1], reference.logits(two)[-1]])
    assert_same(stage.step(make_step(*rows)).logits, expected)


def test_a_new_epoch_of_another_size_works(opened: SglangStage, reference: Reference) -> None:
    stage = opened.allocate(
        ReplicaSize(num_blocks=8, block_size=PAGE, max_slots=2, max_step_tokens=64, max_sequence_length=64)
    )
    ids = prompt(22, 33)
    assert_same(stage.step(make_step(NewTokens(2, 0, ids, [8, 2, 5]))).logits, reference.logits(ids)[-1:])
    stage = opened.allocate(SIZE)
    assert_same(stage.step(make_step(NewTokens(8, 0, ids, [32, 2, 5]))).logits, reference.logits(ids)[-1:])


def test_a_second_stage_in_the_process_is_refused(stage: RunningSglangStage, reference: Reference) -> None:
    with pytest.raises(BackendError, match="has a stage of the sglang backend already"):
        open_stage(spec_of(reference.folder), no_progress)
    ids = prompt(23, 5)
    assert_same(stage.step(make_step(NewTokens(1, 0, ids, [1]))).logits, reference.logits(ids)[-1:])


def test_a_closed_stage_makes_room_for_the_ranges_of_a_split(opened: SglangStage, reference: Reference) -> None:
    weights = weakref.ref(opened._runner._runner.model)
    assert weights() is not None
    opened.close()
    assert weights() is None, "closing frees the weights"
    batch = make_step(NewTokens(1, 0, prompt(24, 21), [2, 7]), NewTokens(2, 0, prompt(25, 4), [5]))
    expected = torch.stack([reference.logits(prompt(24, 21))[-1], reference.logits(prompt(25, 4))[-1]])
    batch.hidden = run_range(reference, batch, 0, 1)
    batch.token_ids = None
    batch.hidden = run_range(reference, batch, 1, 2)
    end = open_stage(spec_of(reference.folder, first_layer=2), no_progress)
    last = end.allocate(SIZE)
    assert_same(last.step(batch).logits, expected)

    swapped = batch.hidden[0]
    rows = np.frombuffer(swapped.data, np.float32).reshape(swapped.shape)[::-1].copy()
    batch.hidden = [Tensor(swapped.dtype, swapped.shape, rows)]
    assert logits_error(last.step(batch).logits, expected) > 100 * MOST_ERROR, "a control: swapped hidden states"
    end.close()


def run_range(reference: Reference, batch: StepBatch, first: int, last: int) -> list[Tensor]:
    """The hidden states behind the range."""
    stage = open_stage(spec_of(reference.folder, first_layer=first, last_layer=last), no_progress)
    hidden = stage.allocate(SIZE).step(batch).hidden
    stage.close()
    assert [(tensor.name, tensor.dtype, tensor.shape[0]) for tensor in hidden] == [("", "float32", batch.total_tokens)]
    return hidden


def test_blocks_that_do_not_fit_are_refused_with_the_numbers(reference: Reference) -> None:
    with pytest.raises(DoesNotFit, match=r"1000000000 blocks of 16 tokens need \d+\.\d\d GiB"):
        open_stage(spec_of(reference.folder, sizes=SizeSettings(num_cache_blocks=10**9)), no_progress)
    stage = open_stage(spec_of(reference.folder, sizes=SizeSettings(max_batch_size=SIZE.max_slots)), no_progress)
    stage.close()
    useful = SIZE.max_slots * 64 // PAGE
    assert stage.capacity.max_blocks == {PAGE: useful}, "no more than all rows at full length can use"


def test_what_the_factory_says_of_a_placement_is_what_opens(reference: Reference) -> None:
    factory = SglangFactory()
    assert factory.probe().available
    assert list(factory.supports(spec_of(reference.folder)).capabilities) == list(CAPABILITIES)
    stage = factory.open(spec_of(reference.folder), no_progress)
    capacity = stage.capacity
    stage.close()
    assert capacity.capabilities == list(CAPABILITIES)
    assert (capacity.first_block_id, capacity.first_slot) == (1, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["Gemma3ForCausalLM"]}, "cannot be cut into ranges"),
        ({"architectures": ["NobodysForCausalLM"]}, "has no such model"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding windows"),
        ({"kv_lora_rank": 16}, "latent attention"),
    ],
)
def test_models_that_a_stage_cannot_run_are_refused_from_their_configuration(
    reference: Reference, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    config = json.loads((reference.folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    assert reason in SglangFactory().supports(spec_of(tmp_path)).reason
    assert SglangFactory().supports(spec_of(reference.folder)).available, "a control: the unchanged one"
