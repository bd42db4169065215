"""What a replica can hold and do is what all of its stages can."""

from __future__ import annotations

import msgspec
import pytest

from histrio.engine.placement import SizeLimits, fit
from histrio.errors import DoesNotFit
from histrio.messages import StageCapacity

LIMITS = SizeLimits(block_size=16, num_blocks=None, max_rows=8, max_step_tokens=512, max_sequence_length=256)
STAGE = StageCapacity({16: 100, 32: 50}, 64, 2048, "float32", 0, 64, capabilities=["batch", "rewind", "copy_pages"])


def stage(**changes: object) -> StageCapacity:
    return msgspec.structs.replace(STAGE, **changes)


def test_the_smallest_stage_decides() -> None:
    size = fit(LIMITS, [STAGE, stage(max_pages={16: 40}, max_rows=4, max_step_tokens=64)])
    assert (size.num_pages, size.page_size, size.max_rows, size.max_step_tokens) == (40, 16, 4, 64)
    assert fit(LIMITS, [STAGE]).num_pages == 100


def test_the_page_size_is_one_that_all_stages_have() -> None:
    assert fit(LIMITS, [STAGE, stage(max_pages={32: 30, 64: 15})]).page_size == 32
    with pytest.raises(DoesNotFit, match="share no page size"):
        fit(LIMITS, [STAGE, stage(max_pages={64: 15})])


def test_capabilities_are_those_of_all_stages() -> None:
    poorer = stage(capabilities=["copy_pages", "batch", "of_a_later_version"])
    assert fit(LIMITS, [STAGE]).capabilities == ["batch", "copy_pages", "rewind"]
    assert fit(LIMITS, [STAGE, poorer]).capabilities == ["batch", "copy_pages"]


def test_without_batches_one_sequence_runs_at_a_time() -> None:
    assert fit(LIMITS, [STAGE, stage(capabilities=["rewind"])]).max_rows == 1
    assert fit(LIMITS, [STAGE, STAGE]).max_rows == 8


def test_ids_that_a_stage_keeps_for_itself_take_nothing_from_the_replica() -> None:
    assert fit(LIMITS, [stage(first_page_id=1, first_row=1)]) == fit(LIMITS, [STAGE])


def test_blocks_that_no_stage_can_hold_are_refused() -> None:
    with pytest.raises(DoesNotFit, match="asks for 101 blocks"):
        fit(SizeLimits(16, 101, 8, 512, 256), [STAGE])
    with pytest.raises(DoesNotFit, match="not one page"):
        fit(LIMITS, [stage(max_pages={16: 0})])
