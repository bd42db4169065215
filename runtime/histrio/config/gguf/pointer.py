"""The link from a model folder to GGUF files: `gguf.json`, which has every tensor under transformers' name for it.

A folder that has it holds no weights itself. What it says is checked against the files, so a file that was changed
since, or is gone, is named.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.config.gguf.block_types import BLOCK_TYPES
from histrio.config.gguf.header import map_file
from histrio.config.gguf.names import NamedTensor
from histrio.config.model_files import read_model_text
from histrio.errors import ModelError, ModelUnavailable

__all__ = ["POINTER", "GgufPointer", "GgufWeights", "PointedFile", "file_state", "is_gguf_folder", "read_pointer"]

POINTER = "gguf.json"
"""Name of the file in a folder."""


class PointedFile(msgspec.Struct, frozen=True):
    """A GGUF file, as it was when the folder was made."""

    path: str
    size: int
    mtime_ns: int


class GgufPointer(msgspec.Struct, frozen=True):
    """What `gguf.json` holds."""

    files: list[PointedFile]
    tensors: list[NamedTensor]

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [Path(file.path) for file in self.files]


def is_gguf_folder(folder: Path) -> bool:
    """Whether the folder's weights are in GGUF files."""
    return (folder / POINTER).is_file()


def file_state(file: Path) -> PointedFile:
    """The file as it is now. Raises `ModelUnavailable`."""
    try:
        state = file.stat()
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror}") from None
    return PointedFile(str(file), state.st_size, state.st_mtime_ns)


def read_pointer(folder: Path) -> GgufPointer:
    """The folder's GGUF files and tensors. Raises `ModelError` for files that are not as they were, by name."""
    file = folder / POINTER
    try:
        pointer = msgspec.json.decode(read_model_text(file), type=GgufPointer)
    except msgspec.MsgspecError as error:
        raise ModelError(f"{file} is not a link to GGUF files: {error}") from None

    for pointed in pointer.files:
        if file_state(Path(pointed.path)) != pointed:
            raise ModelError(f"{pointed.path} was changed since {folder} was made of it; start again from the file")
    for tensor in pointer.tensors:
        if not _lies_in(tensor, pointer.files):
            raise ModelError(f"{file} says of {tensor.name[:80]!r} what cannot be; remove {folder}")
    return pointer


class GgufWeights:
    """The tensors of a model folder by transformers' names, and their bytes, mapped; nothing is copied.

    Use it in a `with`, and no array of it after that.
    """

    def __init__(self, folder: Path) -> None:
        """Raises as `read_pointer`."""
        pointer = read_pointer(folder)
        self.tensors = {tensor.name: tensor for tensor in pointer.tensors}
        """Name → format, shape, and how the values stand."""
        self._maps: list[mmap.mmap] = [map_file(path) for path in pointer.paths]

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of one tensor, read-only. Raises `KeyError` for a name that is not in `tensors`."""
        tensor = self.tensors[name]
        return np.frombuffer(self._maps[tensor.file_index], np.uint8, tensor.num_bytes, tensor.offset)

    def close(self) -> None:
        """Unmap what no array uses any more."""
        for each in self._maps:
            try:
                each.close()
            except BufferError:  # an array of it lives; the memory goes with it
                continue

    def __enter__(self) -> GgufWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lies_in(tensor: NamedTensor, files: list[PointedFile]) -> bool:
    block_type = BLOCK_TYPES.get(tensor.block_type)
    if block_type is None or not tensor.shape or min(tensor.shape) < 1 or not 0 <= tensor.file_index < len(files):
        return False
    num_bytes = block_type.num_bytes(math.prod(tensor.shape))
    return num_bytes == tensor.num_bytes and 0 <= tensor.offset <= files[tensor.file_index].size - num_bytes
