"""Keywords that llguidance does not have, as others that say the same; what cannot be said is left out and named.

The governing idea: each keyword becomes one more schema that has to hold, beside those that stand there already. A
schema may become narrower on the way, never wider, unless a keyword is named as not enforced: what follows the result
follows the schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from histrio_grammars.bounds import LIMITS
from histrio_grammars.exclusion import excluding_branches
from histrio_grammars.expressions import portable
from histrio_grammars.lookaheads import without_lookahead
from histrio_grammars.negation import DESCRIBING, negated

__all__ = ["Rewriting", "complaint_about"]

Schema = dict[str, Any]

_MOST = 10**18
"""llguidance's numbers have at most 18 digits before the point."""
_LEAST = 10.0**-30
_MAX_WAYS = 16
_APPLICATORS = ("allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas", "not")
_UNKNOWN = ("$dynamicRef", "$recursiveRef", "disallow", "divisibleBy", "extends", "x-guidance")
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
"""Without second 60, which only the last minute of a day has, in the time of Greenwich."""
_UUID_VERSION = re.compile("uuid([1-8])")
_NAME_PATTERNS = {
    "uuid": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "date": "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$",
}


@dataclass
class Rewriting:
    """Of one schema, whose children have been rewritten."""

    raw: Schema
    """As it came, but for what excludes nothing."""
    schema: Schema
    """The same with children that llguidance understands."""
    resolve: Callable[[str], Any]
    """What a `$ref` names, as it came."""
    is_exact: Callable[[str], bool]
    """Whether the schema of this keyword was kept whole."""
    left_out: list[str] = field(default_factory=list)
    """Keywords that are not enforced."""
    _more: list[Any] = field(default_factory=list)

    def result(self) -> Any:
        """The schema, or false where nothing can follow it."""
        for keyword, step in _STEPS.items():
            if keyword in self.raw and keyword in self.schema:
                step(self)
        if any(each is False for each in self._more):
            return False
        if not self._more:
            return self.schema
        given = self.schema.get("allOf", [])
        return self.schema | {"allOf": [*given, *self._more]}

    def drop(self, keyword: str) -> None:
        """It is not enforced."""
        self.left_out.append(keyword)
        self.schema.pop(keyword, None)

    def instead(self, keyword: str, *schemas: Any) -> None:
        """These say the same."""
        self.schema.pop(keyword, None)
        self.also(*schemas)

    def also(self, *schemas: Any) -> None:
        """These have to hold, too."""
        self._more += [each for each in schemas if each is not True and each != {}]

    @property
    def has_free_names(self) -> bool:
        """Whether properties may have names that are not listed."""
        return self.schema.get("additionalProperties") is not False or bool(self.schema.get("patternProperties"))

    @property
    def properties(self) -> Schema:
        """The listed ones."""
        found: Schema = self.schema.get("properties", {})
        return found

    @property
    def required(self) -> set[str]:
        """Names."""
        return set(self.schema.get("required", []))


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
    at.instead("if", {"anyOf": [_both(at.schema["if"], then), _both(other, otherwise)]})


def _one_of(at: Rewriting) -> None:
    branches = at.schema["oneOf"]
    required = excluding_branches(at.raw["oneOf"], at.resolve)
    if required is None:
        at.left_out.append("oneOf")
        required = [[] for _ in branches]
    ways = [_both(each, {"required": names}) if names else each for each, names in zip(branches, required, strict=True)]
    at.instead("oneOf", {"anyOf": ways})


def _dependent_required(at: Rewriting) -> None:
    _dependent(
        at, "dependentRequired", {name: {"required": each} for name, each in at.raw["dependentRequired"].items()}
    )


def _dependent_schemas(at: Rewriting) -> None:
    _dependent(at, "dependentSchemas", at.schema["dependentSchemas"])


def _dependencies(at: Rewriting) -> None:
    given = at.schema["dependencies"]
    both = {name: {"required": each} if isinstance(each, list) else each for name, each in given.items()}
    _dependent(at, "dependencies", both)


def _dependent(at: Rewriting, keyword: str, schemas: Schema) -> None:
    """Each name is missing, or its schema holds."""
    if len(schemas) > 4:
        at.drop(keyword)
        return
    at.instead(keyword, *({"anyOf": [{"properties": {name: False}}, each]} for name, each in schemas.items()))


def _property_names(at: Rewriting) -> None:
    """The names, or an expression of them, with the schema that any other property would have."""
    names = at.raw["propertyNames"]
    for _ in range(8):
        if isinstance(names, dict) and isinstance(names.get("$ref"), str):
            names = at.resolve(names["$ref"])
    rest = at.schema.get("additionalProperties", True)
    if not isinstance(names, dict) or at.properties or at.raw.get("patternProperties"):
        at.drop("propertyNames")
        return

    told = {
        name: value for name, value in names.items() if name not in DESCRIBING and (name, value) != ("type", "string")
    }
    listed = told.get("enum", [told["const"]] if "const" in told else None)
    if told.keys() <= {"enum", "const"} and isinstance(listed, list):
        found: Schema = {"properties": {each: rest for each in listed if isinstance(each, str)}}
    elif (pattern := _name_pattern(told)) is not None:
        found = {"patternProperties": {pattern: rest}}
    else:
        at.drop("propertyNames")
        return
    at.schema |= found | {"additionalProperties": False}
    at.instead("propertyNames")


def _name_pattern(told: Schema) -> str | None:
    if told.keys() == {"format"}:
        return _NAME_PATTERNS.get(str(told["format"]))
    if told.keys() == {"pattern"} and isinstance(told["pattern"], str):
        pattern = portable(told["pattern"], dot=".")
        return None if complaint_about(pattern) else pattern
    if told and told.keys() <= {"minLength", "maxLength"} and all(isinstance(each, int) for each in told.values()):
        least, most = told.get("minLength", 0), told.get("maxLength", "")
        return None if least > LIMITS["pattern characters"] else f"^.{{{least},{most}}}$"
    return None


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


def _pattern_properties(at: Rewriting) -> None:
    """Names that readers do not agree about get their schema where all of them see it, and it is named.

    What cannot be enforced leaves all names free that it is about, with any value.
    """
    given = at.schema["patternProperties"]
    is_closed = at.raw.get("additionalProperties") is False
    if not all(portable(each, dot=".") == each for each in at.raw["patternProperties"]) and not (
        is_closed and len(given) == 1
    ):
        at.left_out.append("patternProperties")
    if any("not supported" in complaint_about(each) for each in given):
        at.drop("patternProperties")
        at.schema.pop("additionalProperties", None)
        return

    if len(given) > 1 and "disjoint" in _complaint({"type": "object", "patternProperties": dict.fromkeys(given, True)}):
        at.drop("patternProperties")
        if is_closed:
            at.schema["patternProperties"] = {"|".join(f"(?:{each})" for each in given): True}
        else:
            at.schema.pop("additionalProperties", None)


def _min_properties(at: Rewriting) -> None:
    """A grammar counts a name that comes twice as two properties, a reader of JSON as one."""
    least = at.schema["minProperties"]
    optional = [name for name in at.properties if name not in at.required]
    if least <= len(at.required):
        at.instead("minProperties")
    elif not at.has_free_names and least == 1 and optional and len(optional) <= _MAX_WAYS:
        at.instead("minProperties", {"anyOf": [{"required": [name]} for name in optional]})
    elif not at.has_free_names and least == len(at.properties):
        at.schema["required"] = list(at.properties)
        at.instead("minProperties")
    elif optional:
        at.drop("minProperties")
    elif at.has_free_names and least > len(at.required) + 1:
        at.left_out.append("minProperties")


def _max_properties(at: Rewriting) -> None:
    optional = [name for name in at.properties if name not in at.required]
    if not at.has_free_names and at.schema["maxProperties"] >= len(at.properties):
        at.instead("maxProperties")
    elif optional:
        at.drop("maxProperties")


def _unevaluated_properties(at: Rewriting) -> None:
    """What is neither listed here nor by schemas that hold beside it."""
    names = _evaluated(at.raw, at.resolve, 0)
    value = at.schema["unevaluatedProperties"]
    if "additionalProperties" in at.raw:
        at.instead("unevaluatedProperties")
    elif names is not None and not at.raw.get("patternProperties"):
        at.instead("unevaluatedProperties", {"properties": dict.fromkeys(names, True), "additionalProperties": value})
    else:
        at.drop("unevaluatedProperties")


def _evaluated(schema: Any, resolve: Callable[[str], Any], level: int) -> list[str] | None:
    """Names of properties that are looked at; None where that depends on the value."""
    if not isinstance(schema, dict) or level > 8:
        return None
    if any(each in schema for each in ("anyOf", "oneOf", "if", "dependentSchemas", "dependencies")):
        return None
    if level and any(each in schema for each in ("additionalProperties", "patternProperties", "unevaluatedProperties")):
        return None

    names = list(schema.get("properties", {}))
    inner = [*schema.get("allOf", []), *([resolve(schema["$ref"])] if "$ref" in schema else [])]
    for each in inner:
        found = _evaluated(each, resolve, level + 1)
        if found is None:
            return None
        names += found
    return names


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


def _both(first: Any, second: Any) -> Any:
    if first is False or second is False:
        return False
    told = [each for each in (first, second) if each is not True and each != {}]
    return {"allOf": told} if len(told) > 1 else told[0] if told else True


@lru_cache(1024)
def complaint_about(expression: str) -> str:
    """What llguidance has against an expression of strings; empty if nothing."""
    return _complaint({"type": "string", "pattern": expression})


def _complaint(schema: Schema) -> str:
    import llguidance

    grammar = llguidance.LLMatcher.grammar_from_json_schema(msgspec.json.encode(schema).decode())
    return llguidance.LLMatcher.validate_grammar(grammar)


_STEPS: dict[str, Callable[[Rewriting], None]] = {
    "propertyNames": _property_names,
    "patternProperties": _pattern_properties,
    "contains": _contains,
    "dependencies": _dependencies,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "exclusiveMaximum": _upper,
    "exclusiveMinimum": _lower,
    "format": _format,
    "if": _if,
    "maxProperties": _max_properties,
    "maximum": _upper,
    "minProperties": _min_properties,
    "minimum": _lower,
    "multipleOf": _multiple_of,
    "not": _not,
    "oneOf": _one_of,
    "pattern": _pattern,
    "unevaluatedItems": _unevaluated_items,
    "unevaluatedProperties": _unevaluated_properties,
    "uniqueItems": _unique_items,
    **dict.fromkeys(_UNKNOWN, _unknown),
}
"""In this order: names of properties come before what counts them."""
