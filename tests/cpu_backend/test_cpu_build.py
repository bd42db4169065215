"""Building the library: which compiler, when, and what is said where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from histrio_cpu import build as builder

SOURCE = 'extern "C" int hc_abi(void) { return 1; }\n'


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own with one source, instead of the real one."""
    package = tmp_path / "package"
    (package / "native").mkdir(parents=True)
    (package / "native" / "abi.cpp").write_text(SOURCE)
    monkeypatch.setattr(builder, "_PACKAGE", package)
    monkeypatch.setattr(builder, "LIBRARY", package / builder.LIBRARY.name)
    return package / "native"


def test_the_library_is_built_once_and_again_when_a_source_changes(sources: Path) -> None:
    library = builder.build()
    first = library.stat().st_mtime_ns
    assert builder.build().stat().st_mtime_ns == first

    later = library.stat().st_mtime + 5
    os.utime(sources / "abi.cpp", (later, later))
    assert not builder.is_fresh()
    assert builder.build().stat().st_mtime_ns != first
    assert {file.name for file in library.parent.iterdir()} == {"native", library.name}


def test_without_a_compiler_the_remedy_is_named(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builder, "compilers", list)
    with pytest.raises(builder.CannotBuild, match=r"no C\+\+ compiler.*pip install ziglang"):
        builder.build()

    monkeypatch.setattr(sys, "argv", ["build"])
    assert builder.main() == 1
    assert "pip install ziglang" in capsys.readouterr().err
    assert not builder.LIBRARY.exists()


def test_a_compiler_that_fails_is_followed_by_the_next(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = builder.compilers()[0]
    monkeypatch.setattr(builder, "compilers", lambda: [["false"], working])
    assert builder.build().exists()

    (sources / "abi.cpp").write_text("no C++ at all")
    with pytest.raises(builder.CannotBuild, match=r"abi\.cpp"):
        builder.build(is_forced=True)


def test_a_compiler_that_is_named_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "mine"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    monkeypatch.setenv("CXX", f"{named} -m64")
    assert builder.compilers()[0] == [str(named), "-m64"]

    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    assert str(named) not in builder.compilers()[0]


def test_files_of_other_processors_are_left_out(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kernels_avx2.cpp", "kernels_neon.cpp"):
        (sources / name).write_text(SOURCE)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert {file.name for file in builder.sources()} == {"abi.cpp", "kernels_avx2.cpp"}
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert {file.name for file in builder.sources()} == {"abi.cpp", "kernels_neon.cpp"}
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert {file.name for file in builder.sources()} == {"abi.cpp"}


def test_no_flag_binds_the_library_to_this_machine() -> None:
    flags = {flag for each in builder.sources().values() for flag in each} | set(builder._FLAGS)
    assert not flags & {"-march=native", "-mcpu=native", "-ffast-math", "-Ofast"}
    assert "-ffp-contract=off" in flags
