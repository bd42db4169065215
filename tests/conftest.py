"""What holds for all tests: shared cores, and patience with the first import of torch and transformers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# Tests share their cores with each other's processes: waiting OpenMP threads sleep, here and in every child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says something of the machine, and nothing of what is tested.
# The environment of SGLang has no hypothesis.
if find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    # The same examples in each run: a gate that draws anew fails for what was there before the change.
    settings.register_profile("histrio", settings.get_profile("search"), derandomize=True)
    settings.load_profile("histrio")

_IMPORTS_TRANSFORMERS = (
    "torch_backend",
    "cpu_backend",
    "mlx_backend",
    "sglang_backend",
    "demo",
    "test_chat_templates_oracle",
    "samplers",
)
_COLD_IMPORT_TIMEOUT_S = 120


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test calls sets up the logs of its process, which is that of all tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--thorough`."""
    parser.addoption(
        "--thorough", action="store_true", help="run the tests marked thorough, too: more of the same kind"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is thorough unless it is asked for, and gives time to the first import of large libraries.

    The first of these tests waits until a cold disk has read a gigabyte of libraries.
    """
    if not config.getoption("--thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    for item in items:
        is_slow = any(part in item.nodeid for part in _IMPORTS_TRANSFORMERS)
        if is_slow and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_COLD_IMPORT_TIMEOUT_S))
