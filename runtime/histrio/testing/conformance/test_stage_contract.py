"""What a stage backend answers before it computes: probes, capacities, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.backend import CONTRACT, OLDEST_CONTRACT, Capability, StageSpec
from histrio.errors import BackendError, ModelError
from histrio.messages import StageCapacity
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.replay import replay
from histrio.testing.conformance.subject import StageSubject

_OF_TRAITS = {Capability.ADAPTERS, Capability.INT8_KV, Capability.OWN_PROCESS, Capability.ONE_STAGE_PER_PROCESS}
_OF_ENGINES = {Capability.LOGPROBS}
_OF_STAGES = set(Capability) - _OF_TRAITS - _OF_ENGINES
_ABSURD_BLOCKS = 2**44
_NO_SUCH_OPTION = "no-such-option"


def opened(subject: StageSubject, spec: StageSpec) -> StageCapacity:
    """What opening one stage answers; the stage is closed again."""
    host = subject.host(spec)
    try:
        return host.open()
    finally:
        host.close()


def test_probe_and_traits_are_well_formed(subject: StageSubject) -> None:
    probe, traits = subject.factory.probe(), subject.factory.traits

    assert OLDEST_CONTRACT <= traits.contract <= CONTRACT
    assert traits.level == "stage"
    assert set(traits.capabilities) <= _OF_TRAITS, "the others are of an opened stage"
    assert probe.devices, "a probe that is available names its devices"
    assert msgspec.json.decode(msgspec.json.encode(probe), type=type(probe)) == probe


def test_supports_foretells_no_more_than_the_opened_stage_has(subject: StageSubject) -> None:
    foretold, capacity = subject.kit.supports(subject.spec()), subject.reference.capacities[0]

    assert set(foretold.capabilities) <= _OF_STAGES
    assert set(foretold.capabilities) <= set(subject.capabilities)
    assert foretold.dtype in ("", capacity.dtype)
    assert foretold.weight_bytes in (None, capacity.param_bytes)


def test_wrong_layer_ranges_are_refused(subject: StageSubject) -> None:
    count = subject.model.num_layers
    for first, last, num_layers in [(1, 1, count), (2, 1, count), (-1, 1, count), (0, count + 1, count + 1)]:
        spec = subject.spec(first_layer=first, last_layer=last, num_layers=num_layers)
        answer = subject.kit.supports(spec)
        assert not answer.available, f"layers {first}:{last} of {count} are no range"
        assert answer.reason

    assert subject.kit.supports(subject.spec()).available


def test_a_foreign_architecture_is_refused_with_the_reason(subject: StageSubject, tmp_path: Path) -> None:
    config = json.loads((subject.model.folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "no-such-type", "architectures": ["NoSuchForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    answer = subject.kit.supports(subject.spec(model=str(tmp_path)))

    assert not answer.available
    assert answer.reason


def test_an_unknown_option_is_refused_by_name(subject: StageSubject) -> None:
    spec = subject.spec(options={**subject.kit.options, _NO_SUCH_OPTION: 1})
    answer = subject.kit.supports(spec)
    if not answer.available:
        assert _NO_SUCH_OPTION in answer.reason
        return

    with pytest.raises(BackendError, match=_NO_SUCH_OPTION):
        opened(subject, spec)


def test_capacity_is_sane(subject: StageSubject) -> None:
    capacity = subject.reference.capacities[0]

    assert capacity.max_blocks
    assert all(size > 0 and count > 0 for size, count in capacity.max_blocks.items())
    assert 1 <= capacity.max_slots <= subject.options.max_batch_size
    assert capacity.max_step_tokens >= 1
    assert capacity.block_bytes_per_token >= 0
    assert capacity.param_bytes >= 0
    assert min(capacity.first_block_id, capacity.first_slot) >= 0
    assert capacity.dtype
    assert set(capacity.capabilities) <= set(map(str, _OF_STAGES))


def test_progress_goes_from_nothing_to_one(subject: StageSubject) -> None:
    host = subject.host(subject.spec())
    try:
        host.open()
        told = host.progress()
    finally:
        host.close()

    assert told == sorted(told)
    assert all(0 <= fraction <= 1 for fraction in told)
    assert told[-1] == 1.0


def test_more_blocks_than_memory_holds_are_refused(subject: StageSubject) -> None:
    if subject.reference.capacities[0].block_bytes_per_token == 0:
        pytest.skip("a state of constant size takes no blocks")
    plain = subject.spec()
    most = max(subject.reference.capacities[0].max_blocks.values())

    assert most_blocks(subject, plain) == most
    assert (
        most_blocks(subject, msgspec.structs.replace(plain, sizes=SizeSettings(num_cache_blocks=_ABSURD_BLOCKS)))
        < _ABSURD_BLOCKS
    )
    assert most_blocks(subject, msgspec.structs.replace(plain, block_mem_ratio=1e-12)) < most


def test_weights_beyond_their_share_of_memory_are_refused(subject: StageSubject) -> None:
    if subject.reference.capacities[0].param_bytes == 0:
        pytest.skip("a model without weights fits anywhere")
    with pytest.raises((ModelError, BackendError)) as refused:
        opened(subject, subject.spec(memory=MemorySettings(param_mem_ratio=1e-12)))

    assert str(refused.value)
    assert opened(subject, subject.spec()).param_bytes > 0


def most_blocks(subject: StageSubject, spec: StageSpec) -> int:
    """Blocks of the smallest size that fit, 0 if opening is refused with the reason."""
    try:
        return max(opened(subject, spec).max_blocks.values())
    except (ModelError, BackendError):
        return 0


def test_every_block_size_on_offer_works(subject: StageSubject) -> None:
    trace = subject.trace(2 * subject.block_size + 3)
    chain = subject.chain()
    usual = chain.size
    for block_size in sorted(set.intersection(*(set(capacity.max_blocks) for capacity in chain.capacities))):
        num_blocks = -(-len(trace.ids) // block_size) + 1
        chain.restart(msgspec.structs.replace(usual, block_size=block_size, num_blocks=num_blocks))
        assert_same(replay(chain, trace), trace.logits, f"blocks of {block_size} tokens")
    chain.restart(usual)
    assert_differs(replay(chain, subject.trace(5)), trace.logits, "another prompt")


def test_closing_twice_is_safe(subject: StageSubject) -> None:
    chain = subject.open(())
    assert chain.greedy([5, 6, 7], 1) == chain.greedy([5, 6, 7], 1)
    chain.close()
    chain.close()
