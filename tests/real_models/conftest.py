"""The real models' folders, which `build.py` makes; without them, what needs them is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "HISTRIO_REAL_MODELS"
REMEDY = f"set {VARIABLE} to a folder made by tests/real_models/build.py"


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder that has them."""
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        pytest.skip(f"no real models: {REMEDY}")

    assert Path(folder).is_dir(), f"{VARIABLE} names {folder}, which is not there: {REMEDY}"
    return Path(folder).absolute()
