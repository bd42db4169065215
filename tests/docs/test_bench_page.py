"""bench/README.md has a line for every benchmark, and `make bench` finds them all."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_benchmark_has_its_line() -> None:
    page = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(bench_\w+\.py)` \| .+ \|$", page, re.MULTILINE))
    existing = {file.name for file in (ROOT / "bench").glob("*.py") if file.name != "conftest.py"}

    assert listed == existing
    assert all(name.startswith("bench_") for name in existing), "make bench looks for bench_*.py"
