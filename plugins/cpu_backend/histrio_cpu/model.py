"""A decoder as the native library sees it: its numbers, its layers, and which stored tensor is which of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from histrio_cpu.abi import LayerConfig, LayerFlags, Norm, Tensor
from histrio_cpu.rope import RopeTable

__all__ = ["Model", "Names", "Part", "stage_parts"]

Names = Mapping[str, tuple[Tensor, ...]]
"""Name of a stored tensor within its layer → the tensors whose rows it holds, one after the other. `{expert}` in a name
stands for each expert."""

EMBEDDING = "model.embed_tokens.weight"
_FINAL_NORM = "model.norm.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A whole model."""

    hidden: int
    vocab: int
    layers: list[LayerConfig]
    ropes: list[RopeTable]
    dense_names: Names
    expert_names: Names
    """The same for layers with experts."""
    is_tied: bool
    norm: Norm
    norm_eps: float
    norm_offset: float
    """Added to the stored weights of norms: 1 for Gemma."""
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0

    def layer_names(self, index: int) -> Names:
        """Names of the tensors of a layer."""
        return self.expert_names if self.layers[index].num_experts else self.dense_names


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the library, and where it is stored."""

    name: str
    """Of the stored tensor."""
    begin_row: int
    stored_rows: int
    """Rows of the stored tensor, of which this part has some; a vector has one row per number."""
    layer: int
    """Counted from the stage's first; -1: of the stage."""
    tensor: Tensor
    rows: int
    columns: int
    expert: int = 0

    @property
    def is_vector(self) -> bool:
        """Norms, biases and sinks."""
        return self.rows == 1 and self.tensor not in _MATRICES

    @property
    def is_linear(self) -> bool:
        """Its weights are packed."""
        return self.tensor in _MATRICES and self.tensor != Tensor.EMBEDDING

    @property
    def may_be_rounded(self) -> bool:
        """All linears but the router, which is small and decides much."""
        return self.is_linear and self.tensor != Tensor.ROUTER

    @property
    def is_norm(self) -> bool:
        """Weights of a norm."""
        return self.tensor in _NORMS

    @property
    def is_optional(self) -> bool:
        """Models have it or not: a bias."""
        return self.name.endswith(".bias")


_MATRICES = {
    *(Tensor.EMBEDDING, Tensor.HEAD, Tensor.Q, Tensor.K, Tensor.V, Tensor.O),
    *(Tensor.GATE, Tensor.UP, Tensor.DOWN, Tensor.ROUTER),
}
_NORMS = {
    *(Tensor.FINAL_NORM, Tensor.ATTN_NORM, Tensor.MLP_NORM, Tensor.POST_ATTN_NORM, Tensor.POST_MLP_NORM),
    *(Tensor.Q_NORM, Tensor.K_NORM),
}


def stage_parts(model: Model, first_layer: int, last_layer: int) -> Iterator[Part]:
    """All tensors of a stage with the layers `first_layer` to `last_layer - 1`, in the order of the model."""
    if first_layer == 0:
        yield Part(EMBEDDING, 0, model.vocab, -1, Tensor.EMBEDDING, model.vocab, model.hidden)
    for layer in range(first_layer, last_layer):
        yield from _layer_parts(model, layer, layer - first_layer)
    if last_layer == len(model.layers):
        yield Part(_FINAL_NORM, 0, model.hidden, -1, Tensor.FINAL_NORM, 1, model.hidden)
        yield Part(EMBEDDING if model.is_tied else _HEAD, 0, model.vocab, -1, Tensor.HEAD, model.vocab, model.hidden)


def _layer_parts(model: Model, layer: int, index: int) -> Iterator[Part]:
    config = model.layers[layer]
    shapes = _shapes(config, model.hidden)
    for name, tensors in model.layer_names(layer).items():
        stored_rows = sum(_stored_rows(shapes[tensor]) for tensor in tensors)
        for expert in range(config.num_experts) if "{expert}" in name else (0,):
            full_name, begin_row = f"model.layers.{layer}.{name.format(expert=expert)}", 0
            for tensor in tensors:
                yield Part(full_name, begin_row, stored_rows, index, tensor, *shapes[tensor], expert)
                begin_row += _stored_rows(shapes[tensor])


def _stored_rows(shape: tuple[int, int]) -> int:
    rows, columns = shape
    return columns if rows == 1 else rows


def _shapes(config: LayerConfig, hidden: int) -> dict[Tensor, tuple[int, int]]:
    """Rows and columns of each tensor of a layer; vectors have one row."""
    q, kv, inner = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim, config.intermediate
    is_whole = config.flags & (LayerFlags.QK_NORM_WHOLE | LayerFlags.QK_NORM_CENTRED)
    linears = {
        Tensor.Q: (q, hidden),
        Tensor.K: (kv, hidden),
        Tensor.V: (kv, hidden),
        Tensor.O: (hidden, q),
        Tensor.GATE: (inner, hidden),
        Tensor.UP: (inner, hidden),
        Tensor.DOWN: (hidden, inner),
        Tensor.ROUTER: (config.num_experts, hidden),
    }
    widths = {
        **dict.fromkeys((Tensor.ATTN_NORM, Tensor.MLP_NORM, Tensor.POST_ATTN_NORM, Tensor.POST_MLP_NORM), hidden),
        **{Tensor.Q_NORM: q if is_whole else config.head_dim, Tensor.K_NORM: kv if is_whole else config.head_dim},
        **{Tensor.Q_BIAS: q, Tensor.K_BIAS: kv, Tensor.V_BIAS: kv, Tensor.O_BIAS: hidden},
        **{Tensor.GATE_BIAS: inner, Tensor.UP_BIAS: inner, Tensor.DOWN_BIAS: hidden},
        **{Tensor.SINKS: config.num_heads, Tensor.ROUTER_BIAS: config.num_experts},
    }
    return linears | {tensor: (1, width) for tensor, width in widths.items()}
