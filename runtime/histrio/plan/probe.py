"""Ask another interpreter about its backends: `PYTHON -m histrio.plan.probe BACKEND [SPEC]`.

A stage may run in a virtual environment of its own, whose plugins this process cannot import. The answer is one line of
JSON on stdout: the backend's traits, and with a placement also two probes, of the machine and of the placement.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from histrio.contracts.backend import Probe, StageSpec, Traits
from histrio.contracts.options import with_options
from histrio.errors import BackendError, HistrioError
from histrio.plugins.asked import asked
from histrio.plugins.registry import installed_plugins

__all__ = ["main", "probe_in", "traits_in"]

_TIMEOUT_S = 180.0
"""Importing a large engine from a cold disk takes a minute."""


class _Answer(msgspec.Struct, frozen=True):
    """What was asked for, or the error that prevented it."""

    traits: Traits | None = None
    machine: Probe | None = None
    model: Probe | None = None
    error: str = ""


def traits_in(python: str, backend: str) -> Traits:
    """What kind of backend `backend` is in the environment of `python`. Raises `BackendError`."""
    answer = _ask(python, backend)
    if answer.traits is None:
        raise BackendError(f"{python}: {answer.error}")
    return answer.traits


def probe_in(python: str, backend: str, spec: StageSpec) -> tuple[Probe, Probe]:
    """What `backend` says of the machine and of the placement in the environment of `python`. Raises `BackendError`."""
    answer = _ask(python, backend, msgspec.json.encode(spec).decode())
    if answer.machine is None or answer.model is None:
        raise BackendError(f"{python}: {answer.error}")
    return answer.machine, answer.model


def main(argv: list[str]) -> None:
    """Print the answer of this interpreter."""
    backend, *placement = argv
    try:
        factory = installed_plugins().backends.get(backend)
        if not placement:
            answer = _Answer(factory.traits)
        else:
            spec = with_options(msgspec.json.decode(placement[0], type=StageSpec), factory, "options")
            machine = asked("probe", factory.probe)
            model = asked("supports", lambda: factory.supports(spec)) if machine.available else machine
            answer = _Answer(factory.traits, machine, model)
    except HistrioError as error:
        answer = _Answer(error=str(error))
    print(msgspec.json.encode(answer).decode())


def _ask(python: str, *arguments: str) -> _Answer:
    command = [python, "-m", "histrio.plan.probe", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BackendError(f"{python} did not say within {_TIMEOUT_S:g} s what its backends can do") from None
    except OSError as error:
        raise BackendError(f"{python} cannot be started: {error.strerror}") from None

    try:
        return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=_Answer)
    except msgspec.DecodeError:
        last = (done.stderr.strip().splitlines() or ["it ended without an answer"])[-1][:200]
        raise BackendError(f"{python} has no working histrio: {last}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
