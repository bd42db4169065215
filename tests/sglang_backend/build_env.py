"""Builds the virtual environment in which the tests run SGLang, on a machine without a GPU.

    python tests/sglang_backend/build_env.py FOLDER
    HISTRIO_SGLANG_PYTHON=FOLDER/bin/python pytest tests/sglang_backend

SGLang pins a torch built for CUDA and some sixty packages of kernels. A CPU needs none of them: SGLang is installed
without its dependencies, beside those it imports, and `stand_ins/` takes the place of three packages of which no more
than one small function is called here. A folder that was built from the same list is left as it is, so a second run
needs no network. Ends with code 75 where packages could not be fetched and installed, in time if `--within` says one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
STAMP = "histrio-sglang.json"
NOT_FETCHED = 75
"""EX_TEMPFAIL: nothing here is wrong, as far as one can see."""

TORCH = "torch==2.13.0"
RELEASES = {
    "0.5.17": ["transformers==5.12.1"],
    "0.5.21": ["transformers==5.12.1"],
    "0.5.23": ["transformers==5.19.0", "tokenizers==0.23.2"],
}
"""Releases of SGLang, each with what it pins of the packages below."""
IMPORTED = (
    "aiohttp apache-tvm-ffi==0.1.11 compressed-tensors==0.18.0 dill einops fastapi gguf IPython loguru msgspec openai "
    "orjson packaging partial_json_parser pillow prometheus-client psutil pybase64 pydantic python-multipart pyzmq "
    "requests sentencepiece setproctitle uvicorn uvloop zstandard"
).split()
"""What SGLang imports in every process."""
FOR_TESTS = ["pytest", "pytest-timeout"]
CORE = [".", "plugins/samplers"]
WITHOUT_DEPENDENCIES = ["plugins/torch_backend", "plugins/sglang_backend"]
"""histrio-torch wants a newer transformers than old releases of SGLang do; what is used of it needs torch alone."""
XGRAMMAR = "xgrammar==0.2.7"
"""Wants Triton, which it does not import."""


def main() -> None:
    """Build or keep the environment."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--sglang", choices=sorted(RELEASES), default="0.5.23", help="release to install")
    arguments.add_argument("--within", type=float, metavar="SECONDS", help="most that fetching and installing may take")
    given = arguments.parse_args()
    folder: Path = given.folder.resolve()
    steps = install_steps(given.sglang)
    stamp = {"built_from": fingerprint(steps)}
    if read_stamp(folder) == stamp:
        print(f"{folder} is up to date")
        return

    began = time.monotonic()
    say(f"creating {folder}")
    (folder / STAMP).unlink(missing_ok=True)
    venv.create(folder, with_pip=True, clear=True)
    for what, pip_arguments in steps:
        say(f"installing {what}")
        pip(folder, pip_arguments, None if given.within is None else began + given.within - time.monotonic())
    say("adding stand-ins")
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "histrio_stand_ins.pth").write_text(f"{HERE / 'stand_ins'}\n", encoding="utf-8")
    say("importing SGLang once, which compiles its modules")
    check = "import os; os.environ['SGLANG_USE_CPU_ENGINE'] = '1'; import histrio_sglang.runner"
    subprocess.run([folder / "bin" / "python", "-W", "ignore", "-c", check], check=True)
    (folder / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    print(f"built {folder} in {time.monotonic() - began:.0f} s", flush=True)


def install_steps(release: str) -> list[tuple[str, list[str]]]:
    """What is installed, and the arguments of pip for it."""
    editable = [option for path in CORE for option in ("-e", path)]
    late = [option for path in WITHOUT_DEPENDENCIES for option in ("-e", path)]
    return [
        (TORCH, [TORCH]),
        ("what SGLang imports, and histrio's core", [TORCH, *RELEASES[release], *IMPORTED, *FOR_TESTS, *editable]),
        (f"sglang {release} and the plugins", ["--no-deps", f"sglang=={release}", XGRAMMAR, *late]),
    ]


def fingerprint(steps: list[tuple[str, list[str]]]) -> str:
    """Of everything that decides what is in the environment."""
    projects = [(REPOSITORY / path / "pyproject.toml").read_text("utf-8") for path in CORE + WITHOUT_DEPENDENCIES]
    decisive = json.dumps([steps, projects, sys.version, str(REPOSITORY)])
    return hashlib.sha256(decisive.encode()).hexdigest()


def read_stamp(folder: Path) -> dict[str, str] | None:
    """What the folder was built from; None where it was not, or not to the end."""
    try:
        stamp: dict[str, str] = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp


def pip(folder: Path, arguments: list[str], timeout_s: float | None) -> None:
    """Install into the environment; ends the script with pip's own words where it cannot, or not in time."""
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*install, *arguments]
    try:
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        give_up("there was no time left")
    except subprocess.CalledProcessError as error:
        give_up(f"pip could not install {' '.join(arguments)}:\n{error.stdout}{error.stderr}")


def give_up(reason: str) -> NoReturn:
    """End the script: the environment is not there, and nothing says that it is."""
    print(f"SGLang's environment was not built: {reason}", file=sys.stderr, flush=True)
    sys.exit(NOT_FETCHED)


def say(text: str) -> None:
    """One line of progress, at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
