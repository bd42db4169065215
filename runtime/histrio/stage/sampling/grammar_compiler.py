"""Grammars of one last stage become matchers here, beside its steps: no step waits for a compiler.

compiler.open_all()                    while the stage is idle: reading a vocabulary may take seconds
compiler.prepare(request, …, done)     a request is about to enter; it enters when `done` has been called
compiler.take(request, …)              it enters, and takes its matcher
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from histrio.contracts.grammar import GrammarBackend, GrammarKinds, Matcher, Vocabulary, VocabularySpec
from histrio.errors import HistrioError
from histrio.messages import GrammarSpec

__all__ = ["Compiled", "GrammarCompiler"]

log = logging.getLogger(__name__)

MAX_PREPARED = 512
"""Matchers that wait for their requests. A request that was cancelled never takes its own."""
_NICENESS = 5
"""Compiling has a lower priority than the model, where the system lets threads differ."""


class Compiled(NamedTuple):
    """A matcher behind the tokens that were delivered, and the vocabulary that fills its masks."""

    vocabulary: Vocabulary
    matcher: Matcher


class GrammarCompiler:
    """Vocabularies, and a thread that compiles one grammar after the other. Its methods are one thread's."""

    def __init__(self, kinds: GrammarKinds, tokens: VocabularySpec) -> None:
        self._kinds = kinds
        self._tokens = tokens
        self._vocabularies: dict[str, Vocabulary] = {}
        self._opens_all = False
        self._prepared: OrderedDict[int, Future[Compiled]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar-compiler", initializer=_lower_priority)

    def open_all(self) -> None:
        """Read every backend's vocabulary, unless that has begun. Reading may hold the interpreter's lock, so call it
        when no step waits; a start does not wait for it. One that cannot be read fails the requests that need it only.
        """
        if not self._opens_all:
            self._opens_all = True
            self._thread.submit(self._open_all)

    def prepare(self, request: int, grammar: GrammarSpec, output_ids: Sequence[int], done: Callable[[], None]) -> None:
        """Compile; `done` is called on the compiler's thread, whatever came of it. Does not wait."""
        future = self._thread.submit(self._compile, grammar, list(output_ids))
        self._prepared[request] = future
        if len(self._prepared) > MAX_PREPARED:
            self._prepared.popitem(last=False)
        future.add_done_callback(lambda future: None if future.cancelled() else done())

    def take(self, request: int, grammar: GrammarSpec, output_ids: Sequence[int]) -> Future[Compiled]:
        """The request's matcher; one that was not prepared is compiled now. Does not wait."""
        prepared = self._prepared.pop(request, None)
        return prepared or self._thread.submit(self._compile, grammar, list(output_ids))

    def forget(self) -> None:
        """No request that was prepared will come."""
        self._prepared.clear()

    def shutdown(self) -> None:
        """End the thread. Safe to call twice."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _open_all(self) -> None:
        for backend in self._kinds.backends:
            try:
                self._vocabulary(backend)
            except HistrioError as error:
                log.info("no grammars by %r: %s", backend.name, error)
            except (Exception, SystemExit):
                log.exception("the grammar backend %r failed when it opened", backend.name)

    def _compile(self, grammar: GrammarSpec, output_ids: list[int]) -> Compiled:
        vocabulary = self._vocabulary(self._kinds.backend(grammar))
        matcher = vocabulary.matcher(grammar)
        matcher.advance(output_ids)
        return Compiled(vocabulary, matcher)

    def _vocabulary(self, backend: GrammarBackend) -> Vocabulary:
        if backend.name not in self._vocabularies:
            self._vocabularies[backend.name] = backend.open(self._tokens)
        return self._vocabularies[backend.name]


def _lower_priority() -> None:
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
