"""Every message has an actor that takes it, and an actor refuses what it does not take."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from histrio.actors import refs
from histrio.actors.refs import KV, Ref, refuse, stage_ref
from histrio.errors import WireError
from histrio.kv.actor import KvActor
from histrio.messages import Close, Message

UNIONS = [getattr(refs, name) for name in refs.__all__ if name.startswith("To")]


def _members(union: Any) -> set[Any]:
    return set(get_args(union)) or {union}


def test_every_message_is_taken_by_some_actor() -> None:
    taken = set().union(*map(_members, UNIONS))
    assert taken == _members(Message)
    assert len(UNIONS) == 10, "control: all of them were found"


def test_a_reference_is_a_plain_string_at_run_time() -> None:
    assert type(KV) is type(stage_ref(3)) is type(Ref[Close]("stage0")) is str
    assert (KV, stage_ref(3)) == ("kv", "stage3")


def test_an_actor_refuses_what_it_does_not_take() -> None:
    told: list[Any] = []
    actor = KvActor(lambda name, message: told.append((name, message)))
    with pytest.raises(WireError, match="kv does not understand Close"):
        actor.receive(Close(0))  # type: ignore[arg-type]
    with pytest.raises(WireError, match="a stage does not understand str"):
        refuse("a stage", "nonsense")  # type: ignore[arg-type]
    assert told == []
