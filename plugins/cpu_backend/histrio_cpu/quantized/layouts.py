"""Which quantizer wrote a checkpoint, and its tensors under the names and shapes that the model itself has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from histrio.errors import UnsupportedModel
from histrio.kit.quantized import quantization_of, quantization_settings
from histrio_cpu.quantized import awq, compressed, fp8, gptq, mlx, mxfp4
from histrio_cpu.quantized.settings import Settings, read_settings
from histrio_cpu.quantized.tensor import BuiltTensor, Pieces
from histrio_cpu.weights import MappedTensor, StoredTensor

__all__ = ["METHODS", "assemble", "check_layout"]

Assemble = Callable[[str, Pieces, Settings], list[BuiltTensor]]

METHODS: Mapping[str, Assemble] = {
    "mlx": mlx.assemble,
    "gptq": gptq.assemble,
    "awq": awq.assemble,
    "compressed-tensors": compressed.assemble,
    "fp8": fp8.assemble,
    "fbgemm_fp8": fp8.assemble,
    "mxfp4": mxfp4.assemble,
}
"""`quant_method` of config.json → how a matrix is put together."""
_REMEDY = "; SGLang may run it (--backend sglang), or use weights in bfloat16"
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
"""Of compressed-tensors."""


def check_layout(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedModel` for weights of a quantizer that is not known here."""
    _find(config)


def assemble(tensors: Mapping[str, MappedTensor], config: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Name → tensor, with those of the quantizer put together. Raises `UnsupportedModel` and `ModelError`."""
    found = _find(config)
    if found is None:
        return dict(tensors)

    method, settings = found
    try:
        return _assemble(tensors, method, settings)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{error}{_REMEDY}") from None


def _assemble(
    tensors: Mapping[str, MappedTensor], method: Assemble, settings: Mapping[str, Any]
) -> dict[str, StoredTensor]:
    stems: dict[str, Pieces] = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        stems.setdefault(stem, {})[last] = tensor
    result: dict[str, StoredTensor] = {}
    for stem, pieces in stems.items():
        result |= {matrix.name: matrix for matrix in method(stem, pieces, read_settings(settings, stem))}
        result |= {piece.name: piece for piece in pieces.values()}
    return result


def _find(config: Mapping[str, Any]) -> tuple[Assemble, Mapping[str, Any]] | None:
    settings, method = quantization_settings(config), quantization_of(config)
    if settings is None or method is None:
        return None

    if method not in METHODS:
        raise UnsupportedModel(
            f"its weights are quantized by {method}; those of {', '.join(METHODS)} are computed with{_REMEDY}"
        )
    form = read_settings(settings).format
    if method == "compressed-tensors" and form not in _FORMATS:
        raise UnsupportedModel(f"its weights are {str(form)[:40]}; {', '.join(_FORMATS)} are read{_REMEDY}")
    return METHODS[method], settings
