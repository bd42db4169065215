"""Builds the virtual environment in which the tests run SGLang, on a machine without a GPU.

    python -m tests.sglang_backend.build_env FOLDER
    HISTRIO_SGLANG_PYTHON=FOLDER/bin/python pytest tests/sglang_backend

SGLang pins a torch built for CUDA and some sixty packages of kernels. A CPU needs none of them: SGLang is installed
without its dependencies, beside those it imports, and `stand_ins/` takes the place of three packages of which no more
than one small function is called here. A folder that was built from the same list is left as it is, so a second run
needs no network. Ends with code 75 where packages could not be fetched and installed, in time if `--within` says one.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.pip_environment import REPOSITORY, PipEnvironment, say

HERE = Path(__file__).resolve().parent

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
    parser = PipEnvironment.parser(__doc__)
    parser.add_argument("--sglang", choices=sorted(RELEASES), default="0.5.23", help="release to install")
    given = parser.parse_args()
    steps = install_steps(given.sglang)
    projects = [(REPOSITORY / path / "pyproject.toml").read_text("utf-8") for path in CORE + WITHOUT_DEPENDENCIES]
    environment = PipEnvironment.of("SGLang's", given, [steps, projects])
    if environment.is_built:
        print(f"{environment.folder} is up to date")
        return

    began = time.monotonic()
    environment.create()
    for what, pip_arguments in steps:
        say(f"installing {what}")
        environment.pip(*pip_arguments)
    say("adding stand-ins")
    site = next((environment.folder / "lib").glob("python3*/site-packages"))
    (site / "histrio_stand_ins.pth").write_text(f"{HERE / 'stand_ins'}\n", encoding="utf-8")
    say("importing SGLang once, which compiles its modules")
    check = "import os; os.environ['SGLANG_USE_CPU_ENGINE'] = '1'; import histrio_sglang.runner"
    subprocess.run([environment.folder / "bin" / "python", "-W", "ignore", "-c", check], check=True)
    environment.seal()
    print(f"built {environment.folder} in {time.monotonic() - began:.0f} s", flush=True)


def install_steps(release: str) -> list[tuple[str, list[str]]]:
    """What is installed, and the arguments of pip for it."""
    editable = [option for path in CORE for option in ("-e", path)]
    late = [option for path in WITHOUT_DEPENDENCIES for option in ("-e", path)]
    return [
        (TORCH, [TORCH]),
        ("what SGLang imports, and histrio's core", [TORCH, *RELEASES[release], *IMPORTED, *FOR_TESTS, *editable]),
        (f"sglang {release} and the plugins", ["--no-deps", f"sglang=={release}", XGRAMMAR, *late]),
    ]


if __name__ == "__main__":
    main()
