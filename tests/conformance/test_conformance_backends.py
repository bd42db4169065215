"""The backends that this environment can import pass the kit, on two of its models.

The reports in `docs/conformance/` are of all models; the command there runs them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit_runs import KitRuns, committed, failures, names

MODELS = ["llama", "qwen3_tied"]
"""The second differs from the first in all that the third one does, and ties its head."""
pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]  # five processes import torch or mlx


@pytest.fixture(scope="module")
def runs() -> Iterator[KitRuns]:
    """One process for all backends, so that their judge is imported once."""
    with KitRuns() as running:
        yield running


@pytest.mark.parametrize(("backend", "modules"), [("torch", ["torch"]), ("mlx", ["mlx.core", "histrio_mlx"])])
def test_the_backend_conforms(backend: str, modules: list[str], runs: KitRuns) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed")
    report = runs.run(backend, *(word for model in MODELS for word in ("--backend-model", model)))

    assert report.models == MODELS
    assert failures(report) == set()
    assert names(report, "passed") == names(committed(backend), "passed"), "write the report in docs/conformance/ anew"
