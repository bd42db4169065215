"""The native library does nothing undefined, reads no memory that is not its own, and its threads don't race."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from histrio_cpu.build import compilers, sources

HAMMER = Path(__file__).parent / "native" / "hammer.cpp"
FLAGS = [
    "-std=c++20",
    "-O1",
    "-g",
    "-w",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-pthread",
    "-fno-sanitize-recover=all",
]

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


def build(folder: Path, sanitizers: str) -> Path:
    """The hammer with the library's sources in it; skips where the compiler has no such sanitizer."""
    compiler, flags = compilers()[0], [*FLAGS, f"-fsanitize={sanitizers}"]
    jobs = [*sources().items(), (HAMMER, (f"-I{next(iter(sources())).parent}",))]

    def compile_one(job: tuple[Path, tuple[str, ...]]) -> str:
        source, own = job
        target = str(folder / f"{source.stem}.o")
        subprocess.run([*compiler, *flags, *own, "-c", str(source), "-o", target], check=True, timeout=300)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, jobs))
    linked = subprocess.run(
        [*compiler, *flags, *objects, "-o", str(folder / "hammer")], capture_output=True, timeout=60
    )
    if linked.returncode != 0:
        pytest.skip(f"the compiler cannot link -fsanitize={sanitizers}: {linked.stderr.decode()[-300:]}")
    return folder / "hammer"


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing_but_a_planted_mistake(sanitizers: str, tmp_path: Path) -> None:
    hammer = build(tmp_path, sanitizers)
    found = subprocess.run([hammer], capture_output=True, text=True, timeout=500)

    assert (found.returncode, found.stdout) == (0, "fine\n"), found.stderr[-3000:]
    if "address" in sanitizers:
        mistaken = subprocess.run([hammer, "mistake"], capture_output=True, text=True, timeout=60)
        assert mistaken.returncode != 0
        assert "heap-buffer-overflow" in mistaken.stderr, "a control"
