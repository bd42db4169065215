"""docs/structured-output.md says what is enforced, and its limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from histrio.grammar_check import MAX_COMPILE_S, MAX_TRIAL_S
from histrio_api.schemas.formats import StructuredOutputs
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.structured import NOT_BESIDE
from histrio_grammars.bounds import LIMITS
from histrio_grammars.schema import ENFORCED
from histrio_grammars.values import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "structured-output.md").read_text(encoding="utf-8")


def test_the_limits_stand_there() -> None:
    rows = {name: int(most) for name, most in re.findall(r"^\| ([a-zA-Z ]+) \| (\d+) \|$", PAGE, re.MULTILINE)}
    assert rows == LIMITS
    assert f"at most {MAX_TRIAL_S:g} seconds of which compiling may take {MAX_COMPILE_S:g}" in PAGE


def test_every_enforced_keyword_and_format_stands_there_and_no_other() -> None:
    listed = PAGE.split("\nEnforced: ")[1].split("Draft 2020-12")[0]
    words = set(re.findall(r"`([$a-zA-Z0-9-]+)`", listed))
    assert words == ENFORCED | FORMATS


def test_every_field_stands_there() -> None:
    fields = GenerationRequest.__struct_fields__
    names = [*fields[fields.index("response_format") :], *NOT_BESIDE]
    assert len(names) >= 13
    assert [name for name in names if f"`{name}" not in PAGE] == []
    assert [name for name in StructuredOutputs.__struct_fields__ if f'"{name}":' not in PAGE] == []
