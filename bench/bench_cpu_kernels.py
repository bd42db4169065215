"""The linears of the native library by format, shape and rows, beside what the processor reads and multiplies.

Prints GB/s of weights and Gop/s with their shares of the two limits, which are measured in the same rounds: a plain
AVX512 read, and vpdpbusd or vdpbf16ps as fast as they issue. One row should be near the first limit, 512 near the
second; matrix units (AMX) go beyond it. Shapes are Qwen3-0.6B's.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from amounts import amount, is_once

from histrio_cpu.build import compilers, sources

PROGRAM = Path(__file__).parent / "native" / "cpu_kernels.cpp"
FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-ffp-contract=off", "-pthread")
FORMATS = ("bf16", "q8_0", "q4_0", "q4", "q4_k", "q6_k")
HEADS = ("format", "outputs", "inputs", "rows", "us", "GB/s", "of read", "Gop/s", "of issue")
LACKS_INSTRUCTIONS = 3
"""Exit status of the program where the limits cannot be measured."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with the library's sources in it."""
    folder, compiler = tmp_path_factory.mktemp("cpu_kernels"), compilers()[0]
    headers = f"-I{next(iter(sources())).parent}"

    def compile_one(job: tuple[Path, tuple[str, ...]]) -> str:
        source, own = job
        target = str(folder / f"{source.stem}.o")
        subprocess.run([*compiler, *FLAGS, *own, headers, "-c", str(source), "-o", target], check=True, timeout=300)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [*sources().items(), (PROGRAM, ())]))
    linked = folder / "cpu_kernels"
    subprocess.run([*compiler, "-pthread", *objects, "-o", str(linked)], check=True, timeout=60)
    return linked


@pytest.mark.parametrize("format_name", FORMATS[: amount(len(FORMATS), once=1)])
@pytest.mark.parametrize("num_threads", [1, 2][: amount(2, once=1)])
def test_linears_against_the_limits(
    program: Path, num_threads: int, format_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    megabytes, rounds = amount(512, once=8), amount(5, once=1, long=20)
    run = subprocess.run(
        [program, str(num_threads), str(megabytes), str(rounds), format_name],
        capture_output=True,
        text=True,
        timeout=550,
    )
    if run.returncode == LACKS_INSTRUCTIONS:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stderr
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    limits = {name: float(value) for kind, name, value, *_ in lines if kind == "limit"}
    rows = [line[1:] for line in lines if line[0] == "linear"]
    with capsys.disabled():
        print(f"\n{num_threads} thread(s); " + ", ".join(f"{name} {value} G/s" for name, value in limits.items()))
        for row in [HEADS, *rows]:
            print("".join(f"{cell:>9}" for cell in row))
    assert rows, "nothing was measured"
    assert is_once() or max(float(row[6]) for row in rows) > 0.5, "one row reads at least half as fast as a plain sum"
