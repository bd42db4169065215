"""What the headers of weight files say of a model: how many bytes each layer has, and whether all is there.

No tensor is read. A header is checked against its file, so that a download that broke off is found, and named, at once.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from histrio.config.gguf.pointer import is_gguf_folder, read_pointer
from histrio.config.model_files import open_model_file, read_json_object
from histrio.errors import ModelError, ModelUnavailable

__all__ = [
    "INDEX_FILE",
    "SINGLE_FILE",
    "LayerBytes",
    "StoredTensor",
    "read_header",
    "read_layer_bytes",
    "sum_layer_bytes",
    "weight_files",
]

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_MOST_DIMENSIONS = 16
_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Number format → bits of one number; those that the format knows."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.")
_PROJECTION = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.")
_OTHER_MODALITY = re.compile(r"(?:^|\.)(?:vision|visual|audio|image|multi_modal|mm_)")

_Size = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class StoredTensor(msgspec.Struct, frozen=True):
    """One tensor, as a header describes it."""

    dtype: str
    """Such as `BF16`."""
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]
    """First byte and the one after the last, behind the header."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.data_offsets[1] - self.data_offsets[0]


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


def read_layer_bytes(folder: Path, num_layers: int, vocab_size: int | None = None) -> LayerBytes:
    """Sum the headers of all safetensors files of a folder, or what its link says of GGUF files.

    Raises `ModelError` with the name of a broken file, and where layers, or rows of the embedding, are not those that
    config.json promises.
    """
    tensors = list(_stored_tensors(folder))
    sizes = sum_layer_bytes(((name, num_bytes) for name, _, num_bytes in tensors), num_layers)
    _check_layers(folder, sizes.layers)
    rows = next((shape[0] for name, shape, _ in tensors if _is_embedding(name) and shape), None)
    if vocab_size is not None and rows is not None and rows != vocab_size:
        raise ModelError(
            f"{folder / 'config.json'}: vocab_size is {vocab_size}, but the embedding in the weights has {rows} rows"
        )
    return sizes


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Sequence[int], int]]:
    """Name, shape and bytes of every tensor, by transformers' names."""
    if is_gguf_folder(folder):
        yield from ((each.name, each.shape, each.num_bytes) for each in read_pointer(folder).tensors)
        return
    for file in weight_files(folder):
        yield from ((name, tensor.shape, tensor.num_bytes) for name, tensor in read_header(file).items())


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model: a single one, those that the index names, or all that there are; or GGUF files.

    Raises `ModelError` for an index that is no map of weights to files beside it, `ModelUnavailable` where one of the
    files is not there. Beside a single file, which has everything, an index says nothing.
    """
    if is_gguf_folder(folder):
        return read_pointer(folder).paths
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if not os.path.lexists(folder / INDEX_FILE):
        return sorted(folder.glob("*.safetensors"))

    names = _indexed_names(folder / INDEX_FILE)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ModelUnavailable(
            f"{folder} lacks {len(missing)} of the {len(names)} weight files that {INDEX_FILE} names, first "
            f"{missing[0]}: fetch the model again"
        )
    return [folder / name for name in names]


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file. Raises `ModelError`, with the file's name, for a header that does not describe it."""
    with open_model_file(file) as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ModelError(f"{file} is not a safetensors file{_looks_like(file)}")
        if length + 8 > num_bytes:
            raise ModelError(f"{file} is cut short: it ends within its header; fetch it again")
        content = stream.read(length)

    try:
        entries = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(entry, type=StoredTensor) for name, entry in entries.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ModelError(f"{file} has a broken safetensors header; fetch the file again") from None

    _check_data(file, tensors, num_bytes - length - 8)
    return tensors


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


def _check_data(file: Path, tensors: dict[str, StoredTensor], num_bytes: int) -> None:
    """The tensors' data follow each other from the first byte behind the header to the last of the file."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            raise ModelError(f"{file}: {name[:80]} is stored in a number format that is not known")
        num_bits = math.prod(tensor.shape) * bits if len(tensor.shape) <= _MOST_DIMENSIONS else -1
        if tensor.data_offsets[0] != end or tensor.num_bytes * 8 != num_bits:
            raise ModelError(f"{file}: the header says of {name[:80]} what cannot be (its shape, or where it lies)")
        end = tensor.data_offsets[1]
    if end > num_bytes:
        raise ModelError(f"{file} is cut short: {num_bytes} of {end} bytes of weights are there; fetch it again")
    if end < num_bytes:
        raise ModelError(f"{file} has {num_bytes - end} bytes more than its header describes; fetch it again")


def _indexed_names(index: Path) -> list[str]:
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{index}: weight_map must be an object that maps each weight to the name of its file")

    for name in set(names.values()):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: weight_map names a file that is no *.safetensors file of this folder")
    return list(dict.fromkeys(names.values()))


def _looks_like(file: Path) -> str:
    """What such files mostly are instead."""
    with open_model_file(file) as stream:
        begin = stream.read(64)
    if not begin:
        return " (it is empty); fetch it again"
    if begin.startswith(b"version https://git-lfs"):
        return ", but a pointer of Git LFS: fetch the weights with `git lfs pull`"
    if begin.lstrip().startswith((b"<", b"{")):
        return ", but a web page or a message; fetch it again"
    return "; fetch it again"


def _is_embedding(name: str) -> bool:
    return bool(_EMBEDDING.search(name)) and not _OTHER_MODALITY.search(name) and not _LAYER.search(name)


def _check_layers(folder: Path, layers: list[int]) -> None:
    """Weights that are named in a way that is not known here are left to the backend."""
    missing = [index for index, size in enumerate(layers) if not size]
    if missing and len(missing) < len(layers):
        raise ModelError(
            f"{folder / 'config.json'}: num_hidden_layers is {len(layers)}, but there are no weights of layer "
            f"{missing[0]} in the folder"
        )
