"""bench/README.md has a line for every benchmark, and `make bench` finds them all."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_benchmark_has_its_line() -> None:
    page = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(bench_\w+\.py)` \| .+ \|$", page, re.MULTILINE))
    existing = {file.name for file in (ROOT / "bench").glob("bench_*.py")}

    assert listed == existing


def test_what_make_bench_does_not_find_is_used_by_what_it_finds() -> None:
    others = {file.stem for file in (ROOT / "bench").glob("*.py") if not file.name.startswith("bench_")}
    text = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "bench").glob("bench_*.py"))

    assert others - {"conftest"} == set(re.findall(r"^from (\w+) import", text, re.MULTILINE)) & others - {"conftest"}
