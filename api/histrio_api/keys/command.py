"""`histrio keys`: create, list and revoke the API keys of a key file."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from histrio.errors import TopologyError
from histrio_api.keys.key import ApiKey, hash_of, new_key
from histrio_api.keys.key_file import changing_keys, read_keys

__all__ = ["COMMAND", "KeysCommand"]

_NUMBERS = ("requests-per-minute", "tokens-per-minute", "concurrent-requests", "highest-priority")


class KeysCommand:
    """Its three words."""

    help = "create, list and revoke API keys of a key file"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """A subcommand for each."""
        words = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        create = _action(words, "create", "make a key, show it once, and store its hash", _create)
        _add_name(create)
        create.add_argument("--admin", action="store_true", help="it sees what all keys use, and may change the server")
        create.add_argument("--model", action="append", default=[], help="a model it may use (several times; all)")
        for name in _NUMBERS:
            create.add_argument(f"--{name}", type=int, metavar="N")
        _action(words, "list", "show names and limits; keys themselves are stored nowhere", _list)
        _add_name(_action(words, "revoke", "take a key away; a running server notices within seconds", _revoke))

    def run(self, options: Namespace) -> int:
        """Do what the second word says."""
        action: Callable[[Namespace], int] = options.do
        return action(options)


COMMAND = KeysCommand()


def _action(words: Any, name: str, text: str, do: Callable[[Namespace], int]) -> ArgumentParser:
    parser: ArgumentParser = words.add_parser(name, help=text, description=text)
    parser.add_argument("--file", type=Path, required=True, help="the key file, `key-file` of [api]")
    parser.set_defaults(do=do)
    return parser


def _add_name(parser: ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what the key is called in logs and in the usage")


def _create(options: Namespace) -> int:
    secret = new_key()
    key = _checked(options, hash_of(secret.encode()))
    with changing_keys(options.file) as keys:
        if any(each.name == key.name for each in keys):
            raise TopologyError("", f"{options.file}: there is a key named {key.name}; revoke it, or take another name")
        keys.append(key)
    print(f"the key {key.name} is in {options.file}; this is the only time that it is shown:", file=sys.stderr)
    print(secret)
    return 0


def _list(options: Namespace) -> int:
    for key in read_keys(options.file):
        print(key.name, *_limits(key), sep="  ")
    return 0


def _revoke(options: Namespace) -> int:
    with changing_keys(options.file) as keys:
        left = [key for key in keys if key.name != options.name]
        if len(left) == len(keys):
            raise TopologyError("", f"{options.file}: there is no key of this name; `histrio keys list` shows them")
        keys[:] = left
    print(f"revoked {options.name}", file=sys.stderr)
    return 0


def _checked(options: Namespace, key_hash: str) -> ApiKey:
    numbers = {name: getattr(options, name.replace("-", "_")) for name in _NUMBERS}
    given = {name: value for name, value in numbers.items() if value is not None}
    fields = given | {"name": options.name, "hash": key_hash, "admin": options.admin, "models": options.model}
    try:
        return msgspec.convert(fields, ApiKey)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        raise TopologyError("", f"--{path.rstrip('`')}: {text}") from None


def _limits(key: ApiKey) -> Iterator[str]:
    """What the key has beside its name, as the file says it."""
    if key.admin:
        yield "admin"
    for name, value in msgspec.to_builtins(key).items():
        if name in _NUMBERS and value:
            yield f"{name}={value}"
    if key.models:
        yield f"models={','.join(key.models)}"
