"""Virtual environments for tests of programs that cannot live beside histrio, built once and within a time limit."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

__all__ = ["NOT_FETCHED", "REPOSITORY", "PipEnvironment", "say"]

REPOSITORY = Path(__file__).resolve().parents[1]
STAMP = "histrio-environment.json"
NOT_FETCHED = 75
"""EX_TEMPFAIL: nothing here is wrong, as far as one can see."""


@dataclass
class PipEnvironment:
    """A folder that was built from the same things is left as it is, so that a second build needs no network."""

    name: str
    """Of whom it is: `SGLang's`."""
    folder: Path
    built_from: list[object]
    """All that decides what is in it."""
    ends_at: float | None = None
    """When fetching and installing is given up, on the monotonic clock."""

    @classmethod
    def of(cls, name: str, given: argparse.Namespace, built_from: list[object]) -> PipEnvironment:
        """With the folder and the time limit of a command line."""
        ends_at = None if given.within is None else time.monotonic() + given.within
        return cls(name, given.folder.resolve(), [*built_from, sys.version, str(REPOSITORY)], ends_at)

    @staticmethod
    def parser(description: str | None) -> argparse.ArgumentParser:
        """A command line with a folder and a time limit."""
        parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
        parser.add_argument("folder", type=Path)
        parser.add_argument(
            "--within", type=float, metavar="SECONDS", help="most that fetching and installing may take"
        )
        return parser

    @property
    def is_built(self) -> bool:
        """Whether it is there, from the same things, and to the end."""
        try:
            found = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found == self._stamp)

    def create(self) -> None:
        """An empty one in the folder's place."""
        say(f"creating {self.folder}")
        (self.folder / STAMP).unlink(missing_ok=True)
        venv.create(self.folder, with_pip=True, clear=True)

    def seal(self) -> None:
        """Say that it is built."""
        (self.folder / STAMP).write_text(json.dumps(self._stamp), encoding="utf-8")

    def pip(self, *arguments: str) -> None:
        """Install; ends the program with pip's own words where it cannot, or not in time."""
        python = str(self.folder / "bin" / "python")
        self.run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def run(self, *command: str) -> None:
        """Run a command that fetches; ends the program with its own words where it cannot, or not in time."""
        left_s = None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic())
        try:
            subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=left_s)
        except subprocess.TimeoutExpired:
            self._give_up("there was no time left")
        except subprocess.CalledProcessError as error:
            self._give_up(f"{' '.join(command)} failed:\n{error.stdout}{error.stderr}")

    @property
    def _stamp(self) -> dict[str, str]:
        return {"built_from": hashlib.sha256(json.dumps(self.built_from).encode()).hexdigest()}

    def _give_up(self, reason: str) -> NoReturn:
        """End the program: the environment is not there, and nothing says that it is."""
        print(f"{self.name} environment was not built: {reason}", file=sys.stderr, flush=True)
        sys.exit(NOT_FETCHED)


def say(text: str) -> None:
    """One line of progress, at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
