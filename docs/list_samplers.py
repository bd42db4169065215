"""Rewrites the table of docs/samplers.md from the samplers themselves, in the order in which they run.

python docs/list_samplers.py
"""

import inspect
import json
from pathlib import Path

import msgspec

from histrio.contracts.request_fields import FieldTable
from histrio.contracts.sampler import Sampler
from histrio.errors import RequestError
from histrio_samplers.plugin import SAMPLERS

PAGE = Path(__file__).parent / "samplers.md"
BEGIN, END = "<!-- samplers: python docs/list_samplers.py -->\n", "<!-- end of samplers -->\n"


def table() -> str:
    """A line per sampler, a line per field within it."""
    lines = ["| order | sampler | fields, their defaults and what they may be |", "|---|---|---|"]
    for kind in sorted(SAMPLERS, key=lambda kind: kind.order):
        text = " ".join((inspect.getdoc(kind) or "").split())
        lines.append(f"| {kind.order} | **`{kind.name}`**: {text} | {'<br>'.join(_fields(kind))} |")
    return "\n".join([*lines, ""])


def rewritten(page: str) -> str:
    """The page with its table replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _fields(kind: type[Sampler]) -> list[str]:
    defaults = msgspec.to_builtins(kind.params())
    return [f"`{name}` = `{json.dumps(value)}`: {_allowed(kind, name)}" for name, value in defaults.items()]


def _allowed(kind: type[Sampler], field: str) -> str:
    """What the endpoint says of a value that is none of them."""
    try:
        FieldTable([kind]).check({field: object()})
    except RequestError as error:
        return str(error).removeprefix(f"{field} must be ")
    raise AssertionError(f"{field} takes anything")


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
