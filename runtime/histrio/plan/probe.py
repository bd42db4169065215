"""Ask a stage's backend, here or in another interpreter: `PYTHON -m histrio.plan.probe BACKEND [SPEC]`.

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
from histrio.kit.memory import memory_bytes
from histrio.messages import StageAnswer
from histrio.plugins.asked import asked
from histrio.plugins.registry import Plugins, installed_plugins

__all__ = ["ask_here", "ask_in", "main", "traits_in"]

_TIMEOUT_S = 180.0
"""Importing a large engine from a cold disk takes a minute."""


class _Answer(msgspec.Struct, frozen=True):
    """What was asked for, or the error that prevented it."""

    traits: Traits | None = None
    machine: Probe | None = None
    model: Probe | None = None
    device: str = ""
    error: str = ""


def traits_in(python: str, backend: str) -> Traits:
    """What kind of backend `backend` is in the environment of `python`. Raises `BackendError`."""
    answer = _ask(python, backend)
    if answer.traits is None:
        raise BackendError(f"{python}: {answer.error}")
    return answer.traits


def ask_here(stage: int, backend: str, spec: StageSpec, plugins: Plugins) -> StageAnswer:
    """What `backend` says of the machine and of the placement, in this process; may import array libraries."""
    try:
        factory = plugins.backends.get(backend)
        spec = with_options(spec, factory, "options")
        machine = asked("probe", factory.probe)
        device = _find_device(spec.device, machine.devices)
        if not machine.available or not device:
            return StageAnswer(stage, machine)
        spec = msgspec.structs.replace(spec, device=device)
        model = asked("supports", lambda: factory.supports(spec))
        if device == "cpu" and model.device_bytes is None:
            model = msgspec.structs.replace(model, device_bytes=memory_bytes())
        return StageAnswer(stage, machine, model, device)
    except HistrioError as error:
        return StageAnswer(stage, error=str(error))


def ask_in(python: str, stage: int, backend: str, spec: StageSpec) -> StageAnswer:
    """The same in the environment of `python`, in a process of its own. Raises `BackendError` where it cannot be
    asked."""
    answer = _ask(python, backend, msgspec.json.encode(spec).decode())
    return StageAnswer(stage, answer.machine, answer.model, answer.device, answer.error)


def main(argv: list[str]) -> None:
    """Print the answer of this interpreter."""
    backend, *placement = argv
    try:
        plugins = installed_plugins()
        answer = _Answer(plugins.backends.get(backend).traits)
        if placement:
            said = ask_here(0, backend, msgspec.json.decode(placement[0], type=StageSpec), plugins)
            answer = _Answer(answer.traits, said.machine, said.model, said.device, said.error)
    except HistrioError as error:
        answer = _Answer(error=str(error))
    print(msgspec.json.encode(answer).decode())


def _find_device(name: str, devices: list[str]) -> str:
    """What a topology's `device` means among those that a backend sees, the best first; empty for none of them."""
    if not devices or name in devices:
        return name
    if name == "auto":
        return devices[0]
    return next((device for device in devices if device.partition(":")[0] == name), "")


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
