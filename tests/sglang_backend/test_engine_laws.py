"""The laws of `laws_of_an_engine.py`, in the environment that has SGLang."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

LAWS = Path(__file__).with_name("laws_of_an_engine.py")
pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]  # SGLang takes ten seconds to import, in each process


def test_an_engine_on_sglang_keeps_all_laws(sglang_python: str) -> None:
    laws = re.findall(r"^def test_\w+", LAWS.read_text(encoding="utf-8"), re.MULTILINE)
    # SGLang and what it imports warn; that is no failure of ours
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    done = subprocess.run(
        [sglang_python, "-m", "pytest", *options, str(LAWS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= len(laws)
    assert "skipped" not in done.stdout
