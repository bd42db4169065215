"""The short options of `rt-launch` that the CPU backend has, and how others refuse them."""

from __future__ import annotations

import pytest

from histrio.cli.main import main
from histrio.plan import choose


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--backend", "torch", "--arch", "avx2"], "--arch: the backend 'torch' has no such option, nor any other"),
        (
            ["--backend", "torch", "--no-flash-attention"],
            "--no-flash-attention: the backend 'torch' has no such option",
        ),
        (
            ["--backend", "torch", "--precision", "memory"],
            "--precision: the backend 'torch' of stage[0] does not round",
        ),
        (["--arch", "sse2"], "--arch: must be one of amx, auto, avx2"),
        (["--flash-tile-size", "100"], "--flash-tile-size: must be an integer that's a multiple of 64, not 100"),
        (["--numa", "sideways"], "--numa: must be one of distribute, off, not 'sideways'"),
        (["--backend", "cpu", "--numa", "1000"], "there is no NUMA node 1000; this machine has 0"),
    ],
)
def test_what_a_real_backend_cannot_honour_is_refused_by_name(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "find_accelerator", lambda: "")
    assert main(["--model", "demo", "--check", *argv]) != 0
    assert text in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--precision", "full"], ["cpu", "float32", "number format auto"]),
        (["--precision", "balanced"], ["cpu", "bfloat16", "number format auto"]),
        (["--precision", "memory"], ["cpu", "bfloat16", "number format int8"]),
        (["--backend", "torch", "--precision", "balanced"], ["torch", "bfloat16", "number format auto"]),
        (["--arch", "plain", "--numa", "off", "--flash-tile-size", "128", "--no-flash-attention"], ["cpu", "float32"]),
        (["--kv-cache-dtype", "int8"], ["cpu", "number format int8"]),
    ],
)
def test_a_check_shows_what_they_mean(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "find_accelerator", lambda: "")
    assert main(["--model", "demo", "--check", *argv]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words), said
