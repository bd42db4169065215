"""No region of the native library's threads waits for a thread that has lost its core without a task in hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from histrio_cpu.build import compilers, sources

PROGRAM = Path(__file__).parent / "native" / "held_thread.cpp"
FLAGS = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]


@pytest.mark.skipif(sys.platform != "linux", reason="a single thread is held by a signal of Linux")
@pytest.mark.skipif(not compilers(), reason="there is no C++ compiler")
@pytest.mark.timeout(120)
def test_a_held_thread_holds_up_nothing_but_its_task(tmp_path: Path) -> None:
    pool = next(source for source in sources() if source.name == "pool.cpp")
    command = [*compilers()[0], *FLAGS, f"-I{pool.parent}", str(PROGRAM), str(pool), "-o", str(tmp_path / "held")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert built.returncode == 0, built.stderr[-3000:]
    ran = subprocess.run([tmp_path / "held"], capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stdout) == (0, "fine\n"), ran.stderr[-3000:]
