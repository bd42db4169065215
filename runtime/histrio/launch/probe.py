"""Ask another interpreter what its backends can do: `PYTHON -m histrio.launch.probe BACKEND FOLDER FIRST END`.

A stage may run in a virtual environment of its own, whose plugins this process cannot import. The answer is one line of
JSON on stdout: two probes, of the machine and of the layer range.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from histrio.backend import Probe, StageSpec
from histrio.errors import BackendError, HistrioError
from histrio.plugins import installed_plugins

__all__ = ["main", "probe_in"]

_TIMEOUT_S = 180.0
"""Importing a large engine from a cold disk takes a minute."""


class _Answer(msgspec.Struct, frozen=True):
    """Both probes, or the error that prevented them."""

    machine: Probe | None = None
    model: Probe | None = None
    error: str = ""


def probe_in(python: str, backend: str, spec: StageSpec) -> tuple[Probe, Probe]:
    """What `backend` says in the environment of `python`. Raises `BackendError`."""
    command = [python, "-m", "histrio.launch.probe", backend, spec.model, str(spec.first_layer), str(spec.last_layer)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BackendError(f"{python} did not say within {_TIMEOUT_S:g} s what its backends can do") from None
    except OSError as error:
        raise BackendError(f"{python} cannot be started: {error.strerror}") from None

    try:
        answer = msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=_Answer)
    except msgspec.DecodeError:
        last = (done.stderr.strip().splitlines() or ["it ended without an answer"])[-1][:200]
        raise BackendError(f"{python} has no working histrio: {last}") from None
    if answer.machine is None or answer.model is None:
        raise BackendError(f"{python}: {answer.error}")
    return answer.machine, answer.model


def main(argv: list[str]) -> None:
    """Print the answer of this interpreter."""
    backend, folder, first, end = argv
    try:
        factory = installed_plugins().backends.get(backend)
        machine = factory.probe()
        model = factory.supports(folder, int(first), int(end)) if machine.available else machine
        answer = _Answer(machine, model)
    except HistrioError as error:
        answer = _Answer(error=str(error))
    print(msgspec.json.encode(answer).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
