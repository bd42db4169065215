"""What an engine backend answers before it generates: probes, capacity, refusals."""

from __future__ import annotations

import msgspec
import pytest

from histrio.contracts.backend import OLDEST_CONTRACT, Capability
from histrio.contracts.engine_backend import ENGINE_CONTRACT
from histrio.errors import BackendError
from histrio.testing.conformance.engine_driver import EngineDriver, EngineSubject
from histrio.testing.conformance.engine_fields import FIELDS, check_honoured, is_honoured

_NO_SUCH_OPTION = "no-such-option"


def test_engine_probe_and_traits_are_well_formed(engine: EngineSubject) -> None:
    probe, traits = engine.factory.probe(), engine.factory.traits

    assert OLDEST_CONTRACT <= traits.contract <= ENGINE_CONTRACT
    assert traits.level == "engine"
    of_traits = {Capability.ADAPTERS, Capability.INT8_KV, Capability.OWN_PROCESS}
    assert set(traits.capabilities) <= of_traits, "the others are of an opened one"
    assert probe.devices, "a probe that is available names its devices"
    assert msgspec.json.decode(msgspec.json.encode(probe), type=type(probe)) == probe


def test_fields_have_defaults_that_the_engine_can_continue_or_not(engine: EngineSubject) -> None:
    fields = msgspec.structs.fields(engine.factory.fields)

    assert not [each.name for each in fields if each.required], "a field that is absent must have a meaning"
    assert isinstance(engine.factory.can_continue(engine.greedy), bool)


def test_a_part_of_the_model_is_refused(engine: EngineSubject) -> None:
    count = engine.model.num_layers
    for first, last in [(0, count - 1), (1, count), (1, 1)]:
        answer = engine.kit.supports(engine.spec(first_layer=first, last_layer=last))
        assert not answer.available, f"layers {first}:{last} of {count} are not the whole model"
        assert answer.reason

    assert engine.kit.supports(engine.spec()).available


def test_the_engine_refuses_an_unknown_option_by_name(engine: EngineSubject) -> None:
    options = {**engine.kit.options, _NO_SUCH_OPTION: 1}
    answer = engine.kit.supports(engine.spec(options=options))
    if not answer.available:
        assert _NO_SUCH_OPTION in answer.reason
        return

    engine.close()
    with pytest.raises(BackendError, match=_NO_SUCH_OPTION):
        EngineDriver(engine.factory, engine.model, options).close()


def test_engine_capacity_is_sane(engine: EngineSubject) -> None:
    capacity = engine.driver.capacity

    assert capacity.max_requests >= 1
    assert 1 <= capacity.max_sequence_length <= engine.spec().max_sequence_length
    assert capacity.num_cache_tokens >= 1
    assert capacity.dtype
    assert set(capacity.capabilities) <= set(map(str, Capability))
    assert engine.driver.fractions == sorted(engine.driver.fractions)
    assert all(0 <= fraction <= 1 for fraction in engine.driver.fractions)


def test_logprobs_are_declared_where_they_can_be_asked_for(engine: EngineSubject) -> None:
    foretold = engine.kit.supports(engine.spec()).capabilities

    assert (Capability.LOGPROBS in engine.capabilities) == ("logprobs" in engine.fields)
    assert set(foretold) <= set(engine.capabilities)


@pytest.mark.parametrize("field", FIELDS)
def test_a_request_field_is_honoured_or_refused(engine: EngineSubject, field: str) -> None:
    if is_honoured(engine.factory, field):
        check_honoured(engine, field)
