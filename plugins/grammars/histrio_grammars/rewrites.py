"""Keywords that llguidance does not have, as others that say the same; what cannot be said is left out and named.

The governing idea: each keyword becomes one more schema that has to hold, beside those that stand there already. A
schema may become narrower on the way, never wider, unless a keyword is named as not enforced: what follows the result
follows the schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from histrio_grammars.bounds import LIMITS
from histrio_grammars.exclusion import excluding_branches
from histrio_grammars.expressions import portable
from histrio_grammars.lookaheads import without_lookahead
from histrio_grammars.negation import negated
from histrio_grammars.object_keywords import OBJECT_STEPS
from histrio_grammars.rewriting import Rewriting, both, complaint_about

__all__ = ["rewrite"]

_MOST = 10**18
"""llguidance's numbers have at most 18 digits before the point."""
_LEAST = 10.0**-30
_APPLICATORS = ("allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas", "not")
_UNKNOWN = ("$dynamicRef", "$recursiveRef", "disallow", "divisibleBy", "extends", "x-guidance")
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
"""Without second 60, which only the last minute of a day has, in the time of Greenwich."""
_UUID_VERSION = re.compile("uuid([1-8])")


def rewrite(schema: Rewriting) -> None:
    """Say all keywords in those that llguidance has."""
    for keyword, step in _STEPS.items():
        if keyword in schema.raw and keyword in schema.schema:
            step(schema)


def _not(at: Rewriting) -> None:
    other = negated(at.raw["not"], at.resolve)
    if other is None:
        at.drop("not")
    else:
        at.instead("not", other)


def _if(at: Rewriting) -> None:
    other = negated(at.raw["if"], at.resolve)
    then, otherwise = at.schema.pop("then", True), at.schema.pop("else", True)
    if other is None or not at.is_exact("if"):
        at.drop("if")
        return
    at.instead("if", {"anyOf": [both(at.schema["if"], then), both(other, otherwise)]})


def _one_of(at: Rewriting) -> None:
    branches = at.schema["oneOf"]
    required = excluding_branches(at.raw["oneOf"], at.resolve)
    if required is None:
        at.left_out.append("oneOf")
        required = [[] for _ in branches]
    ways = [both(each, {"required": names}) if names else each for each, names in zip(branches, required, strict=True)]
    at.instead("oneOf", {"anyOf": ways})


def _format(at: Rewriting) -> None:
    """Times without second 60, and `uuid4` and its kin, which are no format of JSON schema, but of pydantic."""
    named = at.schema["format"]
    if named == "time":
        at.instead("format", {"pattern": f"^{_TIME}$"})
    elif named == "date-time":
        at.also({"pattern": f"T{_TIME}$"})
    version = _UUID_VERSION.fullmatch(named)
    if version is not None:
        digits = "[0-9a-fA-F]"
        pattern = f"^{digits}{{8}}-{digits}{{4}}-{version[1]}{digits}{{3}}-[89abAB]{digits}{{3}}-{digits}{{12}}$"
        at.instead("format", {"pattern": pattern})


def _pattern(at: Rewriting) -> None:
    if "not supported" not in complaint_about(at.schema["pattern"]):
        return

    parts = without_lookahead(at.raw["pattern"])
    found = [portable(each) for each in parts or []]
    if not found or any(map(complaint_about, found)):
        at.drop("pattern")
    else:
        at.instead("pattern", *({"pattern": each} for each in found))


def _unevaluated_items(at: Rewriting) -> None:
    if "items" in at.raw and not isinstance(at.raw["items"], list):
        at.instead("unevaluatedItems")
    elif any(each in at.raw for each in (*_APPLICATORS, "contains", "items")):
        at.drop("unevaluatedItems")
    else:
        at.schema["items"] = at.schema["unevaluatedItems"]
        at.instead("unevaluatedItems")


def _unique_items(at: Rewriting) -> None:
    if at.raw.get("maxItems", 2) <= 1:
        at.instead("uniqueItems")
    else:
        at.drop("uniqueItems")


def _unknown(at: Rewriting) -> None:
    """Keywords of other drafts and of other programs."""
    for keyword in _UNKNOWN:
        if keyword in at.schema:
            at.drop(keyword)


def _contains(at: Rewriting) -> None:
    for keyword in ("minContains", "maxContains"):
        at.schema.pop(keyword, None)
    at.drop("contains")


def _multiple_of(at: Rewriting) -> None:
    """Of decimal fractions too, as decimal numbers and not as what a binary computer makes of them."""
    digits = Decimal(str(at.schema["multipleOf"])).normalize()
    coefficient = digits.scaleb(-digits.as_tuple().exponent)  # type: ignore[operator]
    if coefficient > LIMITS["multipleOf"] or digits < Decimal("1e-9"):
        at.drop("multipleOf")


def _lower(at: Rewriting) -> None:
    _bound(at, ("minimum", "exclusiveMinimum"), sign=-1)


def _upper(at: Rewriting) -> None:
    _bound(at, ("maximum", "exclusiveMaximum"), sign=1)


def _bound(at: Rewriting, keywords: tuple[str, str], sign: int) -> None:
    """Bounds beyond the numbers that can be written are moved to where those end."""
    for keyword in keywords:
        value = at.schema.get(keyword)
        if value is None:
            continue
        if value * sign >= _MOST:
            at.schema.pop(keyword)
            at.schema[keywords[0]] = sign * (_MOST - 1)
        elif abs(value) >= _MOST or 0 < abs(value) < _LEAST:
            at.drop(keyword)


_STEPS: dict[str, Callable[[Rewriting], None]] = {
    **OBJECT_STEPS,
    "contains": _contains,
    "exclusiveMaximum": _upper,
    "exclusiveMinimum": _lower,
    "format": _format,
    "if": _if,
    "maximum": _upper,
    "minimum": _lower,
    "multipleOf": _multiple_of,
    "not": _not,
    "oneOf": _one_of,
    "pattern": _pattern,
    "unevaluatedItems": _unevaluated_items,
    "uniqueItems": _unique_items,
    **dict.fromkeys(_UNKNOWN, _unknown),
}
