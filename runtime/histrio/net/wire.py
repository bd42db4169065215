"""Messages as frames: `[header, tensor buffers …]`, and back, with one serialisation and one parse per hop.

The header is msgpack of (actor name, message). A `Tensor` inside the message leaves only (frame index, dtype, shape,
name) in the header; its bytes travel as a frame of their own, large ones without a copy. Frames come from other
processes, so whatever is wrong with them ends as `WireError`, and nothing in them is ever executed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from histrio.errors import WireError
from histrio.messages import Message, Tensor

__all__ = ["COPY_BELOW_BYTES", "Frame", "decode", "encode", "frames_bytes"]

Frame: TypeAlias = bytes | memoryview

COPY_BELOW_BYTES = 65536
"""Smaller tensors are copied, as a copy costs less than tracking the buffer; so they may be reused after `encode`."""

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8}
_MOST_DIMENSIONS = 8
_SHOWN_CHARACTERS = 200


def encode(actor: str, message: Message) -> list[Frame]:
    """The frames that tell `actor` this message. Tensors of `COPY_BELOW_BYTES` and more are referenced, not copied.

    Raises `WireError` for a value that the wire cannot carry: a strided or mislabelled tensor, an integer beyond
    64 bits, an object of a foreign type.
    """
    try:
        return _codec().encode(actor, message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"{type(message).__name__} for {actor!r} cannot be sent: {error}") from error


def decode(frames: Sequence[Frame]) -> tuple[str, Message]:
    """The actor's name and the message for it; tensors are views of the frames given.

    Raises `WireError` for anything that `encode` would not have written.
    """
    try:
        return _codec().decode(frames)
    except (ValueError, RecursionError) as error:
        raise WireError(f"malformed message: {str(error)[:_SHOWN_CHARACTERS]}") from error


def frames_bytes(frames: Sequence[Frame]) -> int:
    """Length of all frames together."""
    return sum(map(len, frames))


class _Codec:
    """A reused encoder and decoder; one per thread, since the hooks share the frames of the call that runs."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._take_out)
        self._decoder: msgspec.msgpack.Decoder[tuple[str, Message]] = msgspec.msgpack.Decoder(
            tuple[str, Message], dec_hook=self._put_back
        )
        self._frames: list[Frame] = []
        self._num_used = 0

    def encode(self, actor: str, message: Message) -> list[Frame]:
        frames = self._frames = [b""]
        frames[0] = self._encoder.encode((actor, message))
        return frames

    def decode(self, frames: Sequence[Frame]) -> tuple[str, Message]:
        if not frames:
            raise ValueError("it has no header")

        self._frames, self._num_used = list(frames), 1
        try:
            addressed = self._decoder.decode(frames[0])
        finally:
            self._frames = []

        if self._num_used != len(frames):
            raise ValueError(f"its header tells of {self._num_used - 1} tensors, but {len(frames) - 1} came")

        return addressed

    def _take_out(self, value: Any) -> tuple[int, str, tuple[int, ...], str]:
        if not isinstance(value, Tensor):
            raise TypeError(f"a {type(value).__name__} cannot be sent over the wire")

        view = memoryview(value.data)
        if not view.c_contiguous:
            raise ValueError(f"{value!r} is not row-major and dense")

        _check_length(view.nbytes, value.dtype, value.shape)
        small = view.nbytes < COPY_BELOW_BYTES
        self._frames.append(view.tobytes() if small else view.cast("B"))
        return len(self._frames) - 1, value.dtype, value.shape, value.name

    def _put_back(self, kind: type, value: Any) -> Tensor:
        # Only tensors have no msgpack form of their own, and they appear in the header in the order of their frames.
        match value:
            case [int() as index, str() as dtype, [*sizes], str() as name] if (
                index == self._num_used < len(self._frames)
            ):
                shape = _checked_shape(sizes)
            case _:
                raise ValueError(f"no frame for {kind.__name__} {self._num_used}")

        data = memoryview(self._frames[index])
        _check_length(data.nbytes, dtype, shape)
        self._num_used += 1
        return Tensor(dtype, shape, data, name)


def _checked_shape(sizes: list[Any]) -> tuple[int, ...]:
    if len(sizes) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a tensor's shape is not a short list of sizes")

    return tuple(sizes)


def _check_length(num_bytes: int, dtype: str, shape: Sequence[int]) -> None:
    item_bytes = _ITEM_BYTES.get(dtype)
    if item_bytes is None:
        raise ValueError(f"unknown dtype {dtype[:_SHOWN_CHARACTERS]!r}; known: {', '.join(_ITEM_BYTES)}")

    if num_bytes != math.prod(shape) * item_bytes:
        raise ValueError(f"a {dtype} tensor {tuple(shape)} does not have {num_bytes} bytes")


_threads = threading.local()


def _codec() -> _Codec:
    try:
        codec: _Codec = _threads.codec
    except AttributeError:
        codec = _threads.codec = _Codec()
    return codec
