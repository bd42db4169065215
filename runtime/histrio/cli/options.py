"""The options of `rt-launch`: each names a key of the topology, and wins over the file."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from histrio import __version__
from histrio.cli.flags import Switch, add_flags

__all__ = ["Options", "parse_options"]

_MAX_STAGES = 1024
_BACKEND_FLAGS = (
    *("attention-backend", "moe-runner-backend", "tp-size"),
    *("arch", "numa", "quantization", "flash-tile-size", "flash-attention"),
)
"""Flags that stand for keys of a stage's `options`; a backend refuses those that it does not know."""

_EXAMPLES = """examples:
  rt-launch --model demo                               the small model that ships with histrio, on port 3001
  rt-launch --model ./qwen3-0.6b --port 8000           a folder
  rt-launch --model Qwen/Qwen3-0.6B --dtype bfloat16   a model of the Hugging Face hub
  rt-launch --model ./qwen3-0.6b-q8_0.gguf             a GGUF file; OWNER/NAME:Q4_K_M names one on the hub
  rt-launch two-stages.toml --check                    print the resolved plan and stop
  rt-launch two-stages.toml --log-format json          a file, with one key overridden
  rt-launch --model demo --set engine.max-batch-size=64

docs/topology.md explains every key."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says, as topology tables that are not checked yet."""

    file: str | None = None
    is_check: bool = False
    is_plugins: bool = False
    tables: dict[str, dict[str, Any]] = {}
    """Table → keys that options set; `stage` holds those set on every stage."""
    stages: list[dict[str, Any]] | None = None
    """Stages that options ask for, in place of the file's."""
    backend_options: dict[str, Any] = {}
    """Keys of every stage's `options`, laid over those of the file."""
    flags: dict[str, str] = {}
    """Path of a key in the topology → the option that set it, for messages."""

    def applied_to(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """The tables of a file with the options laid over them; does not modify `tables`."""
        merged = dict(tables)
        for name, keys in self.tables.items():
            if name != "stage":
                merged[name] = _over(merged.get(name, {}), keys)
        stages = merged.get("stage", [{}]) if self.stages is None else self.stages
        if isinstance(stages, list):
            merged["stage"] = [self._stage(stage) for stage in stages]
        if "kvcache-mem-ratio" in self.tables.get("engine", {}):
            merged["engine"].pop("kv-cache-memory-fraction", None)
        return merged

    def _stage(self, stage: Any) -> Any:
        stage = _over(stage, self.tables.get("stage", {}))
        if isinstance(stage, Mapping) and self.backend_options:
            return {**stage, "options": _over(stage.get("options", {}), self.backend_options)}
        return stage


def parse_options(argv: Sequence[str]) -> Options:
    """Read the command line; a mistake, `--help` and `--version` end the program as argparse does."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    tables: dict[str, dict[str, Any]] = {}
    flags: dict[str, str] = {}
    for path, value in given.items():
        table, _, key = path.partition(".")
        if key and value is not None:
            tables.setdefault(table, {})[key] = value
            flags[path] = _flag_of(parser, path)
    if given["plugin"]:
        tables.setdefault("runtime", {})["plugins"] = given["plugin"]
        flags["runtime.plugins"] = "--plugin"
    for text in given["set"]:
        path, value = _assignment(parser, "--set", "TABLE.KEY", text)
        table, _, key = path.partition(".")
        if not key:
            parser.error(f"argument --set: {text!r} is not TABLE.KEY=VALUE")
        tables.setdefault(table, {})[key] = value
        flags[path] = f"--set {path}"
    for key in _BACKEND_FLAGS:
        if given[key] is not None:
            flags[f"stage.options.{key}"] = f"--no-{key}" if given[key] is False else f"--{key}"
    return Options(
        file=given["file"],
        is_check=given["check"],
        is_plugins=given["plugins"],
        tables=tables,
        stages=_stages(parser, given["stages"], given["layers"]),
        backend_options=_backend_options(parser, given),
        flags=flags,
    )


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as the rest of the command does."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _over(table: Any, keys: dict[str, Any]) -> Any:
    """A table with keys replaced; what is no table stays, for the check to refuse it."""
    return {**table, **keys} if isinstance(table, Mapping) else table


def _flag_of(parser: argparse.ArgumentParser, path: str) -> str:
    return next(action.option_strings[0] for action in parser._actions if action.dest == path)


def _assignment(parser: argparse.ArgumentParser, flag: str, name: str, text: str) -> tuple[str, Any]:
    """What stands left and right of the equals sign in an argument of `flag`."""
    key, _, value = text.partition("=")
    if not key.strip() or not value:
        parser.error(f"argument {flag}: {text!r} is not {name}=VALUE")
    return key.strip(), _toml_value(value)


def _backend_options(parser: argparse.ArgumentParser, given: Mapping[str, Any]) -> dict[str, Any]:
    """Backend options from flags of their own, then those from `--backend-option`."""
    options = {key: given[key] for key in _BACKEND_FLAGS if given[key] is not None}
    return options | dict(_assignment(parser, "--backend-option", "KEY", text) for text in given["backend-option"])


def _toml_value(text: str) -> Any:
    """A TOML value; what is none is a string, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _stages(parser: argparse.ArgumentParser, count: int | None, layers: str | None) -> list[dict[str, Any]] | None:
    if count is not None and layers is not None:
        parser.error("argument --stages: not together with --layers, which says how many there are")
    if layers is not None:
        return [{"layers": each.strip()} for each in layers.split(",")]
    if count is not None:
        if not 1 <= count <= _MAX_STAGES:
            parser.error(f"argument --stages: must be 1 to {_MAX_STAGES}")
        return [{} for _ in range(count)]
    return None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rt-launch",
        usage="rt-launch TOPOLOGY.toml [options] | rt-launch --model PATH [options]",
        description="Serve a language model as a topology file says, or by a few options.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("file", nargs="?", metavar="TOPOLOGY.toml", help="Topology file; options win over its keys")
    groups = add_flags(parser)
    _add_stages(groups["stage"])
    _add_processes(groups["runtime"])
    _add_service(parser.add_argument_group("endpoint"))
    _add_others(parser.add_argument_group("every other key"))
    _add_questions(parser.add_argument_group("look, start nothing"))
    return parser


def _add_stages(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--stages", type=int, metavar="N", help="Split the layers evenly into N stages")
    group.add_argument("--layers", metavar="A:B,B:C", help="Split them as given, e.g. 0:12,12:28")
    group.add_argument("--attention-backend", dest="attention-backend", metavar="NAME", help="An option of the backend")
    group.add_argument("--moe-runner-backend", dest="moe-runner-backend", metavar="NAME", help="Likewise")
    group.add_argument("--tp-size", dest="tp-size", type=int, metavar="N", help="Likewise")
    group.add_argument("--arch", metavar="NAME", help="An option of cpu: its kernels")
    group.add_argument("--numa", type=_toml_value, metavar="N|distribute", help="Likewise: its NUMA nodes")
    group.add_argument("--quantization", metavar="q8|q4", help="Likewise: round weights as they load")
    group.add_argument(
        "--flash-tile-size", dest="flash-tile-size", type=int, metavar="N", help="Likewise: tile of keys"
    )
    switches = ("--flash-attention", "--no-flash-attention")
    group.add_argument(*switches, dest="flash-attention", action=Switch, nargs=0, help="Likewise: in tiles or plain")
    group.add_argument(
        "--backend-option",
        dest="backend-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Any other key of every stage's options; a backend refuses those it does not know",
    )


def _add_processes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--one-process", dest="runtime.processes", action="store_const", const="one", help="Short for --processes one"
    )
    group.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="Load a plugin from a Python file, or a module, in every process; may be given several times",
    )


def _add_service(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", dest="api.host", metavar="HOST", help="Address of the endpoint (default: 127.0.0.1)")
    group.add_argument("--port", dest="api.port", type=int, metavar="N", help="Port of the endpoint (default: 3001)")
    group.add_argument("--no-ui", dest="api.ui", action="store_const", const=False, help="Serve no page at /")


def _add_others(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="Any key of a topology; stage.KEY sets it on every stage",
    )


def _add_questions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--check", action="store_true", help="Print the plan that would be started, or what is in the way"
    )
    group.add_argument("--plugins", action="store_true", help="List hooks, backends, samplers and their plugins")
    group.add_argument("--version", action="version", version=f"histrio {__version__}", help="Show the version")
    group.add_argument("-h", "--help", action="help", help="Show this page")
