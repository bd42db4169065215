from __future__ import annotations

import math
import threading
import types
import typing
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histrio import messages
from histrio.errors import WireError
from histrio.messages import Ask, Close, Granted, Message, Open, Step, StepResult, Stop, Tensor
from histrio.net.wire import COPY_BELOW_BYTES, Frame, decode, encode, frames_bytes

KINDS = typing.get_args(Message)
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8}
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
INTS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    num_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    data = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
    return Tensor(dtype, shape, data, draw(st.text(max_size=5)))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, for whatever types messages have."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Tensor:
        return tensors()
    if kind is typing.Any:
        return st.none() | st.booleans() | INTS | st.floats(allow_nan=False) | st.text(max_size=5) | st.lists(INTS)
    if kind is int:
        return INTS
    if kind is float:
        return st.floats(allow_nan=False)
    if kind in (str, bool, bytes):
        return st.from_type(kind)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (list, Sequence):
        return st.lists(values(arguments[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=4)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([st.none() if part is type(None) else values(part) for part in arguments])
    if issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{name: values(part) for name, part in typing.get_type_hints(kind).items()})
    return st.sampled_from(kind)


def plain(message: Message) -> tuple[type[Message], Any]:
    """Something that `==` compares, tensors with their bytes."""
    fields = msgspec.to_builtins(message, enc_hook=lambda t: (t.dtype, tuple(t.shape), bytes(t.data), t.name))
    return type(message), fields


def decoded_or_refused(frames: list[Frame]) -> None:
    try:
        actor, message = decode(frames)
    except WireError:
        return
    assert isinstance(actor, str)
    assert isinstance(message, KINDS)


def decoded_step(frames: list[Frame]) -> Step:
    _, message = decode(frames)
    assert isinstance(message, Step)
    return message


any_message = st.one_of([values(kind) for kind in KINDS])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_survives_the_wire(kind: type[Message]) -> None:
    @settings(many, max_examples=30)
    @given(st.text(max_size=10), values(kind))
    def check(actor: str, message: Message) -> None:
        back = decode(encode(actor, message))
        assert back[0] == actor
        assert plain(back[1]) == plain(message)

    check()


def test_comparison_of_messages_can_fail() -> None:
    tensor = Tensor("int32", (1,), b"1234")
    step, other = (Step(1, 1, [], [], [t]) for t in (tensor, Tensor("int32", (1,), b"1235")))
    assert plain(decode(encode("a", step))[1]) != plain(other)
    assert plain(decode(encode("a", Close(slot=1)))[1]) != plain(Close(slot=2))


def test_every_public_message_is_in_the_union() -> None:
    structs = {getattr(messages, name) for name in messages.__all__ if isinstance(getattr(messages, name), type)}
    told = {kind for kind in structs if issubclass(kind, messages._Message)}
    assert told == set(KINDS)


@many
@given(any_message, st.data())
def test_truncated_header_is_refused(message: Message, data: st.DataObject) -> None:
    frames = encode("actor", message)
    frames[0] = frames[0][: data.draw(st.integers(0, len(frames[0]) - 1))]
    with pytest.raises(WireError):
        decode(frames)


@many
@given(any_message, st.data())
def test_changed_bytes_are_decoded_or_refused(message: Message, data: st.DataObject) -> None:
    frames = encode("actor", message)
    header = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    decoded_or_refused([bytes(header), *frames[1:]])


@many
@given(st.lists(st.binary(max_size=200), max_size=3))
def test_noise_is_decoded_or_refused(frames: list[Frame]) -> None:
    decoded_or_refused(frames)


@many
@given(
    st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=20), st.sampled_from(KINDS)
)
def test_well_formed_but_foreign_headers_are_decoded_or_refused(value: object, kind: type[Message]) -> None:
    try:
        body = msgspec.msgpack.encode(("actor", [kind.__name__, value, value]))
    except OverflowError:
        return
    decoded_or_refused([body])


def test_every_way_to_miscount_frames_is_refused() -> None:
    step = Step(1, 1, [], [], [Tensor("int32", (2,), b"12345678"), Tensor("int64", (1,), b"abcdefgh")])
    header, one, other = encode("stage1", step)
    assert plain(decode([header, one, other])[1]) == plain(step)
    for frames in ([], [header], [header, one], [header, one, other, b""], [header, one[:-1], other], [one, other]):
        with pytest.raises(WireError):
            decode(frames)


@pytest.mark.parametrize(
    "tensor",
    [
        [0, "int32", [2], ""],
        [2, "int32", [2], ""],
        [-1, "int32", [2], ""],
        ["1", "int32", [2], ""],
        [1, "int33", [2], ""],
        [1, "x" * 10_000, [2], ""],
        [1, 32, [2], ""],
        [1, "int32", 2, ""],
        [1, "int32", [3], ""],
        [1, "int32", [-1, -2], ""],
        [1, "int32", [2.0], ""],
        [1, "int32", [True, 2], ""],
        [1, "int32", [2] + [1] * 100_000, ""],
        [1, "int32", [2**63, 2**63], ""],
        [1, "int32", [2]],
        [1, "int32", [2], 0],
        [1, "int32", [2], "", 0],
        {},
        None,
    ],
)
def test_false_description_of_a_tensor_is_refused(tensor: object) -> None:
    def header(description: object) -> bytes:
        return msgspec.msgpack.encode(("stage1", ["Step", 1, 1, [], [], [description]]))

    assert decoded_step([header([1, "int32", [2], "part"]), b"12345678"]).hidden[0].shape == (2,)
    with pytest.raises(WireError) as refusal:
        decode([header(tensor), b"12345678"])
    assert len(str(refusal.value)) < 500


def test_one_frame_is_not_two_tensors() -> None:
    description = [1, "int32", [2], ""]
    header = msgspec.msgpack.encode(("stage1", ["Step", 1, 1, [], [], [description, description]]))
    with pytest.raises(WireError):
        decode([header, b"12345678"])


@pytest.mark.parametrize(
    "header",
    [
        b"\x92\xa1a\x92\xa7Granted\xdd\xff\xff\xff\xff",
        b"\x92\xa1a\x92\xa7Granted\xc6\xff\xff\xff\xff",
        b"\x92\xa1a\x97\xa4Open\x00\x90\x00\x00\x00\x81\xa1a" + b"\x91" * 1_000_000,
        b"\x92\xa1a\x97\xa4Open\x00\x90\x00\x00\x00\xdf\xff\xff\xff\xff",
        b"\x92\xa1\xff\x91\xa4Stop",
        b"\x92\xa1a\x91\xa6Absent",
        b"\x92\xa1a\x91\xa4Stop\x00",
        b"\x93\xa1a\x91\xa4Stop\x00",
    ],
    ids=["huge list", "huge bytes", "deep nesting", "huge map", "not text", "unknown", "trailing", "too many"],
)
def test_hostile_header_is_refused(header: bytes) -> None:
    assert decode([b"\x92\xa1a\x91\xa4Stop"]) == ("a", Stop())
    with pytest.raises(WireError, match="malformed message"):
        decode([header])


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (Tensor("int32", (3,), b"12345678"), "does not have 8 bytes"),
        (Tensor("uint4", (3,), b"123"), "unknown dtype"),
        (Tensor("float32", (4, 4), np.ones((4, 4), np.float32).T[:, :2]), "not row-major"),
        (Tensor("float32", (2,), [1.0, 2.0]), "bytes-like"),
    ],
)
def test_tensor_that_is_not_what_it_says_is_not_sent(tensor: Tensor, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        encode("stage1", Step(1, 1, [], [], [tensor]))


@pytest.mark.parametrize("value", [object(), 2**64, np.float32(1), {1: object()}])
def test_foreign_values_are_not_sent(value: object) -> None:
    with pytest.raises(WireError, match="Open for 'stage1' cannot be sent"):
        encode("stage1", Open(0, [], 0, Ask({"temperature": value})))


def test_seeds_use_all_64_bits() -> None:
    _, command = decode(encode("stage1", Open(0, [], 0, seed=2**64 - 1)))
    assert isinstance(command, Open)
    assert command.seed == 2**64 - 1


def test_large_tensors_are_referenced_and_small_ones_copied() -> None:
    large, small = np.zeros(COPY_BELOW_BYTES // 4, np.float32), np.zeros(COPY_BELOW_BYTES // 4 - 1, np.float32)
    step = Step(1, 1, [], [], [Tensor("float32", array.shape, array) for array in (large, small)])
    frames = encode("stage1", step)
    large[0] = small[0] = 1
    restored = [np.frombuffer(tensor.data, np.float32) for tensor in decoded_step(frames).hidden]
    assert [array[0] for array in restored] == [1, 0]
    assert np.shares_memory(restored[0], large)
    assert frames_bytes(frames) == len(frames[0]) + large.nbytes + small.nbytes


def test_decode_row_takes_about_ten_bytes() -> None:
    rows = [messages.Row(slot, 1000 + slot, 1, 1) for slot in range(100)]
    empty, full = (frames_bytes(encode("stage0", Step(70_000, 3, part, []))) for part in ([], rows))
    assert (full - empty) / 100 <= 12


def test_threads_do_not_mix_their_frames() -> None:
    failures: list[int] = []

    def check(first: int) -> None:
        for value in range(first, first + 500):
            data = np.full(3, value, np.int64)
            step = decoded_step(encode("a", Step(value, 1, [], [], [Tensor("int64", (3,), data)])))
            if step.step != value or bytes(step.hidden[0].data) != data.tobytes():
                failures.append(value)

    threads = [threading.Thread(target=check, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_failed_encode_leaves_nothing_behind() -> None:
    with pytest.raises(WireError):
        encode("a", Step(1, 1, [], [], [Tensor("int32", (1,), b"1234"), Tensor("int32", (9,), b"1234")]))
    assert len(encode("a", StepResult(1, 1, []))) == 1
    assert decode(encode("a", Stop())) == ("a", Stop())
    assert decode(encode("kv", Granted([1, 2]))) == ("kv", Granted([1, 2]))
