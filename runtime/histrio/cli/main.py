"""The command `rt-launch`: from a topology file, or a few options, to a running service.

What a person got wrong is one line on stderr and exit code 2; what the world refuses (no such model, no memory) is one
line and exit code 1. Tracebacks are for bugs.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histrio.cli.options import Options, parse_options
from histrio.config.tables import convert_table
from histrio.config.topology import RuntimeTable, Topology, parse_tables, read_file, read_tables
from histrio.errors import HistrioError, PluginError, TopologyError
from histrio.processes.early import early_engine
from histrio.processes.logs import set_up_logs

if TYPE_CHECKING:
    from histrio.plan.plans import Plan
    from histrio.plugins.registry import Plugins

__all__ = ["main"]

PROGRAM = "rt-launch"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse_options(sys.argv[1:] if argv is None else argv)
    try:
        return _run(options)
    except HistrioError as error:
        print(f"{PROGRAM}: {_sentence(options, error)}", file=sys.stderr)
        return 2 if isinstance(error, TopologyError | PluginError) else 1
    except MemoryError:
        print(f"{PROGRAM}: there is not enough memory; raise its limit (ulimit -v, the container's)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: Options) -> int:
    from histrio.plugins.sources import name_plugins

    if options.is_plugins:
        from histrio.cli.plugin_report import describe_plugins
        from histrio.plugins.registry import installed_plugins

        name_plugins(_named_plugins(options))
        print(describe_plugins(installed_plugins()))
        return 0

    topology = _topology(options)
    set_up_logs("front", log_format=topology.runtime.log_format, level=topology.runtime.log_level)
    name_plugins(topology.runtime.plugins)
    if options.is_check:
        return _serve(topology, options, None)
    with early_engine(topology) as early:
        return _serve(topology, options, early)


def _serve(topology: Topology, options: Options, early: subprocess.Popen[bytes] | None) -> int:
    """Resolve the topology, and carry it out or describe it."""
    from histrio.cli.plugin_report import plugin_sentences
    from histrio.plan.resolve import resolve
    from histrio.plugins.registry import installed_plugins

    plugins = installed_plugins()
    for failed in plugins.failed:
        if failed.is_named:
            raise TopologyError("runtime.plugins", f"{failed.name} cannot be loaded: {failed.reason}")
    for sentence in plugin_sentences(plugins):
        logging.getLogger(__name__).warning("%s", sentence)
    plan = resolve(topology, plugins, is_check=options.is_check)
    try:
        return _carry_out(plan, plugins, options, early)
    except TopologyError as error:
        print(f"{PROGRAM}: {_sentence(options, error)}", file=sys.stderr)
        return 1


def _carry_out(plan: Plan, plugins: Plugins, options: Options, early: subprocess.Popen[bytes] | None) -> int:
    """From here on it is the world that refuses: a device that is not here, a port that another program has."""
    from histrio.plan.placement import ask_backends, settle

    if options.is_check or plan.runtime.processes == "one":  # otherwise each stage's process is asked
        plan = plan.placed(settle(plan, ask_backends(plan, plugins)))
    if options.is_check:
        from histrio.cli.report import describe_plan

        print(describe_plan(plan))
        return 0

    from histrio.processes.root import run

    return run(plan, early)


def _topology(options: Options) -> Topology:
    """The file, if there is one, with the options laid over it."""
    if options.file is None and "path" not in options.tables.get("model", {}):
        raise TopologyError("", f"name a topology file, or a model: {PROGRAM} --model demo (more with --help)")

    tables: dict[str, Any] = {}
    if options.file is not None:
        file = Path(options.file)
        if not file.exists() and file.suffix != ".toml":
            raise TopologyError("", f"there is no such file; for a model write {PROGRAM} --model {options.file}")
        tables = read_tables(read_file(file))
    return parse_tables(options.applied_to(tables))


def _named_plugins(options: Options) -> list[str]:
    """The plugins that options and file name, even where the rest of the file is wrong."""
    tables = {} if options.file is None else read_tables(read_file(Path(options.file)))
    runtime = options.applied_to(tables).get("runtime", {})
    return convert_table(runtime, RuntimeTable, "runtime").plugins


def _sentence(options: Options, error: HistrioError) -> str:
    """The error's text behind the option or the file that is at fault."""
    if not isinstance(error, TopologyError):
        return str(error)

    flag = options.flags.get(re.sub(r"^stage\[\d+\]", "stage", error.path))
    if flag is not None:
        return f"{flag}: {str(error).removeprefix(f'{error.path}: ')}"
    return f"{options.file}: {error}" if options.file is not None else str(error)
