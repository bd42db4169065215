"""Grammar backends that misbehave in trials; the text of a grammar is the path of a folder for what they note down."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from histrio.contracts.grammar import GrammarBackend, Matcher, Vocabulary, VocabularySpec
from histrio.messages import GrammarSpec
from histrio_grammars.backend import Llguidance

__all__ = ["all_backends"]

HUNGRY_BYTES = 256 * 2**20


class Misbehaving(Llguidance):
    """Every kind is a way to misbehave, once the trial has noted that it has begun."""

    name = "misbehaving"
    kinds = ("sleep", "sleep once", "spin", "eat", "raise", "exit")

    def check(self, spec: GrammarSpec) -> tuple[str, ...]:
        """Nothing to see."""
        return ()

    def open(self, spec: VocabularySpec) -> Any:
        """Llguidance's tokens, and other grammars."""
        return Opened(super().open(spec))


class Unopened(Llguidance):
    """One that cannot begin."""

    name = "unopened"
    kinds = ("never",)

    def open(self, spec: VocabularySpec) -> NoReturn:
        """Not an error that histrio knows."""
        raise ValueError("secret of the plugin")


class Opened:
    """The vocabulary of `Misbehaving`."""

    def __init__(self, inner: Vocabulary) -> None:
        self._inner = inner
        self.fill = inner.fill

    def matcher(self, spec: GrammarSpec) -> Matcher:
        """Misbehave; if it comes to an end, any letters."""
        folder = Path(spec.text)
        is_first = not list(folder.glob("began.*"))
        (folder / f"began.{os.getpid()}").touch()
        match spec.kind:
            case "sleep":
                time.sleep(600)
            case "sleep once":
                time.sleep(600 if is_first else 0)
            case "spin":
                while True:
                    pass
            case "eat":
                len(bytearray(HUNGRY_BYTES))
            case "raise":
                raise ValueError("secret of the plugin")
            case "exit":
                os._exit(7)
        return self._inner.matcher(GrammarSpec("regex", "[a-z]+"))


def all_backends() -> Iterable[GrammarBackend]:
    """Those above, and the built-in one."""
    return [Llguidance(), Misbehaving(), Unopened()]
