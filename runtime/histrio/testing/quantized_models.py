"""Checkpoints of quantizers, in their published layouts: a float32 folder, rounded, with what its values are then.

Rounding is the plainest there is. Layouts: MLX (ml-explore/mlx, `quantize`), GPTQ (ModelCloud/GPTQModel), AWQ
(casper-hansen/AutoAWQ, `gemm`), compressed-tensors (vllm-project), FP8 (DeepSeek-V3's `weight_scale_inv`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.testing.gguf_models import read_float_tensors
from histrio.testing.models import write_safetensors

__all__ = ["E4M3", "LAYOUTS", "Layout", "write_quantized_model"]

Floats = npt.NDArray[np.float32]
Pieces = dict[str, npt.NDArray[Any]]

_AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)


def _e4m3() -> Floats:
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    values = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))
    return np.where(codes & 127 == 127, np.nan, np.where(codes > 127, -values, values)).astype(np.float32)


E4M3 = _e4m3()
"""Code → value."""


@dataclass(frozen=True)
class Layout:
    """How a matrix is written, and what config.json says of it."""

    write: Callable[[Floats, Mapping[str, Any]], tuple[Pieces, Floats]]
    """Matrix [rows, columns], settings → pieces by the last part of their names, and the values they mean."""
    settings: Mapping[str, Any]
    stored_as: Mapping[str, str] = field(default_factory=dict)
    """Last part of a name → number format that numpy has only as bits."""


def write_quantized_model(source: Path, folder: Path, name: str, *, plain: Path) -> Path:
    """The model of `source`, which holds float32 in one file, with its linears in the layout `name`, and in
    `plain` the model in float32 that it means. Returns `folder`."""
    layout, is_mlx = LAYOUTS[name], name.startswith("mlx")
    written: Pieces = {}
    values: Pieces = {}
    stored_as: dict[str, str] = {}
    for full, tensor in read_float_tensors(source / "model.safetensors").items():
        if not full.endswith("_proj.weight") and not (is_mlx and full.endswith("embed_tokens.weight")):
            written[full] = values[full] = tensor
            continue
        stem = full.removesuffix(".weight")
        pieces, values[full] = layout.write(tensor, layout.settings)
        written |= {f"{stem}.{last}": piece for last, piece in pieces.items()}
        stored_as |= {f"{stem}.{last}": form for last, form in layout.stored_as.items() if last in pieces}
    for target in (folder, plain):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization" if is_mlx else "quantization_config"] = dict(layout.settings)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", written, stored_as)
    write_safetensors(plain / "model.safetensors", values)
    return folder


def _grouped(matrix: Floats, group: int) -> Floats:
    return matrix.reshape(len(matrix), -1, matrix.shape[1] if group == -1 else group)


def _bf16(values: npt.NDArray[Any]) -> Floats:
    """bfloat16 numbers near the values."""
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _bf16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _words(codes: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint32]:
    """[rows, columns] → [rows, columns · bits / 32], the first code lowest."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    parts = codes.astype(np.uint32).reshape(len(codes), -1, 32 // bits)
    words: npt.NDArray[np.uint32] = np.bitwise_or.reduce(parts << shifts, axis=-1)
    return words


def _asymmetric(matrix: Floats, bits: int, group: int) -> tuple[npt.NDArray[Any], Floats, Floats]:
    """Codes in the shape of the matrix, scales (float16 numbers) and zero points [rows, groups]."""
    groups, most_code = _grouped(matrix, group), 2**bits - 1
    least, most = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = ((most - least) / most_code).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.rint(-least / scales), 0, most_code).astype(np.float32)
    codes = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, most_code)
    return codes.reshape(matrix.shape), scales, zeros


def _symmetric(matrix: Floats, bits: int, group: int) -> tuple[npt.NDArray[Any], Floats, Floats]:
    """The same around the middle of the codes; scales are bfloat16 numbers."""
    groups, middle = _grouped(matrix, group), 2 ** (bits - 1)
    scales = _bf16(np.abs(groups).max(-1) / (middle - 1))
    codes = np.clip(np.rint(groups / scales[..., None]) + middle, 0, 2 * middle - 1)
    return codes.reshape(matrix.shape), scales, np.full_like(scales, middle)


def _values(codes: npt.NDArray[Any], scales: Floats, zeros: Floats) -> Floats:
    groups = codes.reshape(*scales.shape, -1) - zeros[..., None]
    return (scales[..., None] * groups).reshape(codes.shape).astype(np.float32)


def _write_mlx(matrix: Floats, settings: Mapping[str, Any]) -> tuple[Pieces, Floats]:
    bits, groups = settings["bits"], _grouped(matrix, settings["group_size"])
    scales = _bf16((groups.max(-1) - groups.min(-1)) / (2**bits - 1))
    biases = _bf16(groups.min(-1))
    codes = np.clip(np.rint((groups - biases[..., None]) / scales[..., None]), 0, 2**bits - 1)
    values = scales[..., None] * codes.astype(np.float32) + biases[..., None]
    pieces: Pieces = {"weight": _words(codes.reshape(matrix.shape), bits)}
    return pieces | {"scales": _bf16_bits(scales), "biases": _bf16_bits(biases)}, values.reshape(matrix.shape)


def _write_gptq(matrix: Floats, settings: Mapping[str, Any]) -> tuple[Pieces, Floats]:
    bits, columns = settings["bits"], matrix.shape[1]
    group = columns if settings["group_size"] == -1 else settings["group_size"]
    group_of_input = np.arange(columns) // group
    if settings["desc_act"]:
        group_of_input = np.random.default_rng(columns).permutation(group_of_input)
    by_group = np.argsort(group_of_input, kind="stable")
    round_it = _symmetric if settings["sym"] else _asymmetric
    codes, scales, zeros = round_it(matrix[:, by_group], bits, group)
    values, unsorted = np.empty_like(matrix), np.empty_like(codes)
    values[:, by_group], unsorted[:, by_group] = _values(codes, scales, zeros), codes
    stored_zeros = (zeros.T.astype(np.int64) - (settings.get("checkpoint_format") != "gptq_v2")) % 2**bits
    pieces: Pieces = {
        "qweight": _words(unsorted.T.reshape(-1, 32 // bits, len(matrix)).swapaxes(1, 2).reshape(-1, 32 // bits), bits)
        .reshape(-1, len(matrix))
        .view(np.int32),
        "qzeros": _words(stored_zeros, bits).view(np.int32),
        "scales": scales.T.astype(np.float16),
        "g_idx": group_of_input.astype(np.int32),
    }
    return pieces, values.astype(np.float16).astype(np.float32) if settings["desc_act"] else values


def _write_awq(matrix: Floats, settings: Mapping[str, Any]) -> tuple[Pieces, Floats]:
    codes, scales, zeros = _asymmetric(matrix, 4, settings["group_size"])

    def words(outputs: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        return _words(outputs.reshape(len(outputs), -1, 8)[..., _AWQ_OUTPUTS].reshape(outputs.shape), 4).view(np.int32)

    pieces: Pieces = {"qweight": words(codes.T), "qzeros": words(zeros.T), "scales": scales.T.astype(np.float16)}
    return pieces, _values(codes, scales, zeros)


def _write_packed(matrix: Floats, settings: Mapping[str, Any]) -> tuple[Pieces, Floats]:
    scheme: Mapping[str, Any] = settings["config_groups"]["group_0"]["weights"]
    round_it = _symmetric if scheme["symmetric"] else _asymmetric
    codes, scales, zeros = round_it(matrix, scheme["num_bits"], scheme["group_size"])
    scales = _bf16(scales)
    pieces: Pieces = {
        "weight_packed": _words(codes, scheme["num_bits"]).view(np.int32),
        "weight_scale": _bf16_bits(scales),
        "weight_shape": np.array(matrix.shape, np.int64),
    }
    if not scheme["symmetric"]:
        pieces["weight_zero_point"] = np.ascontiguousarray(_words(zeros.T, scheme["num_bits"]).T).view(np.int32)
    return pieces, _values(codes, scales, zeros)


def _write_bytes(matrix: Floats, settings: Mapping[str, Any]) -> tuple[Pieces, Floats]:
    codes, scales, zeros = _symmetric(matrix, 8, -1)
    return {"weight": (codes - 128).astype(np.int8), "weight_scale": _bf16_bits(scales)}, _values(codes, scales, zeros)


def _write_f8(matrix: Floats, settings: Mapping[str, Any]) -> tuple[Pieces, Floats]:
    rows, columns = matrix.shape
    by_blocks = settings.get("weight_block_size")
    down, across = by_blocks or ((1, columns) if "config_groups" in settings else (rows, columns))
    scales = np.zeros((-(-rows // down), -(-columns // across)), np.float32)
    for row, column in np.ndindex(*scales.shape):
        block = matrix[row * down : (row + 1) * down, column * across : (column + 1) * across]
        scales[row, column] = np.abs(block).max() / 448
    each = np.repeat(np.repeat(scales, down, 0)[:rows], across, 1)[:, :columns]
    nearest = np.clip(np.searchsorted(E4M3[:127], np.abs(matrix / each)), 0, 126)
    codes = (nearest | np.where(matrix < 0, 128, 0)).astype(np.uint8)
    name = "weight_scale_inv" if by_blocks else "weight_scale"
    stored = scales.reshape(-1) if scales.size == 1 and not by_blocks else scales
    return {"weight": codes, name: stored}, E4M3[codes] * each


def _compressed(form: str, **weights: Any) -> dict[str, Any]:
    scheme = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
_CHANNEL: dict[str, Any] = {"num_bits": 8, "strategy": "channel", "group_size": -1}
_MLX_BITS = {"scales": "BF16", "biases": "BF16"}
_F8_BITS = {"weight": "F8_E4M3"}

LAYOUTS: Mapping[str, Layout] = {
    "mlx_4": Layout(_write_mlx, {"group_size": 32, "bits": 4}, _MLX_BITS),
    "mlx_4_64": Layout(_write_mlx, {"group_size": 64, "bits": 4}, _MLX_BITS),
    "mlx_8": Layout(_write_mlx, {"group_size": 32, "bits": 8}, _MLX_BITS),
    "gptq": Layout(_write_gptq, _GPTQ),
    "gptq_whole": Layout(_write_gptq, {**_GPTQ, "group_size": -1}),
    "gptq_zeros": Layout(_write_gptq, {**_GPTQ, "sym": False}),
    "gptq_v2": Layout(_write_gptq, {**_GPTQ, "sym": False, "checkpoint_format": "gptq_v2"}),
    "gptq_ordered": Layout(_write_gptq, {**_GPTQ, "sym": False, "desc_act": True}),
    "gptq_8": Layout(_write_gptq, {**_GPTQ, "bits": 8}),
    "gptq_8_zeros": Layout(_write_gptq, {**_GPTQ, "bits": 8, "sym": False}),
    "awq": Layout(_write_awq, _AWQ),
    "w4a16": Layout(_write_packed, _compressed("pack-quantized"), {"weight_scale": "BF16"}),
    "w4a16_zeros": Layout(_write_packed, _compressed("pack-quantized", symmetric=False), {"weight_scale": "BF16"}),
    "w8a16": Layout(_write_packed, _compressed("pack-quantized", num_bits=8), {"weight_scale": "BF16"}),
    "w8a8": Layout(_write_bytes, _compressed("int-quantized", **_CHANNEL), {"weight_scale": "BF16"}),
    "fp8_blocks": Layout(_write_f8, {"quant_method": "fp8", "weight_block_size": [80, 64]}, _F8_BITS),
    "fp8_whole": Layout(_write_f8, {"quant_method": "fp8", "activation_scheme": "static"}, _F8_BITS),
    "fp8_rows": Layout(_write_f8, _compressed("float-quantized", **_CHANNEL, type="float"), _F8_BITS),
}
"""Name → layout."""
