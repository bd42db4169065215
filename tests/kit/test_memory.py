"""What a stage may take of a device's memory, and where the machine's numbers come from."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.backend import StageSpec
from histrio.errors import DoesNotFit
from histrio.kit import memory
from histrio.kit.memory import Budget, available_bytes, main_memory, memory_bytes

SPEC = StageSpec(
    "model",
    0,
    2,
    4,
    sizes=SizeSettings(max_batch_size=10),
    max_sequence_length=100,
    memory=MemorySettings(param_mem_ratio=0.5),
    block_mem_ratio=0.25,
)
BUDGET = Budget("a:0", total_bytes=1000, free_bytes=800)


def changed(**changes: object) -> StageSpec:
    return msgspec.structs.replace(SPEC, **changes)


def test_weights_fit_up_to_their_share_and_up_to_what_is_free() -> None:
    BUDGET.check_weights(500, SPEC)
    with pytest.raises(DoesNotFit, match=r"layers 0:2 .* a:0 has .*param-mem-ratio 0.5"):
        BUDGET.check_weights(501, SPEC)

    BUDGET.check_weights(800, changed(memory=MemorySettings(param_mem_ratio=0.9)))
    with pytest.raises(DoesNotFit):
        BUDGET.check_weights(801, changed(memory=MemorySettings(param_mem_ratio=0.9)))


def test_blocks_fill_the_share_beside_the_states_of_rows() -> None:
    assert BUDGET.max_blocks(2, SPEC, (4, 16)) == {4: 250 // 8, 16: 250 // 32}
    assert BUDGET.max_blocks(2, SPEC, (4, 16), state_bytes=100) == {4: 150 // 8, 16: 150 // 32}
    assert BUDGET.max_blocks(2, SPEC, (4, 128)) == {4: 31}, "a size of which not even one block fits is left out"


def test_no_more_blocks_than_all_rows_can_use() -> None:
    assert BUDGET.max_blocks(1, changed(sizes=SizeSettings(max_batch_size=2), max_sequence_length=9), (4,)) == {
        4: 2 * 3
    }


def test_a_number_of_blocks_that_is_asked_for_is_bound_by_what_is_free_alone() -> None:
    assert BUDGET.max_blocks(2, changed(sizes=SizeSettings(num_cache_blocks=100)), (4,)) == {4: 100}
    with pytest.raises(DoesNotFit, match=r"101 blocks of 4 tokens need .* kvcache-mem-ratio"):
        BUDGET.max_blocks(2, changed(sizes=SizeSettings(num_cache_blocks=101)), (4,))


def test_states_of_rows_take_at_most_half_of_the_share() -> None:
    assert BUDGET.max_slots(0, SPEC) == SPEC.sizes.max_batch_size
    assert BUDGET.max_slots(50, SPEC) == 2
    assert BUDGET.max_slots(125, SPEC) == 1
    with pytest.raises(DoesNotFit, match="one sequence's state"):
        BUDGET.max_slots(126, SPEC)


def test_the_container_counts_where_it_has_less_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, meminfo = tmp_path / "limit", tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "nothing")))
    monkeypatch.setattr(memory, "_MEMINFO", str(meminfo))
    assert (memory_bytes(), available_bytes()) == (machine, machine), "neither file is there"

    limit.write_text("max\n")
    meminfo.write_text("MemTotal:  9 kB\nMemAvailable:    3 kB\n")
    assert (memory_bytes(), available_bytes()) == (machine, 3072)

    limit.write_text("2048\n")
    assert main_memory() == Budget("cpu", 2048, 2048)
