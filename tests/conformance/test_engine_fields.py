"""The kit asks for every flag of `Honours`, by a request that is refused for this flag alone."""

from __future__ import annotations

import msgspec
import pytest

from histrio.contracts.honours import Honours, require_honoured
from histrio.errors import RequestError
from histrio.testing.conformance.engine_fields import _CHECKS, FIELDS

OF_STAGES_ONLY = {"pooling"}
"""No engine can honour it, because an engine's answers have no place for a vector."""
NEEDED = {"top_logprobs": ["logprobs"], "vocabulary_logprobs": ["logprobs", "top_logprobs"]}
"""Flags that another one goes with."""


class MoreHonours(Honours, frozen=True, kw_only=True):
    """As if a flag had been added, and the kit forgotten."""

    adapters: bool = False


def honouring(*flags: str) -> Honours:
    return msgspec.convert(dict.fromkeys(flags, True), Honours)


def unasked_flags(honours: type[Honours]) -> set[str]:
    """Flags that the kit does not ask for; what else a backend says in `honours` is no flag."""
    flags = {field.name for field in msgspec.structs.fields(honours) if field.type is bool}
    return flags ^ {*FIELDS, *OF_STAGES_ONLY}


def test_the_kit_asks_for_every_flag_and_checks_it() -> None:
    assert unasked_flags(Honours) == set()
    assert set(_CHECKS) == set(FIELDS)
    assert unasked_flags(MoreHonours) == {"adapters"}, "a control: a flag of which the kit knows nothing"


@pytest.mark.parametrize("field", FIELDS)
def test_the_request_of_a_flag_is_taken_with_it_and_refused_without_it(field: str) -> None:
    needed = NEEDED.get(field, [])
    require_honoured(FIELDS[field], honouring(*needed, field), "this engine")
    with pytest.raises(RequestError, match="this engine"):
        require_honoured(FIELDS[field], honouring(*needed), "this engine")
