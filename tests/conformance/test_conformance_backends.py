"""The backends that this environment can import pass the kit, on one of its models.

The reports in `docs/conformance/` are of all models and all tests, as `docs/conformance.md` says how to run them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from histrio.testing.encoders import ENCODERS
from tests.conformance.kit_runs import KitRuns, committed, failures, names

MODELS = ["qwen3_tied"]
"""It differs from the plainest in all that the others do, and ties its head."""
ELSEWHERE = "stage_actors_in_two_processes_equal_the_whole"
"""`tests/torch_backend` and `tests/e2e` do the same with workers of their own, which need not import torch again."""
pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(300)]  # a process imports torch, transformers and mlx


@pytest.fixture(scope="module")
def runs() -> Iterator[KitRuns]:
    """One process for all backends, so that their judge is imported once."""
    with KitRuns() as running:
        yield running


@pytest.mark.parametrize(
    ("backend", "modules"), [("torch", ["torch"]), ("cpu", ["histrio_cpu"]), ("mlx", ["mlx.core", "histrio_mlx"])]
)
def test_the_backend_conforms(backend: str, modules: list[str], runs: KitRuns) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed")
    if backend == "cpu":
        _build_library()
    given = [*MODELS, *(ENCODERS if backend == "torch" else [])]
    models = [word for model in given for word in ("--backend-model", model)]
    report = runs.run(backend, *models, "-k", f"not {ELSEWHERE}")

    assert report.models == given
    assert failures(report) == set()
    expected = names(committed(backend), "passed") - {ELSEWHERE}
    assert names(report, "passed") == expected, "write the report in docs/conformance/ anew"


def _build_library() -> None:
    """In place, where it is not fresh."""
    from histrio_cpu.build import CannotBuild, build

    try:
        build()
    except CannotBuild as error:
        pytest.skip(str(error))
