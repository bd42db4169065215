"""What each kernel of the torch backend gains over the plain way; the shapes are Qwen3-0.6B's, in bf16.

Every test is one cause: its variants differ in nothing else, so compare them as ratios within one run. Weights
and blocks rotate through more memory than a cache holds, as they do in a step through all layers. CPU time of one
thread, so that a busy machine disturbs less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Any

import numpy as np
import pytest
from amounts import amount
from pytest_benchmark.fixture import BenchmarkFixture

from histrio.kit.omp import bound_spinning

bound_spinning()

import torch  # noqa: E402 - the OpenMP setting is read while torch loads
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from histrio_torch.attention import attend  # noqa: E402
from histrio_torch.blocks import LayerShape, PagedCache  # noqa: E402
from histrio_torch.fused import FusedRMSNorm  # noqa: E402
from histrio_torch.linear import PackedLinear, can_pack, pack_linears  # noqa: E402
from histrio_torch.testing.batches import make_batch  # noqa: E402

DTYPE = torch.bfloat16
HEADS, KV_HEADS, DIM, BLOCK_SIZE = 16, 8, 128, 16
NUM_LAYERS = amount(12, once=2)

pytestmark = pytest.mark.benchmark(timer=time.thread_time)

needs_packing = pytest.mark.skipif(not can_pack(DTYPE), reason="no packed bf16 products on this CPU")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """All work is done by the thread that is measured."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def measure(benchmark: BenchmarkFixture, function: Callable[[], Any], rounds: int = 40) -> Any:
    """Run without gradients, after two rounds that touch all memory."""

    def run() -> Any:
        with torch.inference_mode():
            return function()

    return benchmark.pedantic(run, rounds=rounds, warmup_rounds=2)


@needs_packing
@pytest.mark.parametrize("num_tokens", [1, 8, 512])
@pytest.mark.parametrize("variant", ["plain", "packed"])
def test_linear(benchmark: BenchmarkFixture, variant: str, num_tokens: int) -> None:
    plain = [nn.Linear(1024, 3072, bias=False, dtype=DTYPE).requires_grad_(False) for _ in range(NUM_LAYERS)]
    linears: list[nn.Module] = [*plain]
    if variant == "packed":
        linears = [PackedLinear(linear.weight) for linear in plain]
    inputs = torch.randn(1, num_tokens, 1024).to(DTYPE)
    outputs = measure(benchmark, lambda: [linear(inputs) for linear in linears], rounds=5 if num_tokens > 8 else 40)
    assert outputs[0].shape == (1, num_tokens, 3072)


@needs_packing
@pytest.mark.parametrize("variant", ["separate", "joined"])
def test_query_key_value_projections(benchmark: BenchmarkFixture, variant: str) -> None:
    names = ("q_proj", "k_proj", "v_proj") if variant == "joined" else ("q", "k", "v")
    layers = []
    for _ in range(NUM_LAYERS):
        sizes = zip(names, (2048, 1024, 1024), strict=True)
        layers.append(nn.ModuleDict({name: nn.Linear(1024, size, bias=False, dtype=DTYPE) for name, size in sizes}))
        assert pack_linears(layers[-1]) == 3
    inputs = torch.randn(1, 1, 1024).to(DTYPE)
    outputs = measure(benchmark, lambda: [[layer[name](inputs) for name in names] for layer in layers])
    assert len(outputs) == NUM_LAYERS


class Decode:
    """Rows that decode on scattered blocks, one token per step, through all layers."""

    def __init__(self, num_rows: int, length: int, is_resident: bool) -> None:
        num_blocks = -(-(length + 128) // BLOCK_SIZE)
        self.cache = PagedCache(dict.fromkeys(range(NUM_LAYERS), LayerShape(KV_HEADS, DIM, DIM)), DTYPE, "cpu")
        self.cache.allocate(num_rows * num_blocks * 6, BLOCK_SIZE)
        if not is_resident:
            self.cache._residents = None
        blocks = torch.randperm(num_rows * num_blocks).tolist()
        self.tables = [blocks[row * num_blocks : (row + 1) * num_blocks] for row in range(num_rows)]
        self.position = length
        self.query = torch.randn(num_rows, HEADS, DIM).to(DTYPE)
        self.key = torch.randn(num_rows, KV_HEADS, DIM).to(DTYPE)

    def step(self) -> Tensor:
        """The attention of all layers; the last one's output."""
        self.cache.begin(make_batch([(self.position, 1, table) for table in self.tables]))
        self.position += 1
        for layer in range(NUM_LAYERS):
            output = attend(self.cache, layer, self.query, self.key, self.key, scale=DIM**-0.5)
        return output


@pytest.mark.parametrize(("num_rows", "length"), [(1, 160), (8, 160), (16, 160), (8, 1000)])
@pytest.mark.parametrize("variant", ["gathered", "resident"])
def test_decode_attention(benchmark: BenchmarkFixture, variant: str, num_rows: int, length: int) -> None:
    decode = Decode(num_rows, length, variant == "resident")
    assert measure(benchmark, decode.step, rounds=20).shape == (num_rows, HEADS, DIM)


class Drafting(Decode):
    """Rows of unequal lengths, of which some verify drafts that are always wrong: each step adds one token to each."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, 400, is_resident=True)
        self.starts = np.random.default_rng(0).integers(100, 400, num_rows)
        self.inputs = [each.repeat(5, 1, 1) for each in (self.query, self.key, self.key)]

    def step(self, num_drafting: int = 0) -> Tensor:
        """The attention of all layers; five new tokens in so many rows, one in the others."""
        counts = [5 if row < num_drafting else 1 for row in range(len(self.tables))]
        rows = zip(self.starts.tolist(), counts, self.tables, strict=True)
        self.cache.begin(make_batch([*rows]))
        self.starts += 1
        inputs = [each[: sum(counts)] for each in self.inputs]
        for layer in range(NUM_LAYERS):
            output = attend(self.cache, layer, *inputs, scale=DIM**-0.5)
        return output


@pytest.mark.parametrize("num_rows", [1, 32])
@pytest.mark.parametrize("variant", ["no_drafts", "drafts_each_8th_step", "drafts_each_2nd_step", "drafts"])
def test_decode_attention_with_drafts_in_two_rows(benchmark: BenchmarkFixture, variant: str, num_rows: int) -> None:
    every = {"no_drafts": 0, "drafts": 1, "drafts_each_2nd_step": 2, "drafts_each_8th_step": 8}[variant]
    rows, steps = Drafting(num_rows), count()

    def step() -> Tensor:
        return rows.step(min(2, num_rows) if every and next(steps) % every == 0 else 0)

    assert measure(benchmark, step, rounds=24).shape[1:] == (HEADS, DIM)


@pytest.mark.parametrize("variant", ["grouped_sdpa", "folded_products"])
def test_grouped_heads_at_one_query(benchmark: BenchmarkFixture, variant: str) -> None:
    keys = cycle(torch.randn(NUM_LAYERS, 1, KV_HEADS, 1024, DIM).to(DTYPE).unbind())
    query = torch.randn(1, HEADS, 1, DIM).to(DTYPE)

    def grouped() -> Tensor:
        key = next(keys)
        return F.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    def folded() -> Tensor:
        key = next(keys)[0]
        weights = torch.softmax(torch.bmm(query.view(KV_HEADS, -1, DIM), key.transpose(1, 2)), -1)
        return torch.bmm(weights, key).view(1, HEADS, 1, DIM)

    result = measure(benchmark, grouped if variant == "grouped_sdpa" else folded)
    assert result.shape == query.shape


@pytest.mark.parametrize("variant", ["part_of_the_last_block", "whole_blocks"])
def test_keys_of_a_product(benchmark: BenchmarkFixture, variant: str) -> None:
    keys = cycle(torch.randn(NUM_LAYERS, 8 * KV_HEADS, 176, DIM).to(DTYPE).unbind())
    query = torch.randn(8 * KV_HEADS, HEADS // KV_HEADS, DIM).to(DTYPE)
    end = 176 if variant == "whole_blocks" else 163
    result = measure(benchmark, lambda: torch.bmm(query, next(keys)[:, :end].transpose(1, 2)))
    assert result.shape[-1] == end


@pytest.mark.parametrize("variant", ["sdpa", "paged"])
def test_prefill_attention_of_512_tokens(benchmark: BenchmarkFixture, variant: str) -> None:
    query = torch.randn(512, HEADS, DIM).to(DTYPE)
    key = torch.randn(512, KV_HEADS, DIM).to(DTYPE)
    cache = PagedCache({0: LayerShape(KV_HEADS, DIM, DIM)}, DTYPE, "cpu")
    cache.allocate(64, BLOCK_SIZE)
    batch = make_batch([(0, 512, torch.randperm(64).tolist())])

    def sdpa() -> Tensor:
        wide = key.repeat_interleave(HEADS // KV_HEADS, dim=1).transpose(0, 1)[None]
        result = F.scaled_dot_product_attention(query.transpose(0, 1)[None], wide, wide, is_causal=True)
        return result[0].transpose(0, 1)

    def paged() -> Tensor:
        cache.begin(batch)
        return attend(cache, 0, query, key, key, scale=DIM**-0.5)

    outputs = [measure(benchmark, sdpa if variant == "sdpa" else paged, rounds=10), sdpa()]
    assert (outputs[0] - outputs[1]).abs().max() < 0.05


@pytest.mark.parametrize("variant", ["converted", "direct"])
def test_softmax_in_float32(benchmark: BenchmarkFixture, variant: str) -> None:
    scores = torch.randn(KV_HEADS, 256, 512).to(DTYPE)
    converted = torch.softmax(scores, -1, dtype=torch.float32).to(DTYPE)
    direct = (lambda: torch.softmax(scores, -1)) if variant == "direct" else None
    result = measure(benchmark, direct or (lambda: torch.softmax(scores, -1, dtype=torch.float32).to(DTYPE)))
    assert torch.equal(result, converted)


@pytest.mark.parametrize("num_tokens", [1, 512])
@pytest.mark.parametrize("variant", ["modelling_code", "fused"])
def test_rms_norm(benchmark: BenchmarkFixture, variant: str, num_tokens: int) -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    plain = Qwen3RMSNorm(1024).to(DTYPE)
    fused = FusedRMSNorm(plain.weight, plain.variance_epsilon, is_rounded_first=True)
    norm: nn.Module = plain if variant == "modelling_code" else fused
    inputs = torch.randn(1, num_tokens, 1024).to(DTYPE)
    result = measure(benchmark, lambda: norm(inputs), rounds=200)
    assert (result - plain(inputs)).abs().max() < 0.05
