"""An engine backend in a topology: what the plan takes from it, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histrio.config.settings import SizeSettings
from histrio.config.topology import TABLES, parse_tables
from histrio.contracts.backend import Capability, Traits
from histrio.errors import RequestError, TopologyError
from histrio.plan import support
from histrio.plan.plans import Plan
from histrio.plan.resolve import field_table, resolve
from histrio.plugins.registry import Plugins
from histrio.processes.processes import device_processes

WriteModel = Callable[..., Path]
ENGINE = {"backend": "paper-engine"}


def plan_for(folder: Path, plugins: Plugins, *, is_check: bool = False, **tables: Any) -> Plan:
    model = {"path": str(folder)} | tables.pop("model", {})
    return resolve(parse_tables({"model": model, "stage": [ENGINE], **tables}), plugins, is_check=is_check)


def interpreter(folder: Path, level: str) -> str:
    """An executable that stands in for an environment with a backend of this level, and counts what it is asked."""
    file = folder / "python"
    answer = f'{{"traits": {{"contract": 1, "level": "{level}"}}}}'
    file.write_text(f"#!/bin/sh\necho x >> {folder}/asked\necho '{answer}'\n")
    file.chmod(0o755)
    return str(file)


def test_an_engine_is_the_only_actor_of_its_process(write_model: WriteModel, plugins: Plugins) -> None:
    folder = write_model()
    plan = plan_for(folder, plugins)
    (process,) = device_processes(plan)
    assert (plan.num_stages, plan.processes, plan.model.engine) == (0, ["front", "engine"], "paper-engine")
    assert (process.actors, process.can_mend) == (["batching"], False)
    (other,) = device_processes(plan_for(folder, plugins, stage=[{}]))
    assert other.actors == ["stage0", "kv", "batching"]
    assert other.can_mend


def test_its_own_fields_are_honoured_and_no_samplers(
    write_model: WriteModel, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(generation={"temperature": 0.6, "top_k": 5})
    with caplog.at_level(logging.WARNING):
        model = plan_for(folder, plugins).model
    assert model.sampling_fields == ["seed", "temperature"]
    assert model.default_sampling == {"temperature": 0.6}
    assert "top_k" in caplog.text
    assert "the backend 'paper-engine' does not honour" in caplog.text
    assert plan_for(folder, plugins, stage=[{}]).model.default_sampling == {"temperature": 0.6, "top_k": 5}


def test_a_field_it_does_not_honour_is_refused_by_name_of_the_backend(plugins: Plugins) -> None:
    table = field_table(plugins, "paper-engine")
    table.check({"temperature": 1, "seed": 7})
    with pytest.raises(RequestError, match="the backend 'paper-engine' does not honour this field") as caught:
        table.check({"top_k": 5})
    assert (caught.value.param, caught.value.status) == ("top_k", 400)
    with pytest.raises(RequestError, match="temperature must be a number at least 0 and at most 1"):
        table.check({"temperature": 1.5})
    field_table(plugins, "").check({"top_k": 5})


def test_blocks_asked_for_are_tokens_to_an_engine(write_model: WriteModel, plugins: Plugins) -> None:
    limits = {"num-cache-blocks": 10, "kv-block-size": 32}
    folder = write_model()
    sizes = plan_for(folder, plugins, engine=limits).stages[0].spec.sizes
    assert (sizes.num_cache_blocks, sizes.num_cache_tokens) == (10, 320)
    assert SizeSettings(num_cache_blocks=10).num_cache_tokens == 160, "a control: blocks of 16 tokens"
    assert SizeSettings(kv_block_size=32).num_cache_tokens is None


@pytest.mark.parametrize(
    ("tables", "path", "text"),
    [
        ({"stage": [ENGINE, ENGINE]}, "stage[0].backend", "must be the only stage"),
        ({"stage": [{}, ENGINE]}, "stage[1].backend", "must be the only stage"),
        ({"runtime": {"processes": "one"}}, "stage[0].backend", "needs a process of its own"),
        ({"stage": [{**ENGINE, "process": "engine"}]}, "stage[0].process", "needs a process of its own"),
        ({"stage": [{**ENGINE, "layers": "0:3"}]}, "stage[0].layers", "the model has 6"),
        ({"engine": {"chunked-prefill-size": 64}}, "engine.chunked-prefill-size", "cuts prompts by itself"),
        ({"engine": {"step-budget-ms": 5}}, "engine.step-budget-ms", "cuts prompts by itself"),
        ({"engine": {"micro-batch-ratio": 2}}, "engine.micro-batch-ratio", "plans its steps by itself"),
        ({"engine": {"prefill-priority": 1}}, "engine.prefill-priority", "plans its steps by itself"),
        ({"engine": {"scheduler-wait-ms": 5}}, "engine.scheduler-wait-ms", "plans its steps by itself"),
        ({"engine": {"enable-preemption": False}}, "engine.enable-preemption", "plans its steps by itself"),
        ({"engine": {"preemption-threshold": 0.5}}, "engine.preemption-threshold", "plans its steps by itself"),
        ({"engine": {"batching-policy": "fifo"}}, "engine.batching-policy", "plans its steps by itself"),
        (
            {"engine": {"batching-policy-options": {"places-per-priority": 2}}},
            "engine.batching-policy-options",
            "plans its steps by itself",
        ),
        (
            {"engine": {"admission-policy": "tokens", "admission-policy-options": {"time": 2}}},
            "engine.admission-policy-options.time",
            "did you mean 'times'?",
        ),
        ({"engine": {"prefix-cache": False}}, "engine.prefix-cache", "keeps its cache by itself"),
        ({"engine": {"drafter": "ngram"}}, "engine.drafter", "drafts tokens by itself"),
        ({"engine": {"drafter-options": {"a": 1}}}, "engine.drafter-options", "drafts tokens by itself"),
        ({"engine": {"speculation-length": 5}}, "engine.speculation-length", "drafts tokens by itself"),
        ({"engine": {"min-speculation": 1}}, "engine.min-speculation", "drafts tokens by itself"),
        ({"engine": {"max-speculation": 9}}, "engine.max-speculation", "drafts tokens by itself"),
        ({"engine": {"adaptive": False}}, "engine.adaptive", "drafts tokens by itself"),
        ({"engine": {"admission-policy": "token"}}, "engine.admission-policy", "did you mean 'tokens'?"),
        ({"engine": {"kv-cache-dtype": "int8"}}, "engine.kv-cache-dtype", "keeps keys and values as they are"),
        ({"model": {"adapter": "."}}, "model.adapter", "'paper-engine' of stage[0] applies no adapters"),
    ],
)
def test_what_cannot_be_with_an_engine_is_refused_with_its_place(
    tables: dict[str, Any], path: str, text: str, write_model: WriteModel, plugins: Plugins
) -> None:
    with pytest.raises(TopologyError) as caught:
        plan_for(write_model(), plugins, **tables)
    assert caught.value.path == path
    assert text in str(caught.value)


def test_an_adapter_reaches_every_stage_whose_backend_applies_it(
    write_model: WriteModel, plugins: Plugins, factory: Any, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tables: dict[str, Any] = {"model": {"adapter": str(adapter)}, "stage": [{}, {}]}
    folder = write_model()
    with pytest.raises(TopologyError, match=r"the backend 'torch' of stage\[0\] applies no adapters"):
        plan_for(folder, plugins, **tables)
    factory.traits = Traits(contract=1, capabilities=[Capability.ADAPTERS])
    plan = plan_for(folder, plugins, model={"adapter": str(adapter)}, stage=[{}, {}])
    assert [stage.spec.adapter for stage in plan.stages] == [str(adapter)] * 2
    assert plan_for(folder, plugins, stage=[{}]).stages[0].spec.adapter is None
    with pytest.raises(TopologyError, match=r"model\.adapter: there is no such folder"):
        plan_for(folder, plugins, model={"adapter": str(tmp_path / "none")}, stage=[{}])


def test_a_stage_backend_of_another_environment_is_asked_for_once(
    write_model: WriteModel, plugins: Plugins, tmp_path: Path
) -> None:
    python = interpreter(tmp_path, "stage")
    stages = [{"backend": "elsewhere", "python": python}] * 2
    plan = plan_for(write_model(), plugins, stage=stages)
    assert [(stage.process, stage.python, stage.backend) for stage in plan.stages] == [
        ("stage0", python, "elsewhere"),
        ("stage1", python, "elsewhere"),
    ]
    assert (tmp_path / "asked").read_text() == "x\n"


def test_an_engine_of_another_environment_must_be_known_here_too(
    write_model: WriteModel, plugins: Plugins, tmp_path: Path
) -> None:
    python = interpreter(tmp_path, "engine")
    folder = write_model()
    with pytest.raises(TopologyError, match="install its plugin, which is small, beside this histrio") as caught:
        plan_for(folder, plugins, stage=[{"backend": "elsewhere", "python": python}])
    assert caught.value.path == "stage[0].backend"
    (stage,) = plan_for(folder, plugins, stage=[{**ENGINE, "python": python}]).stages
    assert (stage.process, stage.python, stage.level) == ("engine", python, "engine")
    assert (tmp_path / "asked").read_text() == "x\n", "a backend that is known here is not asked about"


HONOURED: dict[str, Any] = {
    "max-unfinished-requests": 7,
    "request-timeout-s": 5.0,
    "max-batch-size": 3,
    "max-num-tokens-per-batch": 99,
    "admission-policy": "tokens",
    "admission-policy-options": {"times": 2.5},
    "kv-cache-dtype": "auto",
    "kv-block-size": 8,
    "num-cache-blocks": 10,
    "param-mem-ratio": 0.5,
    "kvcache-mem-ratio": 0.1,
}
"""Keys that mean something with an engine: for the front, or handed on to its backend."""


def test_every_key_of_engine_is_honoured_or_refused(write_model: WriteModel, plugins: Plugins) -> None:
    folder = write_model()
    plan = plan_for(folder, plugins, engine={**HONOURED, "drafter": "off"})
    assert plan.stages[0].spec.sizes.max_num_tokens_per_batch == 99
    refused = {name for names in support._ENGINES_OWN.values() for name in names}
    known = {field.name: field.encode_name for kind in TABLES["engine"] for field in msgspec.structs.fields(kind)}
    assert {known[name] for name in refused} | set(HONOURED) | {"kv-cache-memory-fraction"} == set(known.values())
    assert not {known[name] for name in refused} & set(HONOURED)


def test_int8_keys_and_values_reach_every_stage_whose_backend_has_them(
    write_model: WriteModel, plugins: Plugins, factory: Any
) -> None:
    engine, folder = {"kv-cache-dtype": "int8"}, write_model()
    with pytest.raises(TopologyError, match=r"the backend 'torch' of stage\[0\] keeps keys and values as they are"):
        plan_for(folder, plugins, engine=engine, stage=[{}, {}])
    factory.traits = Traits(contract=1, capabilities=[Capability.INT8_KV])
    plan = plan_for(folder, plugins, engine=engine, stage=[{}, {}])
    assert [stage.spec.memory.kv_cache_dtype for stage in plan.stages] == ["int8"] * 2
    assert plan_for(folder, plugins, stage=[{}]).stages[0].spec.memory.kv_cache_dtype == "auto"
