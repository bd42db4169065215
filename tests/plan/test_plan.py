"""From a topology to a plan: every name is looked up, nothing is started."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histrio.config.settings import BatchingSettings
from histrio.config.topology import StageTable, parse_tables
from histrio.contracts.backend import Probe
from histrio.contracts.gateway import Submission
from histrio.contracts.policy import Load
from histrio.errors import ModelUnavailable, Overloaded, TopologyError, UnsupportedModel
from histrio.messages import Ask, Generate
from histrio.plan.plans import Plan, StagePlan
from histrio.plan.policies import admission_policy
from histrio.plan.resolve import resolve, split_layers
from histrio.plugins.registry import Plugins
from histrio.processes.compose import BatchingParts
from histrio.processes.device import DeviceProcess
from histrio.processes.processes import device_processes

WriteModel = Callable[..., Path]


def plan_for(folder: Path, plugins: Plugins, *, is_check: bool = False, **tables: Any) -> Plan:
    model = {"path": str(folder)} | tables.pop("model", {})
    return resolve(parse_tables({"model": model, **tables}), plugins, is_check=is_check)


def test_one_stage_holds_everything_in_the_engine(write_model: WriteModel, plugins: Plugins, factory: Any) -> None:
    folder = write_model()
    plan = plan_for(folder, plugins)
    (stage,) = plan.stages
    assert (stage.spec.first_layer, stage.spec.last_layer, stage.spec.num_layers) == (0, 6, 6)
    assert (stage.backend, stage.process, stage.weight_bytes) == ("torch", "engine", 7 * 2**20)
    assert plan.processes == ["front", "engine"]
    assert factory.asked == [(str(folder), 0, 6)]


def test_later_stages_have_processes_of_their_own(write_model: WriteModel, plugins: Plugins) -> None:
    plan = plan_for(write_model(), plugins, stage=[{"layers": "0:2"}, {"layers": "2:3"}, {"layers": "3:6"}])
    assert [stage.process for stage in plan.stages] == ["engine", "stage1", "stage2"]
    assert plan.processes == ["front", "engine", "stage1", "stage2"]


def test_the_file_may_place_stages_otherwise(write_model: WriteModel, plugins: Plugins) -> None:
    plan = plan_for(write_model(), plugins, stage=[{"process": "own"}, {"process": "engine"}])
    assert [stage.process for stage in plan.stages] == ["stage0", "engine"]


def test_one_process_holds_all(write_model: WriteModel, plugins: Plugins) -> None:
    plan = plan_for(write_model(), plugins, stage=[{}, {}], runtime={"processes": "one"})
    assert plan.processes == ["front"]


@pytest.mark.parametrize(
    ("num_stages", "num_layers", "expected"),
    [
        (1, 6, [(0, 6)]),
        (2, 6, [(0, 3), (3, 6)]),
        (4, 6, [(0, 2), (2, 4), (4, 5), (5, 6)]),
        (3, 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_an_even_split_differs_by_one_layer_at_most(
    num_stages: int, num_layers: int, expected: list[tuple[int, int]]
) -> None:
    assert split_layers([StageTable()] * num_stages, num_layers) == expected


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(TopologyError, match="stage: 7 stages are too many for a model of 6 layers"):
        split_layers([StageTable()] * 7, 6)


@pytest.mark.parametrize("last", ["2:5", "2:7"])
def test_the_last_stage_ends_at_the_models_last_layer(last: str, write_model: WriteModel, plugins: Plugins) -> None:
    with pytest.raises(TopologyError, match=r"stage\[1\]\.layers: layers end at \d, but the model has 6"):
        plan_for(write_model(), plugins, stage=[{"layers": "0:2"}, {"layers": last}])


def test_limits_of_the_topology_reach_the_stage(write_model: WriteModel, plugins: Plugins) -> None:
    engine = {
        "max-batch-size": 9,
        "max-num-tokens-per-batch": 77,
        "kv-cache-memory-fraction": 0.1,
        "param-mem-ratio": 0.5,
        "num-cache-blocks": 33,
    }
    stage = {"device": "cpu", "threads": 3, "options": {"mode": "x"}}
    plan = plan_for(write_model(), plugins, engine=engine, stage=[stage], model={"dtype": "float16"})
    spec = plan.stages[0].spec
    assert (spec.sizes.max_batch_size, spec.sizes.max_num_tokens_per_batch, spec.sizes.num_cache_blocks) == (9, 77, 33)
    assert (spec.block_mem_ratio, spec.memory.param_mem_ratio) == (0.1, 0.5)
    assert (spec.device, spec.threads, spec.options, spec.dtype) == ("cpu", 3, {"mode": "x"}, "float16")


def test_context_is_the_models_up_to_a_limit(write_model: WriteModel, plugins: Plugins) -> None:
    folder = write_model()
    assert plan_for(folder, plugins).model.max_sequence_length == 32_768
    assert plan_for(folder, plugins, model={"max-sequence-length": 90_000}).model.max_sequence_length == 90_000
    assert plan_for(folder, plugins, model={"max-sequence-length": 90_000}).stages[0].spec.max_sequence_length == 90_000
    with pytest.raises(TopologyError, match=r"model\.max-sequence-length: 100001 is more than the model's own 100000"):
        plan_for(folder, plugins, model={"max-sequence-length": 100_001})


def test_a_short_model_keeps_its_own_context(write_model: WriteModel, plugins: Plugins) -> None:
    assert plan_for(write_model(max_position_embeddings=512), plugins).model.max_sequence_length == 512


def test_a_folder_serves_under_its_name_unless_told_otherwise(write_model: WriteModel, plugins: Plugins) -> None:
    folder = write_model()
    assert plan_for(folder, plugins).model.id == "paper-model"
    assert plan_for(folder, plugins, model={"served-name": "mine"}).model.id == "mine"


def test_default_sampling_is_kept_where_a_sampler_honours_it(
    write_model: WriteModel, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(generation={"temperature": 0.6, "top_p": 0.9, "top_k": -5})
    with caplog.at_level(logging.WARNING):
        model = plan_for(folder, plugins).model
    assert model.default_sampling == {"temperature": 0.6}
    assert model.sampling_fields == ["temperature", "top_k"]
    assert [line.split(",")[0].rpartition(" ")[2] for line in sorted(caplog.messages)] == ["top_k", "top_p"]


def test_an_edge_runs_if_its_table_is_there_and_api_runs_without_any(write_model: WriteModel, plugins: Plugins) -> None:
    folder = write_model()
    (default,) = plan_for(folder, plugins).edges
    assert (default.name, default.settings["port"]) == ("api", 3001)
    (named,) = plan_for(folder, plugins, api={"port": 99}).edges
    assert named.settings == {"host": "127.0.0.1", "port": 99, "api-keys": []}


@pytest.mark.parametrize(
    ("tables", "path", "fragment"),
    [
        ({"api": {"prot": 3}}, "api.prot", "did you mean 'port'"),
        ({"api": {"port": 70_000}}, "api.port", "<= 65535, not 70000"),
        ({"modle": {"path": "x"}}, "modle", "no such table; did you mean 'model'"),
        ({"telegraph": {}}, "telegraph", r"known: api \(by paper \[paper 1.0\]\)"),
        ({"stage": [{"backend": "trch"}]}, "stage[0].backend", "did you mean 'torch'"),
        ({"stage": [{"python": "/none/python"}]}, "stage[0].python", "not an executable file"),
        ({"stage": [{"backend": "zzz", "python": "/none/python"}]}, "stage[0].python", "not an executable file"),
    ],
)
def test_what_only_plugins_know_is_checked_with_its_path(
    tables: dict[str, Any], path: str, fragment: str, write_model: WriteModel, plugins: Plugins
) -> None:
    with pytest.raises(TopologyError, match=fragment) as caught:
        plan_for(write_model(), plugins, **tables)
    assert caught.value.path == path


def test_names_are_checked_before_a_model_is_fetched(plugins: Plugins) -> None:
    with pytest.raises(TopologyError, match="no backend"):
        plan_for(Path("/none/such"), plugins, stage=[{"backend": "zzz"}])
    with pytest.raises(ModelUnavailable):
        plan_for(Path("/none/such"), plugins)


def test_an_unsupported_model_is_refused_by_stage_and_reason(
    write_model: WriteModel, plugins: Plugins, factory: Any
) -> None:
    factory.model = Probe(available=False, reason="PaperForCausalLM is not known", remedy="use another model")
    folder = write_model(auto_map={"AutoModelForCausalLM": "modeling_paper.PaperForCausalLM"})
    with pytest.raises(UnsupportedModel) as caught:
        plan_for(folder, plugins)
    text = str(caught.value)
    assert text.startswith("stage[0]: PaperForCausalLM is not known; use another model")
    assert "modeling_paper.py, which histrio never runs" in text


def test_planning_asks_no_backend_about_the_machine(write_model: WriteModel, plugins: Plugins, factory: Any) -> None:
    factory.machine = Probe(available=False, reason="no driver", remedy="install one")
    assert plan_for(write_model(), plugins, is_check=True).stages[0].backend == "torch"
    assert factory.num_probes == 0


def test_weights_that_are_not_there_have_no_size(write_model: WriteModel, plugins: Plugins) -> None:
    assert plan_for(write_model(weights=False), plugins).stages[0].weight_bytes is None


def test_a_check_estimates_a_hub_model_from_its_remote_headers(
    write_model: WriteModel, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(weights=False)
    tensors = [(f"model.layers.{index}.w", 1000) for index in range(6)]
    monkeypatch.setattr("histrio.plan.resolve.locate_model", lambda path, **options: folder)
    monkeypatch.setattr("histrio.plan.resolve.remote_tensors", lambda path, **options: tensors)
    stages = [{"layers": "0:2"}, {"layers": "2:6"}]
    plan = plan_for(folder, plugins, is_check=True, stage=stages, model={"path": "owner/name"})
    assert [stage.weight_bytes for stage in plan.stages] == [2000, 4000]
    assert not any(stage.spec.has_weights for stage in plan.stages), "no backend may look for them"


def test_a_plan_survives_the_way_to_another_process(write_model: WriteModel, plugins: Plugins) -> None:
    plan = plan_for(write_model(), plugins, stage=[{}, {}], api={"port": 5})
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert msgspec.json.decode(msgspec.json.encode(plan.stages[1]), type=StagePlan) != plan.stages[0]


@pytest.mark.parametrize(
    ("keys", "path", "text"),
    [
        ({"batching-policy": "prority"}, "engine.batching-policy", "did you mean 'priority'?; known: priority"),
        (
            {"batching-policy": "credits"},
            "engine.batching-policy",
            "there is no batching policy 'credits'; known: prior",
        ),
        ({"admission-policy": "credit"}, "engine.admission-policy", "did you mean 'credits'?"),
        ({"admission-policy": "fifo"}, "engine.admission-policy", "known: credits (by policies [histrio 1.0]), tokens"),
        ({"drafter": "off", "drafter-options": {"a": 1}}, "engine.drafter-options", "no drafter to read them"),
        (
            {"batching-policy-options": {"places-per-prority": 1}},
            "engine.batching-policy-options.places-per-prority",
            "did you mean 'places-per-priority'?",
        ),
        (
            {"batching-policy-options": {"places-per-priority": -1}},
            "engine.batching-policy-options.places-per-priority",
            "must be an integer >= 0, not -1",
        ),
        (
            {"batching-policy": "fifo", "batching-policy-options": {"places-per-priority": 1}},
            "engine.batching-policy-options.places-per-priority",
            "unknown key",
        ),
        (
            {"admission-policy": "tokens", "admission-policy-options": {"times": 0}},
            "engine.admission-policy-options.times",
            "must be a number > 0",
        ),
        ({"admission-policy-options": {"times": 2}}, "engine.admission-policy-options.times", "unknown key"),
    ],
)
def test_names_and_settings_that_are_unknown_are_refused_with_their_place(
    keys: dict[str, Any], path: str, text: str, write_model: WriteModel, plugins: Plugins
) -> None:
    with pytest.raises(TopologyError) as caught:
        plan_for(write_model(), plugins, engine=keys)
    assert caught.value.path == path
    assert text in str(caught.value)


def test_policies_are_made_with_their_options(write_model: WriteModel, plugins: Plugins) -> None:
    folder, command = write_model(), Generate(1, [1], 1, 5, Ask(priority=2))
    options = {"batching-policy-options": {"places-per-priority": 3}}
    for engine, handicap in ((options, 6), ({}, 64)):
        plan = plan_for(folder, plugins, engine=engine)
        (device,) = device_processes(plan)
        travelled = msgspec.json.decode(msgspec.json.encode(device), type=DeviceProcess)
        assert travelled.batching is not None
        policy = BatchingParts.of(travelled.batching, plugins).policy
        assert policy is not None
        assert policy.handicap(command) == handicap
    tokens = {"admission-policy": "tokens", "admission-policy-options": {"times": 2}}
    submission, load = Submission([1], 499), Load(1, 9, 1600, 1000)
    with pytest.raises(Overloaded, match="2000"):
        admission_policy(plan_for(folder, plugins, engine=tokens).engine.admission, plugins).admit(submission, load)
    del tokens["admission-policy-options"]
    admission_policy(plan_for(folder, plugins, engine=tokens).engine.admission, plugins).admit(submission, load)


def test_scheduling_keys_reach_batching(write_model: WriteModel, plugins: Plugins) -> None:
    engine = {
        "prefill-priority": 1,
        "scheduler-wait-ms": 20,
        "enable-preemption": False,
        "preemption-threshold": 0.25,
        "batching-policy": "fifo",
        "prefix-cache": False,
    }
    folder = write_model()
    batching, unset = plan_for(folder, plugins, engine=engine).batching, plan_for(folder, plugins).batching
    assert batching.settings == BatchingSettings(
        prefill_priority=1,
        scheduler_wait_ms=20.0,
        enable_preemption=False,
        preemption_threshold=0.25,
        batching_policy="fifo",
        prefix_cache=False,
    )
    assert unset.settings == BatchingSettings(), "a control: what the file does not say has its default"


def test_settings_are_carried_whole_to_the_processes_that_use_them(write_model: WriteModel, plugins: Plugins) -> None:
    engine = {"max-batch-size": 9, "param-mem-ratio": 0.5, "step-budget-ms": 70, "min-speculation": 3}
    plan = plan_for(write_model(), plugins, engine=engine)
    spec, batching = plan.stages[0].spec, plan.batching
    carried = (spec.sizes, spec.memory, batching.settings, batching.speculation)
    table = plan.engine
    assert carried == (table.sizes, table.memory, table.batching, table.speculation)
    assert all(each != type(each)() for each in carried), "a control: each has a value of the file"
    for each in (spec, batching):
        assert msgspec.json.decode(msgspec.json.encode(each), type=type(each)) == each
