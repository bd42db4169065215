"""`histrio hosts`: which machines a head admits, which ask to be, and tokens for those that are to join."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histrio.hosts.folder import host_folder
from histrio.hosts.members import Member, Members
from histrio.net.keys import fingerprint

__all__ = ["COMMAND", "HostsCommand"]


class HostsCommand:
    """Changes the files of a head, which looks at them again."""

    help = "list, accept and remove the machines of this head's cluster, and make tokens"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """A subcommand for each."""
        words = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        _action(words, "list", "show the machines that are admitted, and those that ask to be", _list)
        for name, text, do in (
            ("accept", "admit a machine that asks", _accept),
            ("remove", "take a machine off the list; it is put out within a second", _remove),
        ):
            _action(words, name, text, do).add_argument("machine", help="its name, or its fingerprint")
        token = _action(words, "token", "make a token, with which a machine joins by itself", _token)
        token.add_argument("--minutes", type=float, default=60.0, help="how long it is valid (default: 60)")
        token.add_argument("--reusable", action="store_true", help="any number of machines may use it")

    def run(self, options: Namespace) -> int:
        """Do what the second word says."""
        action: Callable[[Members, Namespace], int] = options.do
        return action(Members(host_folder(options.folder)), options)


COMMAND = HostsCommand()


def _action(words: Any, name: str, text: str, do: Callable[[Members, Namespace], int]) -> ArgumentParser:
    parser: ArgumentParser = words.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--folder", type=Path, help="`folder` of the head's [cluster] (default: the user's configuration folder)"
    )
    parser.set_defaults(do=do)
    return parser


def _list(members: Members, _options: Namespace) -> int:
    for title, found in (("admitted", members.all()), ("asking to join", members.requests())):
        print(f"{title}:" if found else f"{title}: none")
        for member in found:
            print("  " + _line(member))
    return 0


def _accept(members: Members, options: Namespace) -> int:
    print(f"admitted {_line(members.accept(options.machine))}", file=sys.stderr)
    return 0


def _remove(members: Members, options: Namespace) -> int:
    print(f"removed {_line(members.remove(options.machine))}", file=sys.stderr)
    return 0


def _token(members: Members, options: Namespace) -> int:
    print(members.make_token(valid_s=60.0 * options.minutes, is_reusable=options.reusable))
    return 0


def _line(member: Member) -> str:
    return "  ".join(part for part in (member.name, fingerprint(member.peer_id), member.address) if part)
