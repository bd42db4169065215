"""How many bytes of weights each layer has, from the headers of safetensors files; no tensor is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from histrio.errors import ModelError

__all__ = ["LayerBytes", "read_layer_bytes", "sum_layer_bytes"]

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_PROJECTION = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.")
_OTHER_MODALITY = re.compile(r"(?:^|\.)(?:vision|visual|audio|image|multi_modal|mm_)")


class LayerBytes(msgspec.Struct, frozen=True):
    """Bytes of weights as stored: of every layer, of the embedding, and of what follows the last layer."""

    layers: list[int]
    embedding: int
    head: int
    """Final norm, and the output projection unless it is the embedding again."""
    is_tied: bool
    """The output projection is the embedding, so the last stage holds a copy of it."""

    def of_range(self, first: int, end: int) -> int:
        """Bytes that a stage with layers `first:end` holds."""
        is_first, is_last = first == 0, end == len(self.layers)
        size = sum(self.layers[first:end])
        if is_first or (is_last and self.is_tied):
            size += self.embedding
        return size + (self.head if is_last else 0)


def read_layer_bytes(folder: Path, num_layers: int) -> LayerBytes:
    """Sum the headers of all safetensors files of a folder. Raises `ModelError` with the name of a broken file."""
    return sum_layer_bytes(
        (item for file in sorted(folder.glob("*.safetensors")) for item in _header(file)), num_layers
    )


def sum_layer_bytes(tensors: Iterable[tuple[str, int]], num_layers: int) -> LayerBytes:
    """Group (tensor name, bytes) by where the tensor belongs. Towers for images and sound are not counted."""
    layers, ends = Counter[int](), Counter[str]()
    has_projection = False
    for name, size in tensors:
        if _OTHER_MODALITY.search(name):
            continue
        layer = _LAYER.search(name)
        if layer:
            layers[int(layer[1])] += size
        elif _EMBEDDING.search(name):
            ends["embedding"] += size
        else:
            ends["head"] += size
            has_projection |= bool(_PROJECTION.search(name))
    return LayerBytes([layers[i] for i in range(num_layers)], ends["embedding"], ends["head"], not has_projection)


def _header(file: Path) -> list[tuple[str, int]]:
    """Name and bytes of every tensor: eight bytes of length (little-endian), then that much JSON."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise ModelError(f"{file} is not a safetensors file (its header would be {length} bytes)")
            header: dict[str, Any] = msgspec.json.decode(stream.read(length), type=dict[str, Any])
        header.pop("__metadata__", None)
        return [(name, tensor["data_offsets"][1] - tensor["data_offsets"][0]) for name, tensor in header.items()]
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        raise ModelError(f"{file} has a broken safetensors header; fetch the file again") from None
