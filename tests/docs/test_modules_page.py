"""docs/modules.md has a line for every module, and none for modules that are gone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ["runtime/histrio", "api/histrio_api", "plugins", "demo"]


def _listed(page: str) -> set[str]:
    """Paths of the modules that the page's tables name."""
    listed: set[str] = set()
    folder = ""
    for line in page.splitlines():
        if heading := re.fullmatch(r"## `(.+/)`", line):
            folder = heading[1]
        elif row := re.match(r"\| `(\w+\.py)` \| .+ \|$", line):
            listed.add(folder + row[1])
    return listed


def _existing() -> set[str]:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py"}


def test_every_module_has_its_line() -> None:
    page = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")

    assert _listed(page) == _existing(), "run: python docs/list_modules.py"
    assert _listed(page.replace("| `inverse_cdf.py` |", "| inverse_cdf |")) != _existing()
