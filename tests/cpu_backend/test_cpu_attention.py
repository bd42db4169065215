"""Attention over int8 blocks, in tiles and without, and over long contexts that threads share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.backend import BackendFactory, StageSpec
from histrio.demo import target_path
from histrio.errors import BackendError
from histrio.messages import StageCapacity
from histrio.testing.chain import ChainRow, Logits, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu.backend import open_stage
from histrio_cpu.factory import CpuFactory
from histrio_cpu.library import load_library
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import NUM_LAYERS
from tests.cpu_backend.conftest import Int8Factory, prompt

NUM_TOKENS = 40
LONG = 300
DTYPES = ["float32", "float16", "bfloat16"]


class TorchInt8(TorchFactory):
    def open(self, spec: StageSpec, progress: Any) -> Any:
        return super().open(msgspec.structs.replace(spec, memory=MemorySettings(kv_cache_dtype="int8")), progress)


def open_chain(
    factory: Any, folder: str, dtype: str = "float32", cuts: tuple[int, ...] = (), **stage: Any
) -> StageChain:
    options = HarnessOptions(
        kv_block_size=16,
        max_sequence_length=512,
        max_num_tokens_per_batch=512,
        dtype=dtype,
        stage_options={key.replace("_", "-"): value for key, value in stage.items()},
    )
    return StageChain(factory, folder, cuts, options)


def logits_of(chain: StageChain, *parts: list[int]) -> Logits:
    """Of all positions of a prompt that comes in parts; the chain is closed."""
    found = []
    for part in parts:
        logits = chain.step([ChainRow(0, part, len(part))])
        assert logits is not None
        found.append(logits.copy())
    chain.close()
    return np.concatenate(found)


def error(some: Logits, others: Logits) -> float:
    return float(np.abs(some - others).mean() / np.abs(others).mean())


# --- int8 blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral", "glm4"])
def test_int8_loses_little_and_the_same_as_on_torch(family: str, tiny_model: Callable[[str], Any]) -> None:
    folder, ids = tiny_model(family).folder, prompt(1, NUM_TOKENS)
    exact = logits_of(open_chain(CpuFactory(), folder), ids)
    rounded = logits_of(open_chain(Int8Factory(), folder), ids[:27], ids[27:])
    on_torch = logits_of(open_chain(TorchInt8(), folder), ids[:27], ids[27:])

    assert 1e-4 < error(rounded, exact) < 0.05
    assert error(rounded, on_torch) < 0.25 * error(rounded, exact), "what is lost is lost in the same numbers"


def test_int8_beside_bfloat16_loses_no_more_than_in_float32(tiny_model: Callable[[str], Any]) -> None:
    folder, ids = tiny_model("qwen3").folder, prompt(1, NUM_TOKENS)
    exact = logits_of(open_chain(CpuFactory(), folder, "bfloat16"), ids)
    rounded = logits_of(open_chain(Int8Factory(), folder, "bfloat16"), ids)

    assert 1e-4 < error(rounded, exact) < 0.05


@pytest.mark.parametrize(
    "factories", [(Int8Factory(), TorchInt8()), (TorchInt8(), Int8Factory()), (Int8Factory(),) * 2]
)
def test_stages_with_int8_follow_each_other(
    factories: tuple[BackendFactory, ...], tiny_model: Callable[[str], Any]
) -> None:
    folder, ids = tiny_model("qwen3").folder, prompt(2, NUM_TOKENS)
    whole = logits_of(open_chain(Int8Factory(), folder), ids)
    cut = logits_of(open_chain(factories, folder, cuts=(1,)), ids)

    assert error(cut, whole) < 2e-3
    assert np.array_equal(cut, whole) == (factories[0] is factories[1])


@pytest.mark.parametrize(
    ("dtype", "share"), [("float32", 0.25 * 68 / 64), ("float16", 0.5 * 68 / 64), ("bfloat16", 0.5 * 68 / 64)]
)
def test_as_many_more_int8_blocks_fit_as_tokens_are_smaller(dtype: str, share: float) -> None:
    auto, int8 = capacity(dtype=dtype), capacity(dtype=dtype, memory=MemorySettings(kv_cache_dtype="int8"))

    assert int8.block_bytes_per_token == pytest.approx(share * auto.block_bytes_per_token)
    assert int8.max_blocks[16] / auto.max_blocks[16] == pytest.approx(1 / share, rel=0.05)


def test_float16_has_keys_and_values_of_16_bits(tiny_model: Callable[[str], Any]) -> None:
    folder, ids = tiny_model("qwen3").folder, prompt(1, NUM_TOKENS)
    assert capacity(dtype="float16").block_bytes_per_token * 2 == capacity(dtype="float32").block_bytes_per_token
    exact = logits_of(open_chain(CpuFactory(), folder), ids)
    halves = logits_of(open_chain(CpuFactory(), folder, "float16"), ids[:27], ids[27:])

    assert 1e-6 < error(halves, exact) < 0.002


def test_an_unknown_number_format_is_refused_by_name(tiny_model: Callable[[str], Any]) -> None:
    unknown: Any = "fp4"
    spec = StageSpec(
        tiny_model("llama").folder, 0, NUM_LAYERS, NUM_LAYERS, memory=MemorySettings(kv_cache_dtype=unknown)
    )
    assert "kv-cache-dtype 'fp4' is unknown" in CpuFactory().supports(spec).reason
    with pytest.raises(BackendError, match="'fp4' is unknown"):
        open_stage(spec, lambda fraction, text: None)


def capacity(**changes: Any) -> StageCapacity:
    """Of the demo model, for so many rows that memory is what limits blocks."""
    sizes = SizeSettings(max_batch_size=100_000)
    spec = StageSpec(str(target_path()), 0, 6, 6, device="cpu", block_mem_ratio=0.01, sizes=sizes)
    stage = open_stage(msgspec.structs.replace(spec, **changes), lambda fraction, text: None)
    stage.close()
    return stage.capacity


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [CpuFactory(), Int8Factory()], ids=["auto", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_tiles_equal_attention_with_all_scores_in_memory(
    family: str, dtype: str, factory: CpuFactory, tiny_model: Callable[[str], Any]
) -> None:
    folder, ids = tiny_model(family).folder, prompt(3, LONG)
    plain = logits_of(open_chain(factory, folder, dtype, flash_attention=False), ids)
    tiled = [logits_of(open_chain(factory, folder, dtype, flash_tile_size=size), ids) for size in (64, 128, 512)]

    # Where two sums differ in their last bit, a number can get the next code.
    most = 1e-5 if dtype == "float32" and type(factory) is CpuFactory else 0.02
    most = 0.003 if dtype == "float16" and type(factory) is CpuFactory else most
    assert all(error(each, plain) < most for each in tiled)
    assert all(not np.array_equal(each, plain) for each in tiled), "control: another path"
    assert np.array_equal(tiled[0][:64], tiled[2][:64])
    assert not np.array_equal(tiled[0][65:], tiled[2][65:]), "control: other tiles"
    other = logits_of(open_chain(factory, folder, dtype, flash_attention=False), [*ids[:50], 5, *ids[51:]])
    assert error(other[60:], plain[60:]) > 3 * most, "control: another token"


@pytest.mark.parametrize(("size", "text"), [(96, "multiple of 64"), (0, ">= 64"), (70_000, "<= 65536")])
def test_other_tiles_are_refused(size: int, text: str, tiny_model: Callable[[str], Any]) -> None:
    with pytest.raises(BackendError, match=text):
        open_chain(CpuFactory(), tiny_model("llama").folder, flash_tile_size=size)


# --- threads that share a context -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [CpuFactory(), Int8Factory()], ids=["auto", "int8"])
@pytest.mark.parametrize(("family", "dtype"), [("qwen3", "bfloat16"), ("gemma2", "float32")])
def test_the_number_of_threads_and_rows_changes_no_bit(
    family: str, dtype: str, factory: CpuFactory, tiny_model: Callable[[str], Any]
) -> None:
    chain = open_chain(factory, tiny_model(family).folder, dtype, flash_tile_size=64)
    ids, library = prompt(4, LONG), load_library()
    library.use("auto", 1)
    whole = step(chain, ChainRow(0, ids, len(ids)))
    chain.step([ChainRow(1, ids[:70], 0)])
    for num_threads in (*range(1, 9), 16):
        library.use("auto", num_threads)
        chain.rewind(0, LONG - 5)
        alone = [step(chain, ChainRow(0, [token])) for token in ids[-5:-3]]
        beside = step(chain, ChainRow(0, ids[-3:], 3), ChainRow(1, ids[70:75], 1))
        chain.rewind(1, 70)

        assert np.array_equal(np.concatenate([*alone, beside[:3]]), whole[-5:]), num_threads
        assert np.array_equal(beside[3], whole[74])
    chain.rewind(0, LONG - 1)
    assert not np.array_equal(step(chain, ChainRow(0, [ids[-1] ^ 1])), whole[-1:]), "control: another token"
    library.use("auto", 1)
    chain.close()


def step(chain: StageChain, *rows: ChainRow) -> Logits:
    logits = chain.step(rows)
    assert logits is not None
    return logits.copy()
