"""SGLang runs in an environment of its own, which `build_env.py` makes; without one, what needs it is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "HISTRIO_SGLANG_PYTHON"
REMEDY = f"set {VARIABLE} to the interpreter of an environment that python -m tests.sglang_backend.build_env makes"


@pytest.fixture(scope="session")
def sglang_python() -> str:
    """The interpreter that has SGLang."""
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"no environment with SGLang: {REMEDY}")

    assert Path(python).is_file(), f"{VARIABLE} names {python}, which is not there: {REMEDY}"
    return python
