"""What a replica can hold and do is what all of its stages can."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from histrio.config.settings import SizeSettings
from histrio.errors import DoesNotFit
from histrio.messages import EngineCapacity, StageCapacity
from histrio.replica.sizing import SizeLimits, fit, fit_engine, lost_capabilities

LIMITS = SizeLimits(SizeSettings(max_batch_size=8, max_num_tokens_per_batch=512), max_sequence_length=256)


def asking_for(num_cache_blocks: int) -> SizeLimits:
    return replace_sizes(num_cache_blocks=num_cache_blocks)


def replace_sizes(**changes: object) -> SizeLimits:
    return SizeLimits(replace(LIMITS.sizes, **changes), LIMITS.max_sequence_length)


STAGE = StageCapacity({16: 100, 32: 50}, 64, 2048, "float32", 0, 64, capabilities=["batch", "rewind", "copy_blocks"])


def stage(**changes: object) -> StageCapacity:
    return msgspec.structs.replace(STAGE, **changes)


def test_the_smallest_stage_decides() -> None:
    size = fit(LIMITS, [STAGE, stage(max_blocks={16: 40}, max_slots=4, max_step_tokens=64)])
    assert (size.num_blocks, size.block_size, size.max_slots, size.max_step_tokens) == (40, 16, 4, 64)
    assert fit(LIMITS, [STAGE]).num_blocks == 100


def test_the_block_size_is_one_that_all_stages_have() -> None:
    assert fit(LIMITS, [STAGE, stage(max_blocks={32: 30, 64: 15})]).block_size == 32
    with pytest.raises(DoesNotFit, match="share no block size"):
        fit(LIMITS, [STAGE, stage(max_blocks={64: 15})])


def test_capabilities_are_those_of_all_stages() -> None:
    poorer = stage(capabilities=["copy_blocks", "batch", "of_a_later_version"])
    assert fit(LIMITS, [STAGE]).capabilities == ["batch", "copy_blocks", "rewind"]
    assert fit(LIMITS, [STAGE, poorer]).capabilities == ["batch", "copy_blocks"]


def test_without_batches_one_sequence_runs_at_a_time() -> None:
    assert fit(LIMITS, [STAGE, stage(capabilities=["rewind"])]).max_slots == 1
    assert fit(LIMITS, [STAGE, STAGE]).max_slots == 8


def test_a_text_that_is_computed_whole_is_no_longer_than_a_step() -> None:
    limits = replace_sizes(max_num_tokens_per_batch=100)
    assert fit(limits, [stage(capabilities=["batch", "whole_texts"])]).max_sequence_length == 100
    assert fit(limits, [STAGE]).max_sequence_length == 256, "a control: others are cut into chunks"


def test_ids_that_a_stage_keeps_for_itself_take_nothing_from_the_replica() -> None:
    assert fit(LIMITS, [stage(first_block_id=1, first_slot=1)]) == fit(LIMITS, [STAGE])


def test_blocks_that_no_stage_can_hold_are_refused() -> None:
    with pytest.raises(DoesNotFit, match="asks for 101 blocks"):
        fit(asking_for(101), [STAGE])
    with pytest.raises(DoesNotFit, match="not one block"):
        fit(LIMITS, [stage(max_blocks={16: 0})])


def test_an_engine_holds_single_tokens_and_no_more_than_the_topology_asks_of_a_sequence() -> None:
    size = fit_engine(LIMITS, EngineCapacity(4, 200, 1000, "float32"))
    assert (size.num_blocks, size.block_size, size.max_slots, size.max_sequence_length) == (1000, 1, 4, 200)
    assert fit_engine(LIMITS, EngineCapacity(4, 900, 1000, "float32")).max_sequence_length == 256
    assert fit_engine(LIMITS, EngineCapacity(4, 200, 150, "float32")).max_sequence_length == 150


def test_more_blocks_than_an_engine_holds_are_refused() -> None:
    asked = asking_for(10)
    assert fit_engine(asked, EngineCapacity(4, 200, 160, "float32")).num_blocks == 160
    with pytest.raises(DoesNotFit, match="asks for 10 blocks of 16 tokens, and the engine holds 159 tokens"):
        fit_engine(asked, EngineCapacity(4, 200, 159, "float32"))


def test_a_capability_is_lost_where_one_stage_lacks_it() -> None:
    lost = lost_capabilities({"stage0": ["batch", "rewind"], "stage2": ["batch"], "stage1": ["batch"]})
    assert lost == ["stage1, stage2 cannot rewind: the replica does without"]
    assert lost_capabilities({"stage0": [], "stage1": []}) == [
        "stage0, stage1 cannot batch: one sequence runs at a time"
    ]
    assert lost_capabilities({"stage0": ["batch"], "stage1": ["batch"]}) == []
