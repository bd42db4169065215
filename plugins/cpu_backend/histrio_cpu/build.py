"""Compiles the native library beside this module: `python -m histrio_cpu.build`.

Kernels are compiled for several instruction sets, each in a file of its own, and the library chooses among them where
it runs. So a library that was built on one machine runs on every other one of the platform.
Needs the standard library only, for the package's build hook runs it before anything is installed.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

__all__ = ["LIBRARY", "REMEDY", "CannotBuild", "build", "compilers", "sources"]

_PACKAGE = Path(__file__).parent
_SUFFIX = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
LIBRARY = _PACKAGE / f"libhistrio_cpu{_SUFFIX}"
REMEDY = "install g++ or clang++ (or: pip install ziglang), then run: python -m histrio_cpu.build"

_FLAGS = (
    *("-std=c++20", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"),
    *(() if platform.system() == "Windows" else ("-fPIC",)),
)
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c")
_INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86": {
        "kernels_avx2.cpp": ("-mavx2", "-mfma", "-mf16c"),
        "kernels_avx512.cpp": _AVX512,
        "kernels_avx512_bf16.cpp": (*_AVX512, "-mavx512bf16"),
        "kernels_amx.cpp": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    },
    "arm": {"kernels_neon.cpp": ("-march=armv8.2-a+dotprod",)},
}
"""Kind of processor → files that only it has, with the flags of their instructions."""
_KINDS = {"x86_64": "x86", "AMD64": "x86", "aarch64": "arm", "arm64": "arm"}
_MOST_SECONDS = 600


class CannotBuild(Exception):
    """No compiler is here, or none of them made the library."""


def build(*, is_forced: bool = False) -> Path:
    """Compile and link, unless the library is younger than its sources; returns its path. Raises `CannotBuild`."""
    if not is_forced and is_fresh():
        return LIBRARY

    found = compilers()
    if not found:
        raise CannotBuild(f"there is no C++ compiler; {REMEDY}")

    failures = []
    for compiler in found:
        try:
            _compile(compiler)
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(f"{shlex.join(compiler)}: {_reason(error)}")
        else:
            return LIBRARY
    raise CannotBuild("; ".join(failures))


def compilers() -> list[list[str]]:
    """Commands of the C++ compilers that are here, in the order in which they are tried."""
    named = [shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]]
    found = [[path, *command[1:]] for command in named if command and (path := shutil.which(command[0]))]
    if find_spec("ziglang") is not None:
        # Zig's own default is the processor of this machine.
        found.append([sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"])
    return found


def is_fresh() -> bool:
    """Whether the library is there and younger than everything that it is made of."""
    try:
        built = LIBRARY.stat().st_mtime
        return all(file.stat().st_mtime <= built for file in [Path(__file__), *_folder().iterdir()])
    except OSError:
        return False


def _folder() -> Path:
    """The C++ sources: in the package where it is installed, beside it in the repository."""
    installed = _PACKAGE / "native"
    return installed if installed.is_dir() else _PACKAGE.parent / "native"


def sources() -> dict[Path, tuple[str, ...]]:
    """Files to compile here, with the flags that each needs besides the common ones."""
    kind = _KINDS.get(platform.machine(), "")
    own = _INSTRUCTION_SETS.get(kind, {})
    others = {name for sets in _INSTRUCTION_SETS.values() for name in sets} - own.keys()
    return {file: own.get(file.name, ()) for file in sorted(_folder().glob("*.cpp")) if file.name not in others}


def _compile(compiler: list[str]) -> None:
    """Compile the files side by side and link them; the library appears at once or not at all."""
    with tempfile.TemporaryDirectory(dir=_PACKAGE, prefix=".build-") as folder, ThreadPoolExecutor(_cores()) as pool:
        objects = {Path(folder, f"{source.stem}.o"): (source, flags) for source, flags in sources().items()}
        commands = [
            [*compiler, *_FLAGS, *flags, "-c", str(source), "-o", str(target)]
            for target, (source, flags) in objects.items()
        ]
        for _ in pool.map(_run, commands):
            pass
        linked = Path(folder, LIBRARY.name)
        _run([*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(linked)])
        linked.replace(LIBRARY)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_MOST_SECONDS)


def _reason(error: Exception) -> str:
    """What the compiler said, in its last lines."""
    said = getattr(error, "stderr", None) or str(error)
    return said.strip()[-2000:]


def main() -> int:
    """The command."""
    try:
        print(build(is_forced="--force" in sys.argv[1:]))
    except CannotBuild as error:
        print(f"histrio_cpu: {error}", file=sys.stderr)
        return 1

    return 0


if __name__ == "__main__":
    sys.exit(main())
