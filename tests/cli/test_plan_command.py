from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from histrio.cli.commands import main


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["plan", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_each_machine_gets_its_layers(said: Any) -> None:
    code, out, _ = said(
        "-m", "demo", "--machine", "den=1GiB,40GB/s", "--machine", "studio=2GiB,40GB/s", "--replicas", "1"
    )
    assert code == 0
    assert "den " in out
    assert "studio " in out
    assert "layers 0:" in out
    assert ":6 " in out, "the demo has six layers"
    assert "tokens/s" in out


def test_what_does_not_fit_is_said_with_the_bytes(said: Any) -> None:
    code, out, err = said("-m", "demo", "--machine", "den=0.001GiB,40GB/s")
    assert (code, out) == (1, "")
    assert "are missing; add a machine" in err


@pytest.mark.parametrize("machine", ["den", "den=16", "den=16GiB", "=16GiB,1GB/s", "den=-1GiB,5", "den=16GiB,fast"])
def test_a_machine_that_is_not_described_is_told_how(said: Any, machine: str) -> None:
    code, _, err = said("-m", "demo", "--machine", machine)
    assert code == 2
    assert "NAME=16GiB,50GB/s" in err


def test_a_model_that_is_not_there_is_said_plainly(said: Any, tmp_path: Path) -> None:
    code, _, err = said("-m", str(tmp_path / "none"), "--machine", "den=1GiB,40GB/s")
    assert code == 1
    assert str(tmp_path / "none") in err
