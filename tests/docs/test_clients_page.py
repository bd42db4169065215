"""docs/clients.md shows lines that its programs run, for each of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
PROGRAMS = {path.name: path for path in (ROOT / "tests" / "clients" / "programs").iterdir() if path.is_file()}
ROWS = dict(re.findall(r"^\| \[(.+)\]\(\.\./tests/clients/programs/(.+?)\) \|", PAGE, re.MULTILINE))
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def lines_shown(client: str) -> list[str]:
    block: str
    (block,) = re.findall(r"^```(?:python|js)\n(.*?)^```", SECTIONS[client], re.MULTILINE | re.DOTALL)
    return block.splitlines()


def test_every_program_has_a_row_and_every_row_a_section() -> None:
    assert sorted(ROWS.values()) == sorted(PROGRAMS)
    assert ROWS.keys() <= SECTIONS.keys()


def test_every_line_shown_is_one_that_the_program_runs() -> None:
    for client, name in ROWS.items():
        program = PROGRAMS[name].read_text(encoding="utf-8").splitlines()
        shown = lines_shown(client)
        assert 2 <= len(shown) <= 4
        assert [line for line in shown if line not in program] == [], name
        assert any("http://127.0.0.1:3001" in line for line in shown)
    assert lines_shown("ollama")[0] not in program, "control: programs differ"
