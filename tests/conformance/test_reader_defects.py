"""The kit's laws of models that read whole texts: each finds a defect, and none is found in the backend without one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.conformance.kit_runs import KitRuns, failures, names

pytestmark = [
    pytest.mark.slow_start,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
]
READERS = ("--backend-model", "bert", "--backend-model", "bert_pairs")


@pytest.fixture(scope="module")
def runs() -> Iterator[KitRuns]:
    with KitRuns() as running:
        yield running


def test_each_law_of_whole_texts_finds_a_defect(runs: KitRuns) -> None:
    from tests.conformance.broken_reader import READER_DEFECTS

    healthy = runs.run("torch", *READERS, module="test_stage_texts")
    assert failures(healthy) == set()
    assert names(healthy, "passed") == {*READER_DEFECTS.values()}, "a law without a defect"
    for defect, law in READER_DEFECTS.items():
        found = failures(runs.run(f"broken_reader:{defect}", *READERS, module="test_stage_texts"))
        assert law in found, f"{defect} is found by {sorted(found)}"
