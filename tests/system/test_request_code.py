"""A process that was killed inside code that works for single requests is told from one that was killed elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from histrio.system.request_code import ended_inside

CHILD = """
import os, signal, sys
from pathlib import Path
from histrio.system.request_code import RequestCode, mark_in
mark_in(Path(sys.argv[1]))
with RequestCode():
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_where_a_process_was_killed_outlives_it(where: str, tmp_path: Path) -> None:
    file = tmp_path / "engine.1.mark"
    child = subprocess.run([sys.executable, "-c", CHILD, str(file), where], env=dict(os.environ), timeout=15)

    assert child.returncode == -signal.SIGKILL
    assert ended_inside(file) == (where == "inside")
    assert not file.exists()


def test_a_process_that_left_no_mark_ended_elsewhere(tmp_path: Path) -> None:
    assert not ended_inside(tmp_path / "nothing.mark")
