"""Attention over blocks equals dense attention in float64, whatever the lengths, windows, chunks and company."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from histrio_torch import attention
from histrio_torch.attention import (
    ATTENTION_NAME,
    attend,
    attend_latent,
    paged_attention_forward,
    register_attention,
)
from histrio_torch.blocks import LayerShape, PagedCache
from histrio_torch.testing.batches import make_batch

BLOCK_SIZE = 8


@dataclass
class Layer:
    """One attention layer's sizes and how it scores."""

    num_heads: int = 6
    num_kv_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    scale: float = 0.3

    @property
    def sinks(self) -> Tensor | None:
        """A different logit for each head."""
        return torch.linspace(-1, 2, self.num_heads) if self.has_sinks else None


@dataclass
class Row:
    """A sequence with all its queries, keys and values, some of which are computed already."""

    query: Tensor
    key: Tensor
    value: Tensor
    blocks: list[int]
    num_computed: int = 0
    outputs: list[Tensor] = field(default_factory=list)


class Bench:
    """A cache with one layer, and rows whose blocks are scattered over it."""

    def __init__(
        self, layer: Layer, lengths: list[int], dtype: torch.dtype = torch.float32, num_blocks: int = 64
    ) -> None:
        self.layer = layer
        shape = LayerShape(layer.num_kv_heads, layer.key_dim, layer.value_dim)
        self.cache = PagedCache({3: shape}, dtype, "cpu")
        self.cache.allocate(num_blocks, BLOCK_SIZE)
        generator = torch.Generator().manual_seed(sum(lengths))
        free = torch.randperm(num_blocks, generator=generator).tolist()
        self.rows = []
        for length in lengths:
            blocks = [free.pop() for _ in range(math.ceil(length / BLOCK_SIZE))]
            query = torch.randn(length, layer.num_heads, layer.key_dim, generator=generator).to(dtype)
            key = torch.randn(length, layer.num_kv_heads, layer.key_dim, generator=generator).to(dtype)
            value = torch.randn(length, layer.num_kv_heads, layer.value_dim, generator=generator).to(dtype)
            self.rows.append(Row(query, key, value, blocks))

    def step(self, counts: dict[int, int]) -> None:
        """Run `counts[row]` next tokens of each named row as one ragged step."""
        rows = [(self.rows[index], count) for index, count in counts.items()]
        self.cache.begin(make_batch([(row.num_computed, count, row.blocks) for row, count in rows]))
        spans = [(row, slice(row.num_computed, row.num_computed + count)) for row, count in rows]
        flat = [torch.cat([getattr(row, name)[span] for row, span in spans]) for name in ("query", "key", "value")]
        layer = self.layer
        output = attend(
            self.cache, 3, *flat, scale=layer.scale, window=layer.window, softcap=layer.softcap, sinks=layer.sinks
        )
        for (row, count), part in zip(rows, output.split([count for _, count in rows]), strict=True):
            row.outputs.append(part)
            row.num_computed += count

    def errors(self, layer: Layer | None = None) -> list[float]:
        """Largest difference to the dense reference, for each row, over all tokens computed so far."""
        expected = [dense_attention(row, layer or self.layer)[: row.num_computed] for row in self.rows]
        pairs = zip(self.rows, expected, strict=True)
        return [float((torch.cat(row.outputs).double() - want).abs().max()) for row, want in pairs]


def dense_attention(row: Row, layer: Layer) -> Tensor:
    """The textbook formula in float64: [tokens, heads, value_dim]."""
    group = layer.num_heads // layer.num_kv_heads
    key = row.key.double().repeat_interleave(group, dim=1)
    value = row.value.double().repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", row.query.double(), key) * layer.scale
    if layer.softcap is not None:
        scores = layer.softcap * torch.tanh(scores / layer.softcap)
    distance = torch.arange(len(key))[:, None] - torch.arange(len(key))
    hidden = distance < 0
    if layer.window is not None:
        hidden |= distance >= layer.window
    scores = scores.masked_fill(hidden, -math.inf)
    if layer.sinks is None:
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)

    sinks = layer.sinks.double()[:, None, None].expand(-1, len(key), 1)
    weights = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
    return torch.einsum("hqk,khd->qhd", weights, value)


def prefill_then_decode(bench: Bench) -> None:
    """Each row is prefilled alone except for its last tokens, then all decode together."""
    for index, row in enumerate(bench.rows):
        bench.step({index: len(row.key) - min(4, len(row.key) - 1)})
    while running := {index: 1 for index, row in enumerate(bench.rows) if row.num_computed < len(row.key)}:
        bench.step(running)


LAYERS = {
    "full": Layer(),
    "multi_head": Layer(num_heads=3, num_kv_heads=3),
    "multi_query": Layer(num_heads=8, num_kv_heads=1),
    "window": Layer(window=11),
    "window_of_one_block": Layer(window=BLOCK_SIZE),
    "softcap": Layer(softcap=2.0),
    "window_and_softcap": Layer(window=19, softcap=1.5),
    "narrow_values": Layer(key_dim=24, value_dim=8),
    "wide_values": Layer(key_dim=8, value_dim=40),
    "sinks": Layer(has_sinks=True, window=13),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_ragged_rows_equal_dense_attention(layer: Layer) -> None:
    bench = Bench(layer, [5, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE - 1, 50, 131])
    prefill_then_decode(bench)
    assert max(bench.errors()) < 2e-6


def other(layer: Layer, **changes: object) -> Layer:
    """The layer with some fields replaced."""
    return Layer(**{**layer.__dict__, **changes})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("full", Layer(window=40)),
        ("window", other(LAYERS["window"], window=10)),
        ("window", other(LAYERS["window"], window=12)),
        ("softcap", other(LAYERS["softcap"], softcap=2.2)),
        ("full", other(LAYERS["full"], scale=0.31)),
        ("sinks", other(LAYERS["sinks"], has_sinks=False)),
    ],
)
def test_the_comparison_notices_a_wrong_layer(name: str, wrong: Layer) -> None:
    bench = Bench(LAYERS[name], [50, 60])
    prefill_then_decode(bench)
    assert min(bench.errors(wrong)) > 1e-4


def test_the_comparison_notices_swapped_blocks() -> None:
    bench = Bench(Layer(), [50])
    bench.step({0: 49})
    row = bench.rows[0]
    row.blocks[0], row.blocks[1] = row.blocks[1], row.blocks[0]
    row.blocks[2] = row.blocks[3]
    bench.step({0: 1})
    assert bench.errors()[0] > 1e-3


@pytest.mark.parametrize("layer", [Layer(), Layer(window=37)], ids=["full", "window"])
@pytest.mark.parametrize("chunks", [[300], [1, 299], [128, 172], [7, 8, 9, 276], [290, 10]])
def test_chunked_prefill_equals_dense_attention(layer: Layer, chunks: list[int]) -> None:
    bench = Bench(layer, [300])
    for chunk in chunks:
        bench.step({0: chunk})
    assert bench.errors()[0] < 2e-6


@pytest.mark.parametrize("layer", [Layer(), Layer(window=9)], ids=["full", "window"])
def test_prefill_draft_and_decode_rows_share_a_step(layer: Layer) -> None:
    bench = Bench(layer, [200, 40, 41, 90, 33])
    bench.step({1: 39, 2: 36, 3: 30, 4: 28})
    bench.step({4: 5, 1: 1, 0: 150, 2: 5, 3: 60})
    bench.step({0: 50})
    assert max(bench.errors()) < 2e-6


@pytest.mark.parametrize("layer", [*LAYERS.values()], ids=[*LAYERS])
@pytest.mark.parametrize("drafting", [{3: 5}, {0: 4, 7: 5, 8: 3}, dict.fromkeys(range(0, 12, 2), 5)])
def test_rows_with_and_without_drafts_share_a_step(layer: Layer, drafting: dict[int, int]) -> None:
    bench = Bench(layer, [40 + row for row in range(12)], num_blocks=128)
    bench.step(dict.fromkeys(range(12), 20))
    for _ in range(2):
        bench.step({row: drafting.get(row, 1) for row in range(12)})
        bench.step(dict.fromkeys(range(12), 1))
    assert max(bench.errors()) < 2e-6
    swapped = bench.rows[3].outputs
    swapped[1] = swapped[1].flip(0).roll(1, 1)
    assert bench.errors()[3] > 1e-3


@pytest.mark.parametrize("company", [[3], [400], [20, 33, 47, 5, 320]])
def test_a_row_does_not_depend_on_its_company(company: list[int]) -> None:
    alone, together = Bench(Layer(), [60], num_blocks=256), Bench(Layer(), [60, *company], num_blocks=256)
    together.rows[0] = Row(**{**alone.rows[0].__dict__, "blocks": together.rows[0].blocks, "outputs": []})
    prefill_then_decode(alone)
    prefill_then_decode(together)
    difference = torch.cat(alone.rows[0].outputs) - torch.cat(together.rows[0].outputs)
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_stay_within_their_rounding(dtype: torch.dtype) -> None:
    bench = Bench(Layer(), [5, 50, 131], dtype)
    prefill_then_decode(bench)
    assert max(bench.errors()) < 8 * torch.finfo(dtype).eps


def test_the_way_for_other_devices_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(attention, "_TRUSTED_DEVICES", devices)
        bench = Bench(Layer(), [50, 131], torch.bfloat16)
        prefill_then_decode(bench)
        results.append(torch.cat([output for row in bench.rows for output in row.outputs]))
    assert torch.equal(*results)
    assert not torch.equal(results[0], results[1].flip(0))


def test_a_shared_prefix_is_read_by_both_rows() -> None:
    bench = Bench(Layer(), [40, 40])
    first, second = bench.rows
    second.key[:32], second.value[:32], second.query[:32] = first.key[:32], first.value[:32], first.query[:32]
    bench.step({0: 40})
    second.blocks[:4] = first.blocks[:4]
    second.num_computed, second.outputs = 32, [first.outputs[0][:32]]
    bench.step({1: 8})
    assert max(bench.errors()) < 2e-6


def test_a_copied_block_reads_like_its_source() -> None:
    bench = Bench(Layer(), [20])
    row = bench.rows[0]
    bench.step({0: 19})
    spare = [block for block in range(64) if block not in row.blocks][:3]
    bench.cache.copy(row.blocks, spare)
    row.blocks[:] = spare
    bench.step({0: 1})
    assert bench.errors()[0] < 2e-6


def test_copies_that_form_a_cycle_read_before_they_write() -> None:
    bench = Bench(Layer(), [20])
    row = bench.rows[0]
    bench.step({0: 19})
    a, b, c = row.blocks
    bench.cache.copy([a, b, c], [b, c, a])
    row.blocks[:] = [b, c, a]
    bench.step({0: 1})
    assert bench.errors()[0] < 2e-6


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_a_block_held_before_does_not_reach_its_new_owner(poison: float) -> None:
    bench = Bench(Layer(), [21, 90])
    for pool in bench.cache._pools:
        pool.fill_(poison)
    prefill_then_decode(bench)
    assert max(bench.errors()) < 2e-6


def test_the_same_sizes_keep_the_pool() -> None:
    bench = Bench(Layer(), [20])
    bench.step({0: 19})
    bench.cache.allocate(64, BLOCK_SIZE)
    bench.step({0: 1})
    assert bench.errors()[0] < 2e-6
    bench.cache.allocate(65, BLOCK_SIZE)
    assert not any(pool.any() for pool in bench.cache._pools)


def test_a_block_is_one_stretch_of_memory_for_all_layers() -> None:
    cache = PagedCache(dict.fromkeys(range(5), LayerShape(2, 16, 8)), torch.float32, "cpu")
    cache.allocate(9, BLOCK_SIZE)
    assert len(cache._pools) == 2
    for pool in cache._pools:
        assert pool.shape[:2] == (9, 5)
        assert pool[3].is_contiguous()


def test_bytes_per_token_counts_every_layer() -> None:
    cache = PagedCache({0: LayerShape(2, 16, 16), 5: LayerShape(1, 24, 0)}, torch.bfloat16, "cpu")
    assert cache.bytes_per_token == 2 * (2 * 32 + 24)


def test_layers_of_different_shapes_share_a_step() -> None:
    wide, narrow = Bench(Layer(), [30]), Bench(Layer(num_heads=4, num_kv_heads=1, key_dim=8, value_dim=8), [30])
    shapes = {0: wide.cache.layers[3], 1: narrow.cache.layers[3]}
    cache = PagedCache(shapes, torch.float32, "cpu")
    cache.allocate(8, BLOCK_SIZE)
    cache.begin(make_batch([(0, 30, [4, 1, 7, 2])]))
    for index, bench in enumerate((wide, narrow)):
        row = bench.rows[0]
        output = attend(cache, index, row.query, row.key, row.value, scale=0.3)
        assert (output - dense_attention(row, bench.layer)).abs().max() < 2e-6


def test_latent_blocks_equal_dense_multi_query_attention() -> None:
    layer = Layer(num_heads=4, num_kv_heads=1, key_dim=24, value_dim=24)
    row = Bench(layer, [70]).rows[0]
    cache = PagedCache({0: LayerShape(1, 24, 0)}, torch.float32, "cpu")
    cache.allocate(16, BLOCK_SIZE)
    outputs = []
    for start, count in ((0, 69), (69, 1)):
        cache.begin(make_batch([(start, count, list(range(9)))]))
        span = slice(start, start + count)
        outputs.append(attend_latent(cache, 0, row.query[span], row.key[span, 0], scale=0.3, value_dim=16))
    row.value = row.key
    expected = dense_attention(row, layer)[..., :16]
    assert (torch.cat(outputs) - expected).abs().max() < 2e-6
    assert (torch.cat(outputs) - expected.flip(0)).abs().max() > 1e-2


def test_transformers_finds_the_adapter_and_makes_no_mask() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    register_attention()
    register_attention()
    assert AttentionInterface()[ATTENTION_NAME] is paged_attention_forward
    assert ATTENTION_NAME not in AttentionMaskInterface()


class Attention(torch.nn.Module):
    """What the adapter reads of a module of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx = 0
        self.histrio_cache = PagedCache({0: LayerShape(2, 16, 16)}, torch.float32, "cpu")


def test_the_adapter_equals_dense_attention() -> None:
    layer = Layer(window=9, softcap=3.0)
    row = Bench(layer, [30]).rows[0]
    module = Attention()
    module.histrio_cache.allocate(8, BLOCK_SIZE)
    module.histrio_cache.begin(make_batch([(0, 30, [5, 0, 3, 6])]))
    query, key, value = (part.transpose(0, 1)[None] for part in (row.query, row.key, row.value))
    output, weights = paged_attention_forward(
        module, query, key, value, None, scaling=0.3, sliding_window=9, softcap=3.0
    )
    assert weights is None
    assert output.shape == (1, 30, 6, 16)
    assert (output[0] - dense_attention(row, layer)).abs().max() < 2e-6
