"""Keys and values as int8: stored of a token alone, read the same by every way, in half the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.backend import StageSpec
from histrio.demo import target_path
from histrio.errors import BackendError
from histrio.messages import StageCapacity
from histrio_torch import stores
from histrio_torch.attention import attend
from histrio_torch.backend import open_stage
from histrio_torch.blocks import RESIDENT_RATIO, LayerShape, PagedCache
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import NUM_LAYERS
from histrio_torch.testing.batches import make_batch

BLOCK_SIZE = 4
NUM_BLOCKS = 128
SHAPE = LayerShape(num_kv_heads=2, key_dim=16, value_dim=8)
BLOCKS = [9, 3, 20, 1, 7, 8]
OTHER_BLOCKS = [2, 11, 5, 14]


def make_cache(dtype: torch.dtype = torch.float32, *, is_int8: bool = True, num_layers: int = 2) -> PagedCache:
    cache = PagedCache(dict.fromkeys(range(num_layers), SHAPE), dtype, "cpu", is_int8=is_int8)
    cache.allocate(NUM_BLOCKS, BLOCK_SIZE)
    return cache


def draw(num_tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a row, of very different magnitudes from token to token and head to head."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(num_tokens, 4, SHAPE.key_dim, generator=generator)
    key = torch.randn(num_tokens, 2, SHAPE.key_dim, generator=generator)
    value = torch.randn(num_tokens, 2, SHAPE.value_dim, generator=generator)
    factors = torch.exp(torch.randn(num_tokens, 2, 1, generator=generator))
    return query, key * factors, value * factors.flip(0)


def rounded(numbers: Tensor) -> Tensor:
    """What int8 leaves of [tokens, heads, dim], number by number."""
    result = numbers.double().clone()
    for head in result.reshape(-1, numbers.shape[-1]):
        scale = float(head.abs().max().float() / 127)
        for index, number in enumerate(head.tolist()):
            head[index] = round(number / scale) * scale
    return result.float()


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of one row, two query heads per key head."""
    key, value = (each.repeat_interleave(2, dim=1).transpose(0, 1).double() for each in (key, value))
    scores = query.transpose(0, 1).double() @ key.transpose(1, 2) * 0.3
    mask = torch.ones(len(query), len(query)).triu(1).bool()
    return (scores.masked_fill(mask, -torch.inf).softmax(-1) @ value).transpose(0, 1).float()


def run(cache: PagedCache, rows: Sequence[tuple[int, int, list[int], tuple[Tensor, Tensor, Tensor]]]) -> list[Tensor]:
    """One step of rows (start, new tokens, blocks, all that the row has) through all layers; the last one's outputs."""
    cache.begin(make_batch([(start, count, blocks) for start, count, blocks, _ in rows]))
    parts = [[each[start : start + count] for each in own] for start, count, _, own in rows]
    query, key, value = (torch.cat(each) for each in zip(*parts, strict=True))
    for layer in cache.layers:
        output = attend(cache, layer, query, key * (layer + 1), value, scale=0.3 / (layer + 1))
    return list(output.split([count for _, count, _, _ in rows]))


def stored(cache: PagedCache, blocks: list[int]) -> list[Tensor]:
    return [pool[blocks] for pool in cache._pools]


def difference(some: list[Tensor], others: list[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(some, others, strict=True))


def are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[22], [1] * 22, [5, 16, 1], [17, 5]])
def test_attention_equals_that_of_rounded_keys_and_values(chunks: list[int]) -> None:
    cache, row = make_cache(), draw(22)
    outputs, start = [], 0
    for count in chunks:
        outputs += run(cache, [(start, count, BLOCKS, row)])
        start += count
    query, key, value = row

    assert (torch.cat(outputs) - dense(query, rounded(key), rounded(value))).abs().max() < 1e-5
    assert (torch.cat(outputs) - dense(query, key, value)).abs().max() > 1e-3


def test_what_is_stored_of_a_token_depends_on_that_token_alone() -> None:
    row, other = draw(14), draw(9, seed=1)
    alone, beside, changed = make_cache(), make_cache(), make_cache()
    run(alone, [(0, 14, BLOCKS, row)])
    run(beside, [(0, 5, BLOCKS, row), (0, 9, OTHER_BLOCKS, other)])
    run(beside, [(0, 9, OTHER_BLOCKS, other), (5, 9, BLOCKS, row)])
    row[1][13, 0, 0] += 0.2
    run(changed, [(0, 14, BLOCKS, row)])

    assert are_equal(stored(alone, BLOCKS[:4]), stored(beside, BLOCKS[:4]))
    assert are_equal(stored(alone, BLOCKS[:3]), stored(changed, BLOCKS[:3]))
    assert not are_equal(stored(alone, BLOCKS[3:4]), stored(changed, BLOCKS[3:4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_resident_rows_hold_what_blocks_hold_to_the_last_bit(dtype: torch.dtype) -> None:
    query, key, value = (each.to(dtype) for each in draw(22))
    cache = make_cache(dtype)
    for start, count in [(0, 5), *((position, 1) for position in range(5, 22))]:
        run(cache, [(start, count, BLOCKS, (query, key, value))])
    assert cache._residents is not None
    resident, cache._residents = cache._residents._sets[0], None
    cache.begin(make_batch([(21, 1, BLOCKS)]))
    (group,) = cache.groups(None)

    assert set(resident.copies) == {0, 1}
    for layer, known in resident.copies.items():
        held = known.memory[: 2 * resident.capacity * BLOCK_SIZE * SHAPE.key_dim].view(2, -1, SHAPE.key_dim)
        keys, _ = cache.gather(layer, group, key, value)
        unrounded = (key * (layer + 1)).transpose(0, 1)
        assert torch.equal(held[:, :22], keys[:, :22])
        assert not torch.equal(held[:, :22], unrounded)


def test_blocks_are_read_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    row, cache = draw(22), make_cache()
    expected = run(cache, [(0, 22, BLOCKS, row)])
    for num_values in (1, 3 * BLOCK_SIZE * SHAPE.key_dim):
        monkeypatch.setattr(stores, "_CHUNK_VALUES", num_values)
        assert difference(run(cache, [(0, 22, BLOCKS, row)]), expected) < 1e-6
    cache._pools[0][BLOCKS[3]] = 0
    assert difference(run(cache, [(16, 6, BLOCKS, row)]), [expected[0][16:]]) > 1e-3


def test_a_copied_block_has_its_scales() -> None:
    row, cache = draw(9), make_cache()
    run(cache, [(0, 8, BLOCKS, row)])
    cache.copy(BLOCKS[:2], OTHER_BLOCKS[:2])
    expected = run(cache, [(8, 1, BLOCKS, row)])

    assert are_equal(stored(cache, BLOCKS[:2]), stored(cache, OTHER_BLOCKS[:2]))
    assert difference(run(cache, [(8, 1, OTHER_BLOCKS, row)]), expected) < 1e-6
    assert cache._residents is not None
    cache._pools[1][OTHER_BLOCKS[0]] *= 1.5
    cache._residents.forget(OTHER_BLOCKS[:1])
    assert difference(run(cache, [(8, 1, OTHER_BLOCKS, row)]), expected) > 1e-3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    row, poisoned, cache = draw(10), draw(10, seed=1), make_cache()
    poisoned[1][9], poisoned[2][9] = bad, bad
    run(cache, [(0, 9, BLOCKS, poisoned)])
    clean, seen = run(cache, [(0, 10, OTHER_BLOCKS, row), (9, 1, BLOCKS, poisoned)])

    assert clean.isfinite().all()
    assert not seen.isfinite().any()
    (reused,) = run(cache, [(0, 5, [BLOCKS[0], BLOCKS[2]], row)])  # its second block has the bad token behind the fifth
    assert difference([reused], [clean[:5]]) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        *((dtype, largest) for dtype in (torch.float32, torch.bfloat16) for largest in (1e-20, 1e-3, 1.0, 6e4)),
        *((torch.float16, largest) for largest in (1.0, 6e4)),
    ],
)
def test_every_number_is_within_half_a_step(dtype: torch.dtype, largest: float) -> None:
    drawn = draw(7)[1].reshape(-1, SHAPE.key_dim)
    numbers = (drawn / drawn.abs().max() * largest).to(dtype)
    codes, scales = stores._quantize(numbers)
    steps = (codes.float() * scales.float() - numbers.float()) / scales.float()

    assert scales.shape == (14, 1)
    assert scales.dtype == dtype
    assert steps.abs().max() < 0.501
    assert (steps.abs() > 0.4).any()


def test_zeros_stay_zeros() -> None:
    codes, scales = stores._quantize(torch.zeros(3, 8))
    assert not (codes * scales).any()
    assert scales.isfinite().all()


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_per_token_are_those_of_the_pool(dtype: torch.dtype) -> None:
    for is_int8 in (False, True):
        cache = make_cache(dtype, is_int8=is_int8)
        num_bytes = sum(pool.nbytes for pool in cache._pools)
        assert num_bytes == NUM_BLOCKS * BLOCK_SIZE * cache.bytes_per_token
        assert cache._residents is not None
        arena = cache._residents._arena._memory.nbytes
        assert RESIDENT_RATIO * num_bytes - dtype.itemsize <= arena <= RESIDENT_RATIO * num_bytes


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.25 * 68 / 64), ("bfloat16", 0.5 * 66 / 64)])
def test_as_many_more_blocks_fit_as_tokens_are_smaller(dtype: str, share: float) -> None:
    auto = opened(target_path(), dtype=dtype)
    int8 = opened(target_path(), dtype=dtype, memory=MemorySettings(kv_cache_dtype="int8"))
    more = int8.max_blocks[16] / auto.max_blocks[16]

    assert int8.block_bytes_per_token == share * auto.block_bytes_per_token
    assert more == pytest.approx(1 / share, rel=0.05)


def opened(folder: Path | str, **changes: Any) -> StageCapacity:
    """Capacity for so many rows that memory is what limits blocks."""
    spec = StageSpec(
        str(folder), 0, 6, 6, device="cpu", block_mem_ratio=0.01, sizes=SizeSettings(max_batch_size=100_000)
    )
    stage = open_stage(msgspec.structs.replace(spec, **changes), lambda fraction, text: None)
    stage.close()
    return stage.capacity


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kv_cache_dtype", "reason"),
    [("deepseek_v3", "int8", "DeepseekV3ForCausalLM keeps latents"), ("llama", "fp4", "'fp4' is unknown")],
)
def test_what_is_not_stored_that_way_is_refused_by_name(
    family: str, kv_cache_dtype: Any, reason: str, tiny_model: Callable[[str], Any]
) -> None:
    spec = StageSpec(
        tiny_model(family).folder, 0, NUM_LAYERS, NUM_LAYERS, memory=MemorySettings(kv_cache_dtype=kv_cache_dtype)
    )
    probe = TorchFactory().supports(spec)

    assert not probe.available
    assert reason in probe.reason
    assert probe.remedy == 'set kv-cache-dtype = "auto"'
    with pytest.raises(BackendError, match=f'{reason}.*; set kv-cache-dtype = "auto"'):
        open_stage(spec, lambda fraction, text: None)
    assert TorchFactory().supports(msgspec.structs.replace(spec, memory=MemorySettings())).available


def test_models_with_windows_are_supported(tiny_model: Callable[[str], Any]) -> None:
    spec = StageSpec(
        tiny_model("gemma2").folder, 0, NUM_LAYERS, NUM_LAYERS, memory=MemorySettings(kv_cache_dtype="int8")
    )
    assert TorchFactory().supports(spec).available
