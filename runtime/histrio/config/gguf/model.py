"""The model in a GGUF file, or in a set of files that it was split into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.dequantize import DEQUANTIZED_TYPES, dequantize
from histrio.config.gguf.header import GgufHeader, GgufTensor, map_file, parse_header
from histrio.config.gguf.metadata import Metadata
from histrio.config.gguf.names import NamedTensor, name_tensors
from histrio.errors import ModelError, ModelUnavailable

__all__ = ["GgufModel", "first_files", "model_name", "part_names", "read_gguf_model", "split_files"]

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_MOST_SMALL_BYTES = 2**20
"""Of tensors that are read here: tables of rotary positions."""


class GgufModel:
    """All headers of a model, and the tensors of all files by the files' names for them."""

    def __init__(self, files: list[Path], headers: list[GgufHeader]) -> None:
        """Raises `ModelError` where the files do not belong together."""
        self.files = files
        self.metadata = Metadata(headers[0].metadata, files[0])
        self.tensors: dict[str, GgufTensor] = {}
        self._headers = headers
        self._file_of: dict[str, Path] = {}
        for file, header in zip(files, headers, strict=True):
            for tensor in header.tensors:
                if tensor.name in self.tensors:
                    raise ModelError(f"{file} and {self._file_of[tensor.name].name} both have {tensor.name[:80]!r}")
                self.tensors[tensor.name] = tensor
                self._file_of[tensor.name] = file

    def named_tensors(self) -> Iterator[NamedTensor]:
        """Under transformers' names. Raises `UnsupportedModel` for a tensor that models of the kind do not have."""
        for index, (file, header) in enumerate(zip(self.files, self._headers, strict=True)):
            yield from name_tensors(self.metadata.architecture, header.tensors, index, file)

    def values(self, name: str) -> npt.NDArray[np.float32] | None:
        """The values of a small tensor, by the file's name for it; None where there is none of the name."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        if tensor.num_bytes > _MOST_SMALL_BYTES or tensor.block_type not in DEQUANTIZED_TYPES:
            raise ModelError(f"{self._file_of[name]}: {name} is not what its name says")
        with map_file(self._file_of[name]) as data:
            content = np.frombuffer(data[tensor.offset : tensor.offset + tensor.num_bytes], np.uint8)
        return dequantize(content, tensor.block_type)


def read_gguf_model(file: Path) -> GgufModel:
    """The model of which `file` is a part. Raises `ModelError` with file and fault, `ModelUnavailable` for a missing
    part."""
    files = split_files(file)
    headers = []
    for each in files:
        with map_file(each) as data:
            headers.append(parse_header(data, len(data), each))
    if len(files) > 1:
        for index, (part, header) in enumerate(zip(files, headers, strict=True)):
            _check_part(part, header, index, len(files))
    return GgufModel(files, headers)


def split_files(file: Path) -> list[Path]:
    """All files of the set that `file` belongs to, in order; the file alone where it is whole.

    Raises `ModelUnavailable` for one that is missing.
    """
    found = _SPLIT.fullmatch(file.name)
    if found is None:
        return [file]

    stem, _, count, end = found.groups()
    files = [file.with_name(f"{stem}-{part:05d}-of-{count}{end}") for part in range(1, int(count) + 1)]
    missing = [each.name for each in files if not each.exists()]
    if missing or not files:
        raise ModelUnavailable(
            f"{file.parent} lacks {len(missing)} of the {int(count)} parts of the model: {', '.join(missing[:3])}"
        )
    return files


def first_files(names: Iterable[str]) -> list[str]:
    """Of names of files those that stand for a model each: whole ones, and the first part of each set."""
    found = []
    for name in sorted(names):
        base = name.rpartition("/")[2]
        split = _SPLIT.fullmatch(base)
        is_first = split is None or int(split[2]) == 1
        if base.lower().endswith(".gguf") and is_first and not base.lower().startswith("mmproj"):
            found.append(name)
    return found


def part_names(first: str, names: Iterable[str]) -> list[str]:
    """Of `names` all parts of the model that `first` begins, in order."""
    found = _SPLIT.fullmatch(first)
    if found is None:
        return [first]
    return sorted(name for name in names if (each := _SPLIT.fullmatch(name)) and each.group(1, 3) == found.group(1, 3))


def model_name(file: Path) -> str:
    """What the file is called, without its ending and without its number in a set."""
    found = _SPLIT.fullmatch(file.name)
    return file.stem if found is None else found[1]


def _check_part(file: Path, header: GgufHeader, index: int, count: int) -> None:
    said = header.metadata.get("split.no"), header.metadata.get("split.count")
    if said != (index, count):
        raise ModelError(f"{file} does not say that it is part {index + 1} of {count} (split.no, split.count)")
