"""Rewrites the list of all known fields in docs/endpoint.md from the table in the code.

python docs/list_fields.py
"""

import json
from pathlib import Path

from histrio_api.request.known_fields import KNOWN_FIELDS, KnownField

PAGE = Path(__file__).parent / "endpoint.md"
BEGIN, END = "<!-- fields: python docs/list_fields.py -->\n", "<!-- end of fields -->\n"
SAMPLERS = "samplers, where one that has the field is registered"


def table() -> str:
    """A line for all fields of which the same is to be said."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, field in KNOWN_FIELDS.items():
        neutral = " ".join(f"`{json.dumps(each)}`" for each in field.neutral)
        groups.setdefault((neutral, _meaning(field)), []).append(f"`{name}`")
    lines = ["| fields | nothing at | otherwise |", "|---|---|---|"]
    lines += [f"| {', '.join(names)} | {neutral} | {meaning} |" for (neutral, meaning), names in groups.items()]
    return "\n".join([*lines, ""])


def rewritten(page: str) -> str:
    """The page with its list replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _meaning(field: KnownField) -> str:
    match field.kind:
        case "honoured":
            return f"honoured by {_forms(field.reason)}, a 400 elsewhere"
        case "alias":
            return f"another name of `{field.reason}`"
        case "hint":
            return f"named: {field.reason}"
        case _:
            return f"400: {field.reason}"


def _forms(names: str) -> str:
    """`chats messages` as prose."""
    if names == "samplers":
        return SAMPLERS
    *others, last = names.split()
    return f"{', '.join(others)} and {last}" if others else last


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
