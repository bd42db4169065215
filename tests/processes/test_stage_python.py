"""A stage's own interpreter is asked what its backends can do."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from histrio.contracts.backend import Capability, Probe, StageSpec, Traits
from histrio.errors import BackendError
from histrio.plan.probe import ask_in, traits_in


def script(folder: Path, body: str) -> str:
    """An executable that stands in for an interpreter."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


def spec(folder: Path) -> StageSpec:
    return StageSpec(model=str(folder), first_layer=1, last_layer=3, num_layers=6)


def test_the_answer_of_another_interpreter_is_understood(tmp_path: Path) -> None:
    answer = '{"machine": {"available": true, "devices": ["x:0"]}, "model": {"available": false, "reason": "too new"}}'
    python = script(tmp_path, f"echo noise; echo '{answer}'")
    said = ask_in(python, 1, "torch", spec(tmp_path))
    assert said.machine == Probe(available=True, devices=["x:0"])
    assert said.model == Probe(available=False, reason="too new")


def test_traits_are_asked_for_without_a_placement(tmp_path: Path) -> None:
    answer = '{"traits": {"contract": 1, "level": "engine", "capabilities": ["own_process"]}}'
    python = script(tmp_path, f"""echo "$@" > "$(dirname "$0")/asked"; echo '{answer}'""")
    assert traits_in(python, "far") == Traits(contract=1, level="engine", capabilities=[Capability.OWN_PROCESS])
    assert (tmp_path / "asked").read_text().strip() == "-m histrio.plan.probe far"


def test_this_interpreter_tells_the_traits_of_its_backends() -> None:
    assert traits_in(sys.executable, "toy-engine").level == "engine"
    assert traits_in(sys.executable, "toy").level == "stage"
    with pytest.raises(BackendError, match="there is no backend 'nothing'"):
        traits_in(sys.executable, "nothing")


def test_the_question_names_backend_and_placement(tmp_path: Path) -> None:
    python = script(tmp_path, 'echo "$@" > "$(dirname "$0")/asked"; exit 1')
    with pytest.raises(BackendError):
        ask_in(python, 0, "torch", spec(tmp_path))
    *words, asked = (tmp_path / "asked").read_text().split()
    assert words == ["-m", "histrio.plan.probe", "torch"]
    assert msgspec.json.decode(asked, type=StageSpec) == spec(tmp_path)


def test_this_interpreter_answers_for_an_unknown_backend(tmp_path: Path) -> None:
    assert "there is no backend 'nothing'" in ask_in(sys.executable, 0, "nothing", spec(tmp_path)).error


def test_an_interpreter_without_histrio_is_named_with_its_last_words(tmp_path: Path) -> None:
    python = script(tmp_path, "echo 'first' >&2; echo 'No module named histrio' >&2; exit 1")
    with pytest.raises(BackendError, match="has no working histrio: No module named histrio"):
        ask_in(python, 0, "torch", spec(tmp_path))


def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot be started: No such file"):
        ask_in(str(tmp_path / "none"), 0, "torch", spec(tmp_path))
