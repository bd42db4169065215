"""What a topology file says: which model, split into which stages, within which limits. `docs/topology.md` explains it.

Everything here is checked: parsing raises `TopologyError` with the path of the mistake, and later code trusts it.
What needs the model or the plugins (does layer 6 exist, is this backend installed) is asked in `launch/plan.py`.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from histrio.config.settings import (
    AdmissionSettings,
    BatchingSettings,
    Count,
    MemorySettings,
    Seconds,
    SizeSettings,
    SpeculationSettings,
    Text,
)
from histrio.config.tables import closest, convert_parts, convert_table
from histrio.errors import TopologyError

__all__ = [
    "THIS_HOST",
    "ClusterTable",
    "EngineTable",
    "ModelTable",
    "RuntimeTable",
    "StageTable",
    "Topology",
    "is_here",
    "load_topology",
    "parse_tables",
    "parse_topology",
    "read_file",
    "read_tables",
]


THIS_HOST = "127.0.0.1"
"""The `host` of stages that run on the machine of the front."""
_LOCAL = ("localhost", "::1", "[::1]")
Port = Annotated[int, Meta(ge=0, le=65535)]


class ModelTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[model]`: what is served."""

    path: Text
    """`demo`, a folder, a GGUF file, or a model id of the Hugging Face hub (with `:Q4_K_M` for a GGUF file of it)."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    offline: bool = False
    """Use what is on this machine and never ask the hub."""
    served_name: Text | None = None
    """Name clients use; omitted: the hub id, or the name of the folder or file."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and activations; auto is the checkpoint's, float32 for small ones on a CPU."""
    precision: Literal["full", "balanced", "memory"] | None = None
    """`full`: float32; `balanced`: 16 bits; `memory`: weights, keys and values of 8 bits beside them."""
    format: Literal["auto", "safetensors", "gguf"] = "auto"
    """Which weights of a folder are read; auto: its safetensors, else its GGUF file."""
    adapter: Text | None = None
    """Folder of a LoRA-like adapter, applied to the weights as they are loaded."""
    max_sequence_length: Annotated[int, Meta(ge=2)] | None = None
    """Most tokens of prompt and output together; omitted: the model's own limit, at most 32,768."""


class StageTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[[stage]]`: one contiguous range of layers on one device."""

    layers: str | None = None
    """`"FIRST:END"`, END exclusive; omitted on all stages: an even split."""
    backend: Text = "auto"
    """The plugin that computes, of those that `--plugins` lists; `auto`: `cpu` without an accelerator, else `torch`."""
    device: Text = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …, as the backend names them."""
    host: Text = THIS_HOST
    """Machine that runs the stage, by its name in the cluster; 127.0.0.1 is this one."""
    process: Literal["engine", "own"] | None = None
    """Omitted: stage 0 is in the engine process, each later stage has its own."""
    python: Text | None = None
    """Interpreter of another virtual environment for this stage's own process."""
    threads: Count | None = None
    """Compute threads on a CPU; omitted: the backend's choice."""
    options: dict[str, Any] = {}
    """Settings of the backend; it refuses unknown ones."""

    @property
    def layer_range(self) -> tuple[int, int] | None:
        """First layer and the one after the last, if the file says so."""
        if self.layers is None:
            return None

        first, end = self.layers.split(":")
        return int(first), int(end)

    @property
    def wants_own_process(self) -> bool:
        """Whether the file itself asks for a separate process."""
        return self.process == "own" or self.python is not None or not is_here(self.host)


class ClusterTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[cluster]`: this machine is the head of a cluster, which others may join (`histrio join`)."""

    name: Text | None = None
    """What this machine is called; omitted: its host name."""
    listen: Text = "0.0.0.0"
    """IPv4 address at which other machines reach this one; 0.0.0.0 is all that it has."""
    port: Port = 3002
    """Where machines ask to join; 0 for a free one."""
    links_port: Port = 3003
    """Where the agents of machines that were admitted keep their encrypted links; 0 for a free one."""
    open_lan: bool = False
    """Admit every machine that asks, without a token or a person."""
    folder: Text | None = None
    """Where this machine's key and the list of admitted machines are; omitted: the user's configuration folder."""


class EngineTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[engine]`: limits of batching, memory and admission. In the file all keys stand side by side."""

    admission: AdmissionSettings = AdmissionSettings()
    sizes: SizeSettings = SizeSettings()
    memory: MemorySettings = MemorySettings()
    batching: BatchingSettings = BatchingSettings()
    speculation: SpeculationSettings = SpeculationSettings()


class RuntimeTable(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[runtime]`: processes, supervision and logs."""

    processes: Literal["split", "one"] = "split"
    """`split`: front, engine and stages are processes; `one`: all in one, for development."""
    max_restarts: Annotated[int, Meta(ge=0)] = 3
    """Restarts of the replica allowed within `restart-window-s`; one more failure ends the service."""
    restart_window_s: Seconds = 60.0
    """Seconds over which restarts are counted."""
    hang_timeout_s: Seconds = 10.0
    """Seconds after which a step, or silence, counts as a hang; more where steps of the same size took longer."""
    first_step_timeout_s: Seconds = 300.0
    """Most seconds of a step that is the first of its size, for which a backend may compile."""
    start_timeout_s: Seconds = 120.0
    """Seconds that a process has from its start to its first message."""
    load_timeout_s: Seconds = 300.0
    """Seconds for which a process that loads may show neither work nor progress."""
    drain_timeout_s: Annotated[float, Meta(ge=0, le=10_000_000)] = 30.0
    """Seconds that running requests have to finish after Ctrl-C or SIGTERM."""
    log_format: Literal["text", "json"] = "text"
    """`text` for people, `json` for collectors: one object per line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    plugins: list[Text] = []
    """Files or modules with plugins, besides those that are installed; every process loads them."""
    metrics_interval_s: Annotated[float, Meta(ge=0.5, le=86_400)] = 10.0
    """Seconds between two calls of the hook `on_interval`, for plugins that watch."""


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file."""

    model: ModelTable
    stages: list[StageTable]
    """At least one, in the order of their layers."""
    engine: EngineTable = EngineTable()
    runtime: RuntimeTable = RuntimeTable()
    cluster: ClusterTable | None = None
    """None: other machines cannot join."""
    edges: dict[str, dict[str, Any]] = {}
    """Tables of edge services by name, such as `api`; checked against their settings once plugins are loaded."""


TABLES: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "model": (ModelTable,),
    "stage": (StageTable,),
    "engine": tuple(part.type for part in msgspec.structs.fields(EngineTable)),
    "runtime": (RuntimeTable,),
    "cluster": (ClusterTable,),
}
"""The core's own tables, each with the structs that have its keys; every other table belongs to an edge service."""

_LAYERS = re.compile(r"[0-9]{1,6}:[0-9]{1,6}")
_MOST_FILE_BYTES = 4 * 2**20
_BYTE_ORDER_MARK = "\ufeff"


def load_topology(file: Path) -> Topology:
    """Read and check a topology file. Raises `TopologyError`."""
    return parse_topology(read_file(file))


def parse_topology(text: str) -> Topology:
    """The topology a TOML text describes. Raises `TopologyError`."""
    return parse_tables(read_tables(text))


def read_file(file: Path) -> str:
    """The file's text. Raises `TopologyError`."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MOST_FILE_BYTES + 1)
        text = content.decode()
    except FileNotFoundError:
        raise TopologyError("", "there is no such file") from None
    except UnicodeDecodeError:
        raise TopologyError("", "this is not a text file in UTF-8") from None
    except OSError as error:
        raise TopologyError("", f"the file cannot be read: {error.strerror}") from None

    if len(content) > _MOST_FILE_BYTES:
        raise TopologyError("", f"the file is larger than {_MOST_FILE_BYTES // 2**20} MiB, so it is no topology")
    if text.startswith(_BYTE_ORDER_MARK):
        raise TopologyError("", "the file begins with a byte order mark (BOM), which TOML has not: save it without one")
    return text


def read_tables(text: str) -> dict[str, Any]:
    """TOML text as plain tables, unchecked. Raises `TopologyError` with line and column."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise TopologyError("", "not valid TOML: it is nested too deep") from None
    except ValueError as error:  # a number that is too long is no error of tomllib's own
        raise TopologyError("", f"not valid TOML: {error}") from None


def parse_tables(tables: Mapping[str, Any]) -> Topology:
    """The topology that plain tables describe. Raises `TopologyError`."""
    _check_top_level(tables)
    stages = [
        convert_table(table, StageTable, f"stage[{index}]", _hints("stage"))
        for index, table in enumerate(tables.get("stage", [{}]))
    ]
    topology = Topology(
        model=convert_table(tables["model"], ModelTable, "model", _hints("model")),
        stages=stages,
        engine=convert_parts(tables.get("engine", {}), EngineTable, "engine", _hints("engine")),
        runtime=convert_table(tables.get("runtime", {}), RuntimeTable, "runtime", _hints("runtime")),
        cluster=_cluster(tables),
        edges={name: dict(table) for name, table in tables.items() if name not in TABLES},
    )
    _check_memory(topology.engine.memory, tables.get("engine", {}))
    if topology.engine.speculation.min_speculation > topology.engine.speculation.max_speculation:
        raise TopologyError("engine.min-speculation", "is more than max-speculation")
    _check_layers(stages)
    for index, stage in enumerate(stages):
        _check_stage(stage, f"stage[{index}]", topology)
    return topology


def _cluster(tables: Mapping[str, Any]) -> ClusterTable | None:
    if "cluster" not in tables:
        return None

    table = convert_table(tables["cluster"], ClusterTable, "cluster", _hints("cluster"))
    try:
        ipaddress.IPv4Address(table.listen)
    except ValueError:
        raise TopologyError("cluster.listen", "must be an IPv4 address, such as 192.168.1.5 or 0.0.0.0") from None
    return table


def _hints(table: str) -> dict[str, str]:
    """Keys that stand in another table, and keys that will never exist."""
    hints = {
        field.encode_name: f"this key belongs to [{other}]" if other != "stage" else "this key belongs to [[stage]]"
        for other, kinds in TABLES.items()
        if other != table
        for kind in kinds
        for field in msgspec.structs.fields(kind)
    }
    hints["trust-remote-code"] = "histrio never runs code that comes with a model, so this cannot be switched on"
    return hints


def _check_top_level(tables: Mapping[str, Any]) -> None:
    known = ", ".join(TABLES)
    for name, table in tables.items():
        if name == "stage":
            if not isinstance(table, list):
                raise TopologyError("stage", "stages are a list: write [[stage]] with double brackets")
            if not table:
                raise TopologyError("stage", "at least one stage is needed, or no `stage` key at all")
        elif isinstance(table, list) and closest(name, TABLES) == "stage":
            raise TopologyError(name, "no such table; did you mean [[stage]]?")
        elif isinstance(table, list):
            raise TopologyError(name, f"there is only one: write [{name}] with single brackets")
        elif not isinstance(table, Mapping):
            raise TopologyError(name, f"this key stands outside of a table; tables are {known} and those of services")
    if "model" not in tables:
        raise TopologyError("model", 'the table is missing; the smallest one is [model] with path = "demo"')


def _check_memory(memory: MemorySettings, table: Mapping[str, Any]) -> None:
    if "kvcache-mem-ratio" in table and "kv-cache-memory-fraction" in table:
        raise TopologyError("engine.kv-cache-memory-fraction", "means the same as kvcache-mem-ratio; give one of them")

    total = memory.param_mem_ratio + memory.kv_share
    if total > 1:
        raise TopologyError("engine", f"param-mem-ratio and kvcache-mem-ratio add up to {total:g}, more than 1")


def _check_layers(stages: list[StageTable]) -> None:
    """Ranges are well formed, in order, without gap or overlap; whether they end at the last layer the plan checks."""
    end = 0
    is_named = any(stage.layers is not None for stage in stages)
    for index, stage in enumerate(stages):
        path = f"stage[{index}].layers"
        if stage.layers is None:
            if is_named:
                raise TopologyError(path, "is missing: name the layers of every stage, or of none for an even split")
            continue
        if not _LAYERS.fullmatch(stage.layers):
            raise TopologyError(path, f'must read "FIRST:END" such as "0:12", END exclusive, not {stage.layers[:40]!r}')

        first, last = stage.layer_range or (0, 0)
        if last <= first:
            raise TopologyError(path, f"layers {stage.layers} are none; END is exclusive and must be above FIRST")
        if first < end:
            raise TopologyError(path, f"layers {stage.layers} overlap the stage before, which ends at {end}")
        if first > end:
            raise TopologyError(path, f"layers {stage.layers} leave a gap: layer {end} is on no stage")
        end = last


def _check_stage(stage: StageTable, path: str, topology: Topology) -> None:
    runtime = topology.runtime
    if not is_here(stage.host):
        if topology.cluster is None:
            text = f"{stage.host[:60]} is not this machine: add a table [cluster], which other machines can join"
            raise TopologyError(f"{path}.host", text)
        if runtime.processes == "one":
            raise TopologyError(f"{path}.host", 'is another machine, but [runtime] says processes = "one"')
        if stage.process == "engine":
            raise TopologyError(f"{path}.process", "the engine process is on this machine, and the stage on another")
    if stage.python is not None and stage.process == "engine":
        raise TopologyError(f"{path}.python", 'needs a process of its own: remove process = "engine"')
    if runtime.processes == "one" and stage.wants_own_process:
        key = "process" if stage.process == "own" else "python"
        raise TopologyError(f"{path}.{key}", 'needs a process of its own, but [runtime] says processes = "one"')


def is_here(host: str) -> bool:
    """Whether a stage's `host` means the machine of the front."""
    return host in (THIS_HOST, *_LOCAL)
