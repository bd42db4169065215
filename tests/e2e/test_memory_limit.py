"""A start that the limit of its address space does not allow is one sentence."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from histrio.testing.toy import write_toy_model

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold such a limit")
def test_a_start_without_memory_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy")
    command = [sys.executable, "-m", "histrio.cli", "--model", str(model), "--backend", "toy", "--port", "0"]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (200 * 10**6, 200 * 10**6)),
    )
    assert ran.stderr == "rt-launch: there is not enough memory; raise its limit (ulimit -v, the container's)\n"
    assert ran.returncode == 1
