"""docs/endpoint.md knows every setting, URL and field."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import msgspec

from histrio_api.request.known_fields import KNOWN_FIELDS
from histrio_api.routes import ROUTES
from histrio_api.shared.settings import ApiSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "endpoint.md").read_text(encoding="utf-8")


def test_every_setting_stands_there_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", PAGE.partition("## Settings")[2], re.MULTILINE))
    defaults = msgspec.to_builtins(ApiSettings())
    shown = {
        name: "none" if value in ([], None) else str(value).lower() if isinstance(value, bool) else value
        for name, value in defaults.items()
    }
    assert rows.keys() == shown.keys()
    for name, value in shown.items():
        expected = f"{value:g}" if isinstance(value, float) else str(value).lower()
        assert rows[name].strip().strip("`") == expected, name


def test_the_list_of_fields_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("list_fields", DOCS / "list_fields.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.rewritten(PAGE) == PAGE, "run python docs/list_fields.py"
    for name in KNOWN_FIELDS:
        assert f"`{name}`" in module.table()
    assert module.rewritten(PAGE.replace("`best_of`", "`best`")) == PAGE, "control: it replaces what stands there"


def test_every_url_stands_there() -> None:
    for handler in ROUTES:
        for path in handler.paths:
            shown = path.replace("{name:path}", "{file}")
            assert re.sub(r"\{\w+:\w+\}", "{id}", shown) in PAGE
