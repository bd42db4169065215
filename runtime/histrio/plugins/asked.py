"""Questions to plugins before anything starts: one that raises, or answers nonsense, has said no and why."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from histrio.contracts.backend import Probe
from histrio.errors import HistrioError
from histrio.plugins.hook_calls import one_line

__all__ = ["asked"]


def asked(question: str, ask: Callable[[], object]) -> Probe:
    """The answer to a plugin's `probe` or `supports`. Raises what a plugin raises on purpose: a `HistrioError`."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may carry the answer of this process
            answer = ask()
    except (HistrioError, KeyboardInterrupt):
        raise
    except BaseException as error:
        return Probe(False, f"its {question} raised {one_line(error)}", "tell the plugin's authors, or uninstall it")
    if not isinstance(answer, Probe):
        name = type(answer).__name__
        return Probe(
            False, f"its {question} answered a {name} and no histrio.contracts.backend.Probe", "tell its authors"
        )
    return answer
