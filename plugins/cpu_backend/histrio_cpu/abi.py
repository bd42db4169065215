"""The library's interface in Python's words; `native/histrio_cpu.h` is its definition, and a test compares them."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_uint32, c_void_p
from enum import IntEnum, IntFlag
from typing import Any

__all__ = [
    "ABI",
    "FUNCTIONS",
    "STAGE",
    "Activation",
    "Activations",
    "Batch",
    "Format",
    "KvFormat",
    "LayerConfig",
    "LayerFlags",
    "Norm",
    "StageConfig",
    "Status",
    "Storage",
    "Tensor",
]

ABI = 2


class Status(IntEnum):
    """What every call answers."""

    OK = 0
    BAD_ARGUMENT = 1
    NO_MEMORY = 2
    UNSUPPORTED = 3


class Format(IntEnum):
    """How a tensor is stored."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    BF16 = 30
    MXFP4 = 39
    U4_ZERO = 1001
    U4_WIDE = 1002
    U8_MIN = 1003
    U8_WIDE = 1004
    I8_WIDE = 1005
    F8_E4M3 = 1006


class Storage(IntEnum):
    """How the weights of a linear are kept for computing."""

    KEEP = 0
    AS_Q8 = 1
    AS_Q4 = 2
    PACKED = 16


class Activations(IntEnum):
    """Number format of what linears get."""

    F32 = 0
    BF16 = 1


class KvFormat(IntEnum):
    """Number format of keys and values."""

    F32 = 0
    BF16 = 1
    I8 = 2
    F16 = 3


class Norm(IntEnum):
    """Which norm a model has."""

    RMS = 0
    LAYER = 1


class Activation(IntEnum):
    """The function within an MLP."""

    SILU = 0
    GELU_TANH = 1
    GELU = 2
    CLIPPED = 3


class Tensor(IntEnum):
    """A tensor of the stage, or of one of its layers."""

    EMBEDDING = 0
    FINAL_NORM = 1
    HEAD = 2
    HEAD_BIAS = 3
    FINAL_NORM_BIAS = 4
    ATTN_NORM = 10
    ATTN_NORM_BIAS = 11
    Q = 12
    K = 13
    V = 14
    O = 15  # noqa: E741
    Q_BIAS = 16
    K_BIAS = 17
    V_BIAS = 18
    O_BIAS = 19
    Q_NORM = 20
    K_NORM = 21
    POST_ATTN_NORM = 22
    SINKS = 23
    MLP_NORM = 30
    MLP_NORM_BIAS = 31
    GATE = 32
    UP = 33
    DOWN = 34
    GATE_BIAS = 35
    UP_BIAS = 36
    DOWN_BIAS = 37
    POST_MLP_NORM = 38
    ROUTER = 40
    ROUTER_BIAS = 41


class LayerFlags(IntFlag):
    """What is peculiar to a layer."""

    QK_NORM = 1
    QK_NORM_WHOLE = 2
    ROPE_INTERLEAVED = 4
    PARALLEL = 8
    UNGATED = 16
    ROUTER_SIGMOID = 32
    ROUTER_RENORMALIZE = 64
    QK_NORM_CENTRED = 128


class StageConfig(Structure):
    """`hc_stage_config`."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("num_layers", c_int32),
        ("hidden", c_int32),
        ("vocab", c_int32),
        ("is_first", c_int32),
        ("is_last", c_int32),
        ("activations", c_int32),
        ("kv_format", c_int32),
        ("max_tokens", c_int32),
        ("max_rows", c_int32),
        ("max_logits", c_int32),
        ("norm", c_int32),
        ("norm_eps", c_float),
        ("embedding_scale", c_float),
        ("logit_scale", c_float),
        ("logit_softcap", c_float),
        ("attention_tile", c_int32),
    )


class LayerConfig(Structure):
    """`hc_layer_config`."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("activation", c_int32),
        ("flags", c_int32),
        ("window", c_int32),
        ("rope", c_int32),
        ("attention_scale", c_float),
        ("attention_softcap", c_float),
        ("residual_scale", c_float),
        ("num_experts", c_int32),
        ("experts_per_token", c_int32),
        ("gate_alpha", c_float),
        ("gate_limit", c_float),
    )


class Batch(Structure):
    """`hc_batch`. Its pointers are set as addresses; what they point to has to live until the call returns."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("num_rows", c_int32),
        ("num_tokens", c_int32),
        ("table_width", c_int32),
        ("starts", c_void_p),
        ("offsets", c_void_p),
        ("block_tables", c_void_p),
        ("token_ids", c_void_p),
        ("hidden_in", c_void_p),
        ("hidden_out", c_void_p),
        ("num_logits", c_int32),
        ("num_pooled", c_int32),
        ("logit_tokens", c_void_p),
        ("pooled_tokens", c_void_p),
        ("logits", c_void_p),
        ("states", c_void_p),
    )


STAGE = c_void_p
"""A pointer to `hc_stage`."""
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "hc_abi": (c_int32, ()),
    "hc_error": (c_char_p, ()),
    "hc_kernels": (c_char_p, ()),
    "hc_kernels_available": (c_char_p, ()),
    "hc_use_kernels": (c_int32, (c_char_p,)),
    "hc_use_threads": (c_int32, (c_int32,)),
    "hc_use_nodes": (c_int32, (c_int32, c_int32, c_void_p, c_int32)),
    "hc_self_test": (c_int32, ()),
    "hc_stage_new": (c_int32, (POINTER(StageConfig), POINTER(STAGE))),
    "hc_stage_free": (None, (STAGE,)),
    "hc_layer": (c_int32, (STAGE, c_int32, POINTER(LayerConfig))),
    "hc_rope": (c_int32, (STAGE, c_int32, c_void_p, c_int32, c_float)),
    "hc_put": (c_int32, (STAGE, c_int32, c_int32, c_int32, c_int32, c_int32, c_int64, c_int64, c_void_p)),
    "hc_packed": (c_void_p, (STAGE, c_int32, c_int32, c_int32)),
    "hc_packed_bytes": (c_int64, (c_int32, c_int32, c_int64, c_int64)),
    "hc_ready": (c_int32, (STAGE,)),
    "hc_weight_bytes": (c_int64, (STAGE,)),
    "hc_kv_bytes_per_token": (c_int64, (STAGE,)),
    "hc_allocate": (c_int32, (STAGE, c_int32, c_int32)),
    "hc_copy_blocks": (c_int32, (STAGE, c_int32, c_void_p, c_void_p)),
    "hc_step": (c_int32, (STAGE, POINTER(Batch))),
    "hc_dequantize": (c_int32, (c_int32, c_int64, c_void_p, c_void_p)),
}
"""Function → what it returns, and its arguments."""
