"""The hooks that watch, called on a thread of their own: what a plugin does in them delays no request.

Facts are told in order and wait in a queue of bounded length; what does not fit is dropped and counted. An
implementation that raises is logged once, by its plugin's name, and not called again.
"""

from __future__ import annotations

import logging
import math
import queue
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from histrio.plugins.hook_calls import Implementation

__all__ = ["MAX_WAITING", "Watchers"]

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Facts that wait to be told; further ones are dropped."""
_METRIC = re.compile(r"[a-z_][a-z0-9_]*(\{[a-z_][a-z0-9_]*=\"[^\"\\\n]*\"(,[a-z_][a-z0-9_]*=\"[^\"\\\n]*\")*\})?")
_MAX_METRICS = 1000
"""Numbers that one plugin may add to /metrics."""


class Watchers:
    """All hooks that watch. Made and told by one thread; without implementations it does nothing."""

    def __init__(self, implementations: Sequence[Implementation] = (), max_waiting: int = MAX_WAITING) -> None:
        self._implementations = {hook: [each for each in implementations if each.hook == hook] for hook in _HOOKS}
        self._waiting: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(max_waiting)
        self._thread: threading.Thread | None = None
        self._numbers: dict[str, dict[str, float]] = {}
        self.metrics: Mapping[str, float] = {}
        """What plugins answered for `/metrics`, by name and labels; replaced as a whole."""
        self.num_dropped = 0

    def wants(self, hook: str) -> bool:
        """Whether any plugin implements the hook."""
        return bool(self._implementations[hook])

    def tell(self, hook: str, **facts: Any) -> None:
        """Have every implementation of the hook called, soon."""
        if not self._implementations[hook]:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watchers", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((hook, facts))
        except queue.Full:
            if self.num_dropped == 0:
                log.warning("plugins are slower in their hooks than things happen; some will not be told")
            self.num_dropped += 1

    def close(self, grace_s: float) -> None:
        """Tell what waits, for so long at most."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=grace_s)
        except queue.Full:
            return
        self._thread.join(grace_s)

    def _run(self) -> None:
        while (fact := self._waiting.get()) is not None:
            hook, facts = fact
            for implementation in list(self._implementations[hook]):
                self._call(implementation, facts)

    def _call(self, implementation: Implementation, facts: dict[str, Any]) -> None:
        try:
            answer = implementation.call(facts)
            if implementation.hook == "on_interval":
                self._take(implementation.owner, answer)
        except BaseException:
            self._implementations[implementation.hook].remove(implementation)
            text = "the plugin %s failed in its hook %s, which is not called again"
            log.exception(text, implementation.owner, implementation.hook)

    def _take(self, owner: str, answer: object) -> None:
        """A plugin's numbers take the place of those before. Raises `ValueError` for what cannot be shown."""
        numbers = {} if answer is None else _checked(answer, owner)
        self._numbers[owner] = numbers
        self.metrics = {name: value for each in self._numbers.values() for name, value in each.items()}


_HOOKS = ("on_request_finished", "on_interval", "on_actor_failed")


def _checked(answer: object, owner: str) -> dict[str, float]:
    if not isinstance(answer, Mapping):
        raise ValueError("on_interval must answer numbers by name, or None")
    if len(answer) > _MAX_METRICS:
        raise ValueError(f"on_interval answered {len(answer)} numbers; {_MAX_METRICS} are shown at most")

    plugin = re.sub(r"[^A-Za-z0-9_.-]", "", owner.partition(" ")[0])
    return {_labelled(name, plugin): _number(name, value) for name, value in answer.items()}


def _labelled(name: object, plugin: str) -> str:
    """`plugin_NAME{plugin="…", …}`: no name of the core's, nor of another plugin's."""
    if not isinstance(name, str) or not _METRIC.fullmatch(name):
        raise ValueError('names of numbers must read like my_number or my_number{label="text"}')
    family, _, labels = name.partition("{")
    return f'plugin_{family}{{plugin="{plugin}"{"," + labels if labels else "}"}'


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the value of {name} must be a finite number")
    return value
