"""What the front knows of SGLang's and vLLM's engines, in an environment that has neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histrio.contracts.backend import StageSpec
from histrio.contracts.engine_backend import EngineFactory
from histrio.testing.conformance.engine_fields import FIELDS, is_honoured
from histrio.testing.models import write_model
from histrio.testing.toy_engine import ToyEngineFactory
from histrio_sglang.engine_factory import SglangEngineFactory
from histrio_vllm.factory import VllmEngineFactory

FACTORIES: list[EngineFactory] = [SglangEngineFactory(), VllmEngineFactory()]


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.name)
def factory(request: pytest.FixtureRequest) -> EngineFactory:
    found: EngineFactory = request.param
    return found


def spec(folder: Path, **changes: Any) -> StageSpec:
    return msgspec.structs.replace(StageSpec(str(folder), 0, 3, 3), **changes)


def test_importing_a_factory_imports_no_engine_and_no_torch() -> None:
    code = (
        "import sys, histrio_sglang.engine_factory, histrio_vllm.factory;"
        "print({'torch', 'sglang', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("sampling", "can"),
    [
        ({"temperature": 0.0}, True),
        ({"temperature": 0.0, "logit_bias": {"3": 5.0}, "logprobs": True}, True),
        ({}, False),
        ({"temperature": 0.5}, False),
        ({"temperature": 0.0, "presence_penalty": 0.1}, False),
        ({"temperature": 0.0, "frequency_penalty": -0.1}, False),
    ],
)
def test_only_greedy_requests_without_penalties_of_the_answer_go_on(
    factory: EngineFactory, sampling: dict[str, Any], can: bool
) -> None:
    assert factory.can_continue(sampling) is can


def test_neither_seeds_nor_minimal_lengths_are_promised(factory: EngineFactory) -> None:
    fields = {field.name for field in msgspec.structs.fields(factory.fields)}
    assert not fields & {"seed", "min_tokens"}
    assert ("repetition_penalty" in fields) == (factory.name == "vllm"), "SGLang's does not count the prompt"


@pytest.mark.parametrize(
    "sampling", [{"temperature": 2.5}, {"top_p": 0.0}, {"min_p": 2}, {"logit_bias": {"x": 1.0}}, {"top_k": -2}]
)
def test_bounds_are_part_of_the_fields(factory: EngineFactory, sampling: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(sampling, factory.fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": {"speed": 3}}, "options.speed: unknown key. Known keys: "),
        ({"options": {"tp-size": 0}}, "tp-size"),
        ({"last_layer": 2}, "runs all 3 layers of a model, not 0:2"),
        ({"adapter": "x"}, "applies no adapters"),
    ],
)
def test_what_vllm_cannot_do_is_refused_with_the_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    folder = write_model("llama", tmp_path / "llama")
    factory = VllmEngineFactory()
    assert reason in factory.supports(spec(folder, **change)).reason
    assert factory.supports(spec(folder)).available, "a control: the same without the change"


def test_an_unknown_option_of_sglangs_engine_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path / "llama")
    reason = SglangEngineFactory().supports(spec(folder, options={"atention-backend": "fa3"})).reason
    assert "atention-backend" in reason
    assert "attention-backend" in reason, "the known ones are listed"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("each", [*FACTORIES, ToyEngineFactory()], ids=lambda each: each.name)
def test_a_request_field_is_honoured_or_refused_by_name(each: EngineFactory, field: str) -> None:
    assert is_honoured(each, field) == (field in ("cache_salt", "logprobs"))
