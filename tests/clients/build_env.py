"""Builds the environment in which clients of other projects visit the endpoint: packages of Python, and of JavaScript.

    python -m tests.clients.build_env FOLDER
    HISTRIO_CLIENTS=FOLDER pytest tests/clients

None of them is installed beside histrio, and histrio is not installed beside them. All versions are written down, so
that pip has nothing to resolve. Ends with code 75 where packages could not be fetched and installed, in time if
`--within` says one. Without npm the clients of JavaScript are left out.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.pip_environment import PipEnvironment, say

HERE = Path(__file__).resolve().parent
NODE_FILES = ("package.json", "package-lock.json")


def main() -> None:
    """Build or keep the environment."""
    parser = PipEnvironment.parser(__doc__)
    parser.add_argument("--large", action="store_true", help="with the clients that take longest to install, too")
    given = parser.parse_args()
    lists = [HERE / "packages.txt", *([HERE / "packages-large.txt"] if given.large else [])]
    npm = shutil.which("npm")
    decisive = [*lists, *(HERE / name for name in NODE_FILES if npm)]
    environment = PipEnvironment.of("the clients'", given, [path.read_text("utf-8") for path in decisive])
    if environment.is_built:
        print(f"{environment.folder} is up to date")
        return

    began = time.monotonic()
    environment.create()
    for path in lists:
        say(f"installing {path.name}")
        environment.pip("--no-deps", "--no-compile", "--requirement", str(path))
    if npm is None:
        say("NO CLIENT OF JAVASCRIPT: there is no npm")
    else:
        _install_node_packages(environment, npm)
    environment.seal()
    print(f"built {environment.folder} in {time.monotonic() - began:.0f} s", flush=True)


def _install_node_packages(environment: PipEnvironment, npm: str) -> None:
    say("installing package-lock.json")
    folder = environment.folder / "node"
    folder.mkdir()
    for name in NODE_FILES:
        shutil.copy(HERE / name, folder)
    environment.run(npm, "ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts")


if __name__ == "__main__":
    main()
