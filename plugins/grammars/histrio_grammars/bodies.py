"""What stands in one structure of a text: fixed texts, JSON after a schema, or parameters that each have their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from histrio.contracts.grammar import TagParameter, TagStructure
from histrio.errors import RequestError
from histrio_grammars.tokens import OwnTokens

__all__ = ["FREE_TEXT", "Bodies", "Grammar", "free_tokens", "within"]

FREE_TEXT = "TEXT: /(.|\\n)*/"
Grammar: TypeAlias = dict[str, Any]
"""One of llguidance's grammars; others refer to it by its `name`."""
_NAME = "PARAMETER_NAME: /[A-Za-z_][A-Za-z0-9_.-]{0,63}/"


class Bodies:
    """The bodies of all structures of a grammar, with the rules and the schemas that they need."""

    def __init__(self, tokens: OwnTokens, json_options: dict[str, Any]) -> None:
        self.tokens = tokens
        self.grammars: list[Grammar] = []
        """The grammars of the schemas, each under its name."""
        self.lines: list[str] = []
        """Rules that the bodies refer to, and that no other part of the grammar has."""
        self._json_options = json_options
        self._stops: dict[str, str] = {}
        self._parameters: dict[int, str] = {}

    def body(self, structure: TagStructure, at: int, begin: str) -> str:
        """What stands for a structure in a rule; `begin` is what is left of its beginning."""
        first, last = (
            self._literal(text, f"structures[{at}].{field}")
            for field, text in (("begin", begin), ("end", structure.end))
        )
        if structure.parameters is None:
            middle = self._schema(structure.schema, f"schema_{at}")
        else:
            if at not in self._parameters:
                chain = self._chain(structure.parameters, structure.separator, str(at), f"structures[{at}]")
                self._parameters[at] = chain
            middle = self._parameters[at]
        return f"{first} {middle} {last}"

    def once(self, line: str) -> None:
        """Add a rule that several bodies refer to."""
        if line not in self.lines:
            self.lines.append(line)

    def _chain(self, parameters: Sequence[TagParameter], separator: str, at: str, place: str) -> str:
        """The parameters in their order. Each rule stands for those from one on: the first that is there has no
        separator before it. `at` tells the rules from others, `place` is that of what has the parameters."""
        between = self._literal(separator, f"{place}.separator") if separator else ""
        if not parameters:
            return ""
        for nth, each in enumerate(parameters):
            one = self._parameter(each, f"p_{at}_{nth}", f"{place}.parameters[{nth}]")
            rest, first_rest = f"more_{at}_{nth + 1}", f"first_{at}_{nth + 1}"
            is_last = nth == len(parameters) - 1
            tail, first_tail = ("", "") if is_last else (rest, first_rest)
            if each.name_end is not None or each.is_repeated:
                again = f"({between} {one})*"
                self.lines.append(f"first_{at}_{nth}: ({one} {again})? {tail or chr(34) * 2}")
                continue
            self.lines.append(f"p_{at}_{nth}: {one}")
            one = f"p_{at}_{nth}"
            skipped = "" if each.is_required else f" | {first_tail or chr(34) * 2}"
            self.lines.append(f"first_{at}_{nth}: {one} {tail}{skipped}")
            if nth:
                following = f"{between} {one}" if each.is_required else f"({between} {one})?"
                self.lines.append(f"more_{at}_{nth}: {following} {tail}")
        return f"first_{at}_0"

    def _parameter(self, parameter: TagParameter, name: str, place: str) -> str:
        parts = [self._literal(parameter.begin, f"{place}.begin")] if parameter.begin else []
        if parameter.name_end is not None:
            self.once(_NAME)
            parts += ["PARAMETER_NAME", self._literal(parameter.name_end, f"{place}.name_end")]
        if parameter.schema is not None:
            parts.append(self._schema(parameter.schema, f"{name}_schema"))
            end = parameter.end
        elif parameter.parameters is not None:
            parts.append(self._chain(parameter.parameters, "", name.removeprefix("p_"), place))
            end = parameter.end
        elif parameter.texts is not None:
            parts.append(f"({' | '.join(self._literal(each, place) for each in parameter.texts)})")
            end = parameter.end
        else:
            # What is written between the value and the stop is left to the model: readers take it off.
            _, _, end = parameter.end.partition(parameter.stop)
            parts.append(self._free(parameter.stop, place))
        if end:
            parts.append(self._literal(end, f"{place}.end"))
        return " ".join(parts)

    def _free(self, stop: str, place: str) -> str:
        """Text up to the first `stop`, with it."""
        if stop not in self._stops:
            name = f"free_{len(self._stops)}"
            self._stops[stop] = name
            own = self.tokens.first(stop)
            spelled = f" | TEXT {self._literal(stop, place)}" if own else ""
            self.lines += [
                f"{name}: {name}_lead ({name}_end{spelled})",
                f"{name}_end[lazy]: TEXT {msgspec.json.encode(stop).decode()}",
                free_tokens(self.tokens, (stop, own) if own else (stop,), f"{name}_lead"),
            ]
            self.once(FREE_TEXT)
        return self._stops[stop]

    def _schema(self, schema: Any, name: str) -> str:
        assert isinstance(schema, dict), "decode_tags makes objects of true and false"
        if all(each["name"] != name for each in self.grammars):
            self.grammars.append({"name": name, "json_schema": schema | {"x-guidance": self._json_options}})
        return f"@{name}"

    def _literal(self, text: str, place: str) -> str:
        try:
            return self.tokens.literal(text)
        except RequestError as error:
            raise within(place, error) from None


def free_tokens(tokens: OwnTokens, literals: tuple[str, ...], rule: str = "lead") -> str:
    """The rule of this name: text and tokens that may stand before more text."""
    ids = tokens.beside(literals)
    return f"{rule}: (TEXT <[{ids}]>)*" if ids else f'{rule}: ""'


def within(place: str, error: RequestError) -> RequestError:
    """The same refusal, with its place in the whole specification."""
    param = f"{place}.{error.param}".replace(".[", "[") if error.param else place
    return RequestError(str(error), param=param, code=error.code)
