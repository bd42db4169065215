"""A long context of few rows is cut by tiles for the threads; what is short beside a thread's share stays whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from histrio_cpu.build import compilers, sources

SOURCE = Path(__file__).parent / "native" / "divide.cpp"
OWN = ("attention.cpp", "pool.cpp", "memory.cpp", "kv_cache.cpp", "formats.cpp")

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = next(iter(sources())).parent
    target = tmp_path_factory.mktemp("divide") / "divide"
    files = [str(folder / name) for name in OWN]
    command = [*compilers()[0], "-std=c++20", "-O0", "-w", "-pthread", f"-I{folder}", str(SOURCE), *files]
    subprocess.run([*command, "-o", str(target)], check=True, timeout=250)
    return target


@pytest.mark.parametrize(
    ("threads", "heads", "tokens", "lengths", "expected"),
    [
        (16, 1, 1, [32_768], (64, 1)),  # a head of keys: every tile is a task
        (16, 8, 1, [32_768], (512, 8)),
        (1, 8, 1, [32_768], (8, 0)),  # a control: one thread has no use for it
        (16, 8, 1, [512], (8, 0)),  # one tile
        (2, 8, 1, [32_768] * 8, (64, 0)),  # enough whole pieces for two threads
        (2, 1, 1, [32_768, 600, 600, 600], (67, 1)),  # the long one alone is cut
        (16, 8, 512, [512], (176, 0)),  # a prompt has pieces enough
    ],
)
def test_work_is_cut_where_a_piece_takes_more_than_a_share(
    threads: int, heads: int, tokens: int, lengths: list[int], expected: tuple[int, int], program: Path
) -> None:
    arguments = [str(each) for each in (threads, heads, tokens, *lengths)]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=20)
    assert tuple(map(int, done.stdout.split())) == expected
