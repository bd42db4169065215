"""The command `histrio`: one word per thing to do, each brought by a distribution.

A command that cannot be loaded is listed with its reason, and does not keep the others from working.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from histrio import __version__
from histrio.contracts.command import COMMANDS, Command
from histrio.errors import HistrioError, PluginError, TopologyError

__all__ = ["PROGRAM", "main"]

PROGRAM = "histrio"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 2 for what the person got wrong, 1 for what the machine refuses."""
    commands = _installed_commands()
    options = _parser(commands).parse_args(argv)
    command = commands[options.command]
    try:
        return command.run(options)
    except HistrioError as error:
        print(f"{PROGRAM} {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, TopologyError | PluginError) else 1
    except KeyboardInterrupt:
        return 130


class _Unusable:
    """Stands for a command that cannot be loaded."""

    def __init__(self, reason: Exception) -> None:
        self.help = f"cannot be loaded: {type(reason).__name__}"
        self._reason = reason

    def add_arguments(self, parser: ArgumentParser) -> None:
        """None; whatever is given is taken."""
        parser.add_argument("rest", nargs="*")

    def run(self, options: Namespace) -> int:
        """Say why not."""
        raise PluginError(f"the command cannot be loaded: {self._reason}") from self._reason


def _installed_commands() -> Mapping[str, Command]:
    """By their words, in order."""
    found: dict[str, Command] = {}
    for entry in sorted(entry_points(group=COMMANDS)):
        try:
            found[entry.name] = entry.load()
        except Exception as error:
            found[entry.name] = _Unusable(error)
    return found


def _parser(commands: Mapping[str, Command]) -> ArgumentParser:
    parser = ArgumentParser(prog=PROGRAM, description="Tools around a histrio server; rt-launch starts one.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    words = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for word, command in commands.items():
        command.add_arguments(words.add_parser(word, help=command.help, description=command.help))
    return parser
