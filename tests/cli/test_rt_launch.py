"""The command: what it hands to the root process, what it prints, and its exit codes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import histrio
from histrio.cli.main import main
from histrio.config.settings import BatchingSettings, SizeSettings, SpeculationSettings
from histrio.config.topology import EngineTable
from histrio.contracts.backend import Capability, Probe, Traits
from histrio.errors import EngineError
from histrio.plan.plans import Plan
from histrio.plugins.registry import FailedPlugin, Plugins
from histrio.testing.models import write_tokenizer

WriteModel = Callable[..., Path]


def root_module(run: Callable[[Plan, object], int]) -> ModuleType:
    """Stands in for the root process."""
    module = ModuleType("histrio.processes.root")
    module.run = run  # type: ignore[attr-defined]
    return module


@pytest.fixture(autouse=True)
def paper_runtime(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> Iterator[list[Plan]]:
    """Paper plugins, and a list of plans in place of a running service; puts the loggers back."""
    started: list[Plan] = []

    def run(plan: Plan, _early: object) -> int:
        started.append(plan)
        return 0

    monkeypatch.setattr("histrio.plugins.registry.installed_plugins", lambda: plugins)
    monkeypatch.setitem(sys.modules, "histrio.processes.root", root_module(run))
    monkeypatch.setattr("histrio.cli.main.early_engine", lambda _topology: nullcontext())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield started
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def two_stages(tmp_path: Path, write_model: WriteModel) -> Path:
    """A topology file with two stages of the paper model."""
    file = tmp_path / "two.toml"
    file.write_text(
        f'[model]\npath = "{write_model()}"\n[api]\nport = 99\napi-keys = ["sk-secret"]\n'
        '[engine]\nkv-cache-memory-fraction = 0.2\n[[stage]]\nlayers = "0:2"\n[[stage]]\nlayers = "2:6"\n'
    )
    return file


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rt-launch: ")
    assert err.count("\n") == 1
    return err


def test_a_file_is_resolved_and_run(two_stages: Path, paper_runtime: list[Plan]) -> None:
    assert main([str(two_stages)]) == 0
    (plan,) = paper_runtime
    assert [(stage.spec.first_layer, stage.spec.last_layer) for stage in plan.stages] == [(0, 2), (2, 6)]
    assert plan.edges[0].settings["port"] == 99


def test_the_short_form_is_a_topology_too(write_model: WriteModel, paper_runtime: list[Plan]) -> None:
    folder = write_model()
    argv = ["--model", str(folder), "--host", "127.0.0.2", "--port", "8000", "--dtype", "float16", "--stages", "3"]
    argv += ["--device", "cpu", "--param-mem-ratio", "0.5", "--kvcache-mem-ratio", "0.3", "--kv-block-size", "32"]
    argv += ["--max-sequence-length", "50", "--max-batch-size", "4", "--request-timeout-s", "9", "--threads", "2"]
    argv += ["--log-level", "error", "--served-name", "mine"]
    assert main(argv) == 0
    (plan,) = paper_runtime
    assert plan.model.id == "mine"
    assert plan.edges[0].settings | {"api-keys": []} == {"host": "127.0.0.2", "port": 8000, "api-keys": []}
    assert [(stage.spec.dtype, stage.spec.device, stage.spec.threads) for stage in plan.stages] == [
        ("float16", "cpu", 2)
    ] * 3
    engine = plan.engine
    assert (engine.memory.param_mem_ratio, engine.memory.kv_share, engine.sizes.kv_block_size) == (0.5, 0.3, 32)
    assert (engine.sizes.max_batch_size, engine.admission.request_timeout_s) == (4, 9.0)
    assert plan.model.max_sequence_length == 50
    assert plan.runtime.log_level == "error"


def test_options_win_over_the_file(two_stages: Path, paper_runtime: list[Plan]) -> None:
    argv = [str(two_stages), "--port", "7", "--layers", "0:1,1:6", "--kvcache-mem-ratio", "0.3", "--one-process"]
    assert main([*argv, "--set", "stage.threads=5", "--set", "runtime.max-restarts=0"]) == 0
    (plan,) = paper_runtime
    assert plan.edges[0].settings == {"host": "127.0.0.1", "port": 7, "api-keys": ["sk-secret"]}
    assert [(stage.spec.last_layer, stage.spec.threads) for stage in plan.stages] == [(1, 5), (6, 5)]
    assert (plan.engine.memory.kv_share, plan.runtime.max_restarts, plan.processes) == (0.3, 0, ["front"])


def test_set_takes_toml_values_and_bare_words(write_model: WriteModel, paper_runtime: list[Plan]) -> None:
    argv = ["--model", str(write_model()), "--set", "stage.device=cuda:1", "--set", "stage.options={a = [1]}"]
    assert main([*argv, "--set", 'model.dtype="bfloat16"']) == 0
    spec = paper_runtime[0].stages[0].spec
    assert (spec.device, spec.options, spec.dtype) == ("cuda:1", {"a": [1]}, "bfloat16")


def test_flags_of_other_serving_programs_are_options_of_every_stage(
    two_stages: Path, paper_runtime: list[Plan]
) -> None:
    two_stages.write_text(two_stages.read_text() + 'options = {mode = "x", tp-size = 1}\n')
    argv = ["--attention-backend", "triton", "--moe-runner-backend", "auto", "--tp-size", "2"]
    assert main([str(two_stages), *argv, "--backend-option", "page-size=32", "--backend-option", "mode=y"]) == 0
    given = {"attention-backend": "triton", "moe-runner-backend": "auto", "tp-size": 2, "page-size": 32, "mode": "y"}
    assert [stage.spec.options for stage in paper_runtime[0].stages] == [given, given]
    assert main([str(two_stages)]) == 0
    assert [stage.spec.options for stage in paper_runtime[1].stages] == [{}, {"mode": "x", "tp-size": 1}]


def test_names_of_local_engines_are_options_of_every_stage(two_stages: Path, paper_runtime: list[Plan]) -> None:
    argv = ["--arch", "avx2", "--numa", "1", "--quantization", "q8", "--flash-tile-size", "128"]
    given = {"arch": "avx2", "numa": 1, "quantization": "q8", "flash-tile-size": 128, "flash-attention": False}
    assert main([str(two_stages), *argv, "--no-flash-attention"]) == 0
    assert main([str(two_stages), "--flash-attention", "--numa", "distribute"]) == 0
    for plan, expected in zip(paper_runtime, [given, {"flash-attention": True, "numa": "distribute"}], strict=True):
        assert [stage.spec.options for stage in plan.stages] == [expected] * 2


def test_scheduling_has_the_flags_of_other_serving_programs(write_model: WriteModel, paper_runtime: list[Plan]) -> None:
    argv = ["--model", str(write_model()), "--prefill-priority", "1", "--chunked-prefill-size", "64"]
    argv += ["--max-num-tokens-per-batch", "300", "--num-cache-blocks", "40", "--micro-batch-ratio", "3"]
    argv += ["--scheduler-wait-ms", "2.5", "--disable-prefix-cache", "--kv-cache-dtype", "auto", "--drafter", "off"]
    assert main(argv) == 0
    assert paper_runtime[0].engine == EngineTable(
        sizes=SizeSettings(max_num_tokens_per_batch=300, num_cache_blocks=40),
        batching=BatchingSettings(
            prefill_priority=1,
            chunked_prefill_size=64,
            micro_batch_ratio=3,
            scheduler_wait_ms=2.5,
            prefix_cache=False,
        ),
        speculation=SpeculationSettings(drafter="off"),
    )
    assert main(argv[:2]) == 0
    assert paper_runtime[1].engine == EngineTable(), "a control: without flags the defaults hold"


def test_the_kv_share_has_both_flags(write_model: WriteModel, paper_runtime: list[Plan]) -> None:
    assert main(["--model", str(write_model()), "--kv-cache-memory-fraction", "0.11"]) == 0
    assert paper_runtime[0].engine.memory.kv_share == 0.11


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "name a topology file, or a model"),
        (["none.toml"], "none.toml: there is no such file"),
        (["demo"], "for a model write rt-launch --model demo"),
        (["FILE", "--dtype", "bf16"], "--dtype: must be one of auto, bfloat16, float16, float32, not 'bf16'"),
        (["FILE", "--kvcache-mem-ratio", "2"], "--kvcache-mem-ratio: must be a number <= 1.0, not 2.0"),
        (["FILE", "--backend", "trch"], "--backend: there is no backend 'trch'; did you mean 'torch'"),
        (["FILE", "--port", "70000"], "--port: must be an integer <= 65535, not 70000"),
        (["FILE", "--set", "engine.max-batch=3"], "--set engine.max-batch: unknown key; did you mean 'max-batch-size'"),
        (["FILE", "--prefill-priority", "2"], "--prefill-priority: must be one of 0, 1, not 2"),
        (["FILE", "--kv-cache-dtype", "int3"], "--kv-cache-dtype: must be one of auto, int8, not 'int3'"),
        (["FILE", "--drafter", "none"], "--drafter: there is no drafter 'none'"),
        (["FILE", "--set", "engine.batching-policy=fifos"], "there is no batching policy 'fifos'; did you mean 'fifo'"),
        (["FILE", "--adapter", "none"], "--adapter: the backend 'torch' of stage[0] applies no adapters"),
        (["FILE", "--backend", "paper-engine"], "--backend: 'paper-engine' is a whole engine, which must be the only"),
        (["FILE", "--layers", "0:3,4:6"], "stage[1].layers: layers 4:6 leave a gap: layer 3 is on no stage"),
        (["FILE", "--max-sequence-length", "999999"], "--max-sequence-length: 999999 is more than the model's own"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str],
    text: str,
    two_stages: Path,
    paper_runtime: list[Plan],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(two_stages.parent)
    assert main([str(two_stages) if word == "FILE" else word for word in argv]) == 2
    assert text in complaint(capsys)
    assert paper_runtime == []


def test_a_mistake_in_a_file_names_the_file(two_stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_stages.write_text(two_stages.read_text().replace("2:6", "1:6"))
    assert main([str(two_stages)]) == 2
    assert f"{two_stages}: stage[1].layers: layers 1:6 overlap" in complaint(capsys)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--bakend", "x"], "unrecognized arguments: --bakend"),
        (["--port", "x"], "--port: invalid int value"),
        (["--stages", "2", "--layers", "0:2"], "not together with --layers"),
        (["--stages", "0"], "must be 1 to"),
        (["--set", "engine"], "'engine' is not TABLE.KEY=VALUE"),
        (["--set", "engine=3"], "'engine=3' is not TABLE.KEY=VALUE"),
        (["--backend-option", "speed"], "--backend-option: 'speed' is not KEY=VALUE"),
        (["--tp-size", "two"], "--tp-size: invalid int value"),
    ],
)
def test_an_unreadable_command_line_is_one_line_and_exit_code_2(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--model", "demo", *argv])
    assert caught.value.code == 2
    assert text in complaint(capsys)


def test_what_the_world_refuses_is_exit_code_1(
    two_stages: Path, factory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    factory.model = Probe(available=False, reason="unknown architecture", remedy="")
    assert main([str(two_stages)]) == 1
    assert "stage[0]: unknown architecture" in complaint(capsys)
    factory.model = Probe(available=True)

    def fail(plan: Plan, _early: object) -> int:
        raise EngineError("the engine ended 4 times")

    monkeypatch.setitem(sys.modules, "histrio.processes.root", root_module(fail))
    assert main([str(two_stages)]) == 1
    assert "the engine ended 4 times" in complaint(capsys)


def test_a_lack_of_memory_is_one_line_and_exit_code_1(
    two_stages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(plan: Plan, _early: object) -> int:
        raise MemoryError

    monkeypatch.setitem(sys.modules, "histrio.processes.root", root_module(fail))
    assert main([str(two_stages)]) == 1
    assert "there is not enough memory; raise its limit (ulimit -v, the container's)" in complaint(capsys)


def test_a_bug_keeps_its_traceback(two_stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(plan: Plan, _early: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules, "histrio.processes.root", root_module(fail))
    with pytest.raises(ZeroDivisionError):
        main([str(two_stages)])


def test_a_missing_folder_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "./none"]) == 1
    assert complaint(capsys) == "rt-launch: there is no folder ./none\n"


def test_check_prints_the_plan_and_starts_nothing(
    two_stages: Path, factory: Any, paper_runtime: list[Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    factory.model = Probe(available=True, capabilities=[Capability.BATCH])
    assert main([str(two_stages), "--check"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["0", "0:2", "torch", "stage", "paper:0", "auto", "engine", "3.0", "MiB", "batch"] in rows
    assert ["1", "2:6", "torch", "stage", "paper:0", "auto", "stage1", "5.0", "MiB", "batch"] in rows
    assert "PaperForCausalLM, 6 layers" in out
    assert "http://127.0.0.1:99" in out
    assert "32768 tokens" in out
    assert "sk-secret" not in out
    assert err == ""
    assert paper_runtime == []


def test_check_names_the_options_of_policies(two_stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(two_stages), "--check"]) == 0
    assert "policies   batching priority, admission credits\n" in capsys.readouterr().out
    option = "engine.batching-policy-options={places-per-priority = 3}"
    assert main([str(two_stages), "--check", "--set", option]) == 0
    assert "policies   batching priority (places-per-priority = 3), admission credits\n" in capsys.readouterr().out


def test_check_says_what_stages_cannot_and_which_adapter_is_applied(
    two_stages: Path, factory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factory.traits = Traits(contract=1, capabilities=[Capability.ADAPTERS])
    factory.capabilities_from = {0: [Capability.BATCH, Capability.REWIND], 2: [Capability.BATCH]}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    assert main([str(two_stages), "--check", "--adapter", str(adapter)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"adapter    {adapter}" in lines
    assert "stage1 cannot rewind: the replica does without" in lines
    assert not any("cannot batch" in line for line in lines), "a control: both can"


def test_check_names_an_engine(write_model: WriteModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(write_model()), "--backend", "paper-engine", "--check"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["0", "0:6", "paper-engine", "engine", "paper:0", "auto", "engine", "7.0", "MiB", "-"] in rows
    assert "cannot" not in out
    assert "fields: seed, temperature" in out


@pytest.mark.parametrize("change", [("2:6", "3:6"), ("2:6", "2:7"), ("[engine]", "[engin]")])
def test_check_says_why_not_and_has_the_exit_code_of_a_start(
    change: tuple[str, str], two_stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_stages.write_text(two_stages.read_text().replace(*change))
    assert main([str(two_stages), "--check"]) == 2
    said = complaint(capsys)
    assert str(two_stages) in said
    assert main([str(two_stages)]) == 2
    assert complaint(capsys) == said


def test_a_device_that_is_not_here_has_exit_code_1(two_stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(two_stages), "--check", "--device", "cpu"]) == 1
    assert "--device: the backend 'torch' cannot use 'cpu' here; it sees paper:0" in complaint(capsys)


def test_plugins_lists_hooks_backends_and_what_cannot_load(
    plugins: Plugins, factory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins.failed.append(FailedPlugin("mlx [histrio-mlx 0.1.0]", "ImportError: no Metal"))
    factory.machine = Probe(available=False, reason="torch is not installed", remedy="pip install histrio-torch")
    assert main(["--plugins"]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "register_backends paper [paper 1.0]" in lines
    assert (
        "paper [paper 1.0] backend 'torch', backend 'paper-engine', sampler 'temperature', edge service 'api'" in lines
    )
    assert "torch not available; torch is not installed; pip install histrio-torch (paper [paper 1.0])" in lines
    assert "temperature temperature, top_k (paper [paper 1.0])" in lines
    assert "mlx [histrio-mlx 0.1.0] ImportError: no Metal" in lines
    for title, names in {
        "batching": ["priority", "fifo", "shortest-first"],
        "admission": ["credits", "tokens"],
    }.items():
        at = lines.index(f"{title} policies") + 1
        assert lines[at : at + len(names) + 1] == [*(f"{name} (policies [histrio 1.0])" for name in names), ""]


def test_a_plugin_that_cannot_load_is_logged_and_stops_nothing(
    two_stages: Path, plugins: Plugins, paper_runtime: list[Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    plugins.failed.append(FailedPlugin("mlx", "ImportError: no Metal"))
    assert main([str(two_stages)]) == 0
    assert "the plugin mlx cannot load: ImportError: no Metal" in capsys.readouterr().err
    assert len(paper_runtime) == 1


@pytest.mark.parametrize(("option", "text"), [("--version", f"histrio {histrio.__version__}"), ("--help", "examples:")])
def test_information_is_exit_code_0(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([option])
    assert caught.value.code == 0
    assert text in capsys.readouterr().out


def test_planning_a_start_imports_no_array_library_and_no_web_framework(write_model: WriteModel) -> None:
    sizes = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_size": 8,
    }
    folder = write_model(architectures=["Qwen3ForCausalLM"], model_type="qwen3", **sizes)
    write_tokenizer(folder)
    code = (
        "import sys; from histrio.plugins.registry import installed_plugins; "
        "from histrio.config.topology import parse_tables; "
        "from histrio.plan.resolve import resolve; "
        f"topology = parse_tables({{'model': {{'path': {str(folder)!r}}}}}); "
        "plan = resolve(topology, installed_plugins()); "
        "print(plan.stages[0].backend in ('cpu', 'torch'), {'torch', 'transformers', 'httptools'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "True set()\n", done.stderr


def test_the_installed_command_returns_its_exit_code(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("rt-launch")), "none.toml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "rt-launch: none.toml: there is no such file\n")
