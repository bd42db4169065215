"""The contract of a subcommand of `histrio`, which a distribution names in the entry point group `histrio.commands`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol

__all__ = ["COMMANDS", "Command"]

COMMANDS = "histrio.commands"
"""The group; the name of an entry point is the word behind `histrio`."""


class Command(Protocol):
    """What stands behind one word, such as `keys` in `histrio keys`."""

    help: str
    """A few words for the list of commands."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say which arguments it takes."""

    def run(self, options: Namespace) -> int:
        """Do it; gives the exit code. Raise `HistrioError` for what a person can mend."""
