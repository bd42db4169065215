"""docs/structured-output.md says what is enforced, and its limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from histrio.front import grammar_check
from histrio.front.grammar_trial import MAX_UNENFORCED, MAX_WALK_TOKENS
from histrio.front.grammar_trials import TrialLimits
from histrio_api.request.structured import NOT_BESIDE
from histrio_api.schemas.formats import StructuredOutputs
from histrio_api.schemas.generation import GenerationRequest
from histrio_grammars.bounds import LIMITS
from histrio_grammars.schema import ENFORCED, NEVER_ENFORCED
from histrio_grammars.values import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "structured-output.md").read_text(encoding="utf-8")


def test_the_limits_stand_there() -> None:
    grammar, trial = PAGE.split("| most |\n")[1:]
    queue = PAGE.split("| most | beyond it |\n")[1]
    assert {name: int(most) for name, most in row(r"(\d+)", grammar)} == LIMITS
    limits = TrialLimits()
    assert [float(most) for _, most in row(r"([\d.]+) s", trial)] == [*limits.tries_s, limits.max_s]
    assert [int(most) * 2**20 for _, most in row(r"(\d+) MiB", trial)] == [limits.max_bytes]
    assert [int(most) for _, most in row(r"(\d+)", trial)] == [MAX_WALK_TOKENS]
    numbers = [*grammar_check.MAX_RUNNING[:2], *grammar_check.MAX_QUEUED]
    numbers += [grammar_check.MAX_REMEMBERED, grammar_check.MAX_GRAMMAR_BYTES]
    assert [int(most) for _, most in row(r"(\d+)(?: each)? \|.*", queue)] == numbers


def row(value: str, table: str) -> list[tuple[str, str]]:
    """What is limited, and the limit, of the rows whose limit looks like this."""
    return re.findall(rf"^\| ([^|]+) \| {value} \|$", table.split("\n\n")[0], re.MULTILINE)


def test_every_enforced_keyword_and_format_stands_there_and_no_other() -> None:
    listed = PAGE.split("\nEnforced: ")[1].split("Draft 2020-12")[0]
    words = set(re.findall(r"`([$a-zA-Z0-9-]+)`", listed))
    assert words == ENFORCED | FORMATS
    never = PAGE.split("Never enforced are")[1].split("Others are enforced")[0]
    assert set(re.findall(r"`([$a-zA-Z-]+)`", never)) - {"maxItems"} == NEVER_ENFORCED
    assert f"At most {MAX_UNENFORCED} places" in PAGE


def test_every_field_stands_there() -> None:
    fields = GenerationRequest.__struct_fields__
    names = [*fields[fields.index("response_format") :], *NOT_BESIDE]
    assert len(names) >= 13
    assert [name for name in names if f"`{name}" not in PAGE] == []
    assert [name for name in StructuredOutputs.__struct_fields__ if f'"{name}":' not in PAGE] == []
