"""Topology files: what is accepted, and that every mistake names its place."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histrio.config.topology import TABLES, EngineTable, ModelTable, RuntimeTable, load_topology, parse_topology
from histrio.errors import TopologyError

ROOT = Path(__file__).parents[2]
DEMO = '[model]\npath = "demo"\n'


def error_of(text: str) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        parse_topology(text)
    return caught.value


def test_the_smallest_file_is_one_stage_with_defaults() -> None:
    topology = parse_topology(DEMO)
    assert topology.model == ModelTable(path="demo")
    assert [stage.layers for stage in topology.stages] == [None]
    assert (topology.engine, topology.runtime, topology.edges) == (EngineTable(), RuntimeTable(), {})


def test_the_file_of_the_readme_is_understood() -> None:
    topology = parse_topology(DEMO + '[api]\nport = 3001\n[[stage]]\nlayers = "0:2"\n[[stage]]\nlayers = "2:6"\n')
    assert [stage.layer_range for stage in topology.stages] == [(0, 2), (2, 6)]
    assert topology.edges == {"api": {"port": 3001}}


def test_kebab_case_keys_reach_their_fields() -> None:
    topology = parse_topology(DEMO + "max-sequence-length = 99\n[engine]\nmax-batch-size = 7\nrequest-timeout-s = 3\n")
    assert topology.model.max_sequence_length == 99
    assert topology.engine.sizes.max_batch_size == 7
    assert topology.engine.admission.request_timeout_s == 3.0


def test_both_names_of_the_kv_share_mean_the_same() -> None:
    first = parse_topology(DEMO + "[engine]\nkvcache-mem-ratio = 0.1\n").engine.memory
    second = parse_topology(DEMO + "[engine]\nkv-cache-memory-fraction = 0.1\n").engine.memory
    assert first.kv_share == second.kv_share == 0.1
    assert parse_topology(DEMO).engine.memory.kv_share == 0.25


@pytest.mark.parametrize(
    ("text", "path", "fragment"),
    [
        ("", "model", "missing"),
        ("[model]\n", "model.path", "is missing"),
        ("[model]\npath = 3\n", "model.path", "must be a string, not 3"),
        ('[model]\npath = ""\n', "model.path", "not an empty string"),
        ("x = 1\n" + DEMO, "x", "outside of a table"),
        (DEMO + 'dtyp = "x"\n', "model.dtyp", "did you mean 'dtype'?"),
        (DEMO + "zzz = 3\n", "model.zzz", "Known keys: adapter, dtype, format, max-sequence-length"),
        (DEMO + 'dtype = "bf16"\n', "model.dtype", "did you mean 'bfloat16'?"),
        (DEMO + "kv-block-size = 3\n", "model.kv-block-size", "belongs to [engine]"),
        (DEMO + 'device = "cpu"\n', "model.device", "belongs to [[stage]]"),
        (DEMO + "trust-remote-code = true\n", "model.trust-remote-code", "never runs code"),
        (DEMO + "[stage]\n", "stage", "[[stage]]"),
        ("stage = []\n" + DEMO, "stage", "at least one stage"),
        ("stage = [3]\n" + DEMO, "stage[0]", "must be a table"),
        (DEMO + "[[engine]]\n", "engine", "single brackets"),
        (DEMO + "[engine]\nmax-batch-size = 0\n", "engine.max-batch-size", "must be an integer >= 1, not 0"),
        (DEMO + '[engine]\nmax-batch-size = "x"\n', "engine.max-batch-size", "must be an integer, not a string"),
        (DEMO + "[engine]\nmax-batch-size = true\n", "engine.max-batch-size", "not true"),
        (DEMO + "[engine]\nmax_batch_size = 3\n", "engine.max_batch_size", "did you mean 'max-batch-size'?"),
        (DEMO + "[engine]\nparam-mem-ratio = 1.5\n", "engine.param-mem-ratio", "<= 1"),
        (DEMO + "[engine]\nkvcache-mem-ratio = nan\n", "engine.kvcache-mem-ratio", "must be a number"),
        (DEMO + "[engine]\nrequest-timeout-s = inf\n", "engine.request-timeout-s", "must be a number"),
        (DEMO + "[engine]\nkvcache-mem-ratio = 0.9\n", "engine", "add up to 1.55"),
        (
            DEMO + "[engine]\nkvcache-mem-ratio = 0.1\nkv-cache-memory-fraction = 0.1\n",
            "engine.kv-cache-memory-fraction",
            "means the same",
        ),
        (DEMO + "[engine]\nprefill-priority = 2\n", "engine.prefill-priority", "must be one of 0, 1, not 2"),
        (DEMO + '[engine]\nprefill-priority = "1"\n', "engine.prefill-priority", "must be one of 0, 1, not '1'"),
        (DEMO + "[engine]\nprefill-priority = true\n", "engine.prefill-priority", "must be an integer, not true"),
        (DEMO + "[engine]\nscheduler-wait-ms = -1\n", "engine.scheduler-wait-ms", ">= 0"),
        (DEMO + "[engine]\npreemption-threshold = 1\n", "engine.preemption-threshold", "< 1"),
        (DEMO + '[engine]\nbatching-policy = ""\n', "engine.batching-policy", "not an empty string"),
        (DEMO + '[runtime]\nlog-level = "INFO"\n', "runtime.log-level", "did you mean 'info'?"),
        (DEMO + "[[stage]]\noptions = 3\n", "stage[0].options", "must be a table, not 3"),
        (DEMO + '[[stage]]\nhost = "10.0.0.5"\n', "stage[0].host", "add a table [cluster]"),
        (DEMO + '[[stage]]\nhost = "0.0.0.0"\n', "stage[0].host", "not this machine"),
        (DEMO + '[[stage]]\npython = "p"\nprocess = "engine"\n', "stage[0].python", "process of its own"),
        (DEMO + '[runtime]\nprocesses = "one"\n[[stage]]\nprocess = "own"\n', "stage[0].process", "[runtime]"),
        (DEMO + '[runtime]\nprocesses = "one"\n[[stage]]\npython = "p"\n', "stage[0].python", "[runtime]"),
    ],
)
def test_a_mistake_is_named_with_its_path(text: str, path: str, fragment: str) -> None:
    error = error_of(text)
    assert error.path == path
    assert fragment in str(error)


@pytest.mark.parametrize(
    ("layers", "index", "fragment"),
    [
        (["0:2", "1:3"], 1, "layers 1:3 overlap the stage before, which ends at 2"),
        (["0:2", "3:4"], 1, "leave a gap: layer 2 is on no stage"),
        (["1:2"], 0, "leave a gap: layer 0 is on no stage"),
        (["0:2", None], 1, "is missing"),
        ([None, "2:4"], 0, "is missing"),
        (["0-2"], 0, "must read"),
        (["-1:2"], 0, "must read"),
        (["0:2:4"], 0, "must read"),
        (["0:0"], 0, "are none"),
        (["0:2", "2:1"], 1, "are none"),
    ],
)
def test_layer_ranges_cover_without_gap_or_overlap(layers: list[str | None], index: int, fragment: str) -> None:
    stages = "".join("[[stage]]\n" + (f'layers = "{each}"\n' if each else "") for each in layers)
    error = error_of(DEMO + stages)
    assert error.path == f"stage[{index}].layers"
    assert fragment in str(error)


def test_toml_errors_have_line_and_column() -> None:
    assert "line 3, column" in str(error_of(DEMO + "port 3001\n"))


def test_values_of_secret_tables_are_not_repeated() -> None:
    error = error_of('[model]\npath = ["sk-secret"]\n')
    assert error.path == "model.path"
    assert "sk-secret" not in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_hosts_are_accepted(host: str) -> None:
    assert parse_topology(DEMO + f'[[stage]]\nhost = "{host}"\n').stages[0].host == host


def test_a_missing_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="there is no such file"):
        load_topology(tmp_path / "none.toml")


def test_a_file_that_is_no_text_is_said_plainly(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TopologyError, match="UTF-8"):
        load_topology(file)


def test_a_folder_in_place_of_a_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        load_topology(tmp_path)


@pytest.mark.parametrize("file", sorted((ROOT / "topologies").glob("*.toml")), ids=lambda file: file.name)
def test_every_example_file_is_valid(file: Path) -> None:
    topology = load_topology(file)
    assert topology.model.path == "demo"
    assert set(topology.edges) <= {"api"}


def test_there_are_example_files() -> None:
    names = {file.name for file in (ROOT / "topologies").glob("*.toml")}
    assert names >= {"single.toml", "two-stages.toml", "one-process.toml", "bench.toml"}


# --- docs/topology.md ------------------------------------------------------------------------------------------------


def documented_keys() -> dict[str, dict[str, str]]:
    """Table → key → default, from the page's tables."""
    found: dict[str, dict[str, str]] = {}
    table = ""
    for line in (ROOT / "docs" / "topology.md").read_text().splitlines():
        if line.startswith("## "):
            table = line.removeprefix("## ").strip("`[]")
        elif line.startswith("| `"):
            key, default = (cell.strip() for cell in line.split("|")[1:3])
            found.setdefault(table, {})[key.strip("`")] = default.strip("`")
    return found


def default_words(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case int() | float():
            return f"{value:g}"
        case _:
            return str(value)


@pytest.mark.parametrize("table", list(TABLES))
def test_every_key_is_documented_with_its_default_and_no_other(table: str) -> None:
    expected = {
        field.encode_name: default_words(field) for kind in TABLES[table] for field in msgspec.structs.fields(kind)
    }
    assert documented_keys()[table] == expected


def test_no_table_is_documented_that_does_not_exist() -> None:
    assert set(documented_keys()) == set(TABLES)


def test_the_page_has_valid_examples() -> None:
    blocks = (ROOT / "docs" / "topology.md").read_text().split("```toml\n")[1:]
    examples = [block.split("```")[0] for block in blocks]
    assert len(examples) == 2
    for example in examples:
        assert parse_topology(example).model.path == tomllib.loads(example)["model"]["path"]
