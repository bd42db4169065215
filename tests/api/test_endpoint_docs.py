"""docs/endpoint.md knows every setting, URL and field."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from histrio_api.request.fields import NEUTRAL_VALUES, NO_EFFECT
from histrio_api.routes import ROUTES
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.shared.settings import ApiSettings

PAGE = (Path(__file__).parents[2] / "docs" / "endpoint.md").read_text(encoding="utf-8")


def test_every_setting_stands_there_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    defaults = msgspec.to_builtins(ApiSettings())
    shown = {
        name: "none" if value in ([], None) else str(value).lower() if isinstance(value, bool) else value
        for name, value in defaults.items()
    }
    assert rows.keys() == shown.keys()
    for name, value in shown.items():
        expected = f"{value:g}" if isinstance(value, float) else str(value).lower()
        assert rows[name].strip().strip("`") == expected, name


@pytest.mark.parametrize(
    "name", sorted({*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, *NO_EFFECT})
)
def test_every_accepted_field_stands_there(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_url_stands_there() -> None:
    for handler in ROUTES:
        for path in handler.paths:
            assert path.replace("{model_id:path}", "{id}") in PAGE


def test_no_field_is_both_honoured_and_refused() -> None:
    both = {*ChatRequest.__struct_fields__} & {*CompletionRequest.__struct_fields__}
    assert not both & NEUTRAL_VALUES.keys()
    assert not NO_EFFECT & NEUTRAL_VALUES.keys()
