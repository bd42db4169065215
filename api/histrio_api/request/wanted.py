"""The form that a request asks for, and where in the request it says so."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from histrio.errors import RequestError
from histrio.messages import GrammarSpec, Reasoning, ReasoningMarks
from histrio_api.error_shapes import MAX_PARAM_CHARS
from histrio_api.request.ignored import IgnoredFields

__all__ = ["WantedGrammar"]


class WantedGrammar(msgspec.Struct, frozen=True):
    """A grammar, and the fields it was made of."""

    spec: GrammarSpec
    param: str
    """Path of the field that says so; a place within the grammar follows it in errors."""
    strict: tuple[str, ...] = ()
    """Paths of fields that promise to be enforced as a whole."""
    places: dict[str, str] = {}
    """Place in the grammar → path of the field that it was made of, where that is not `param`."""
    unenforced: list[str] = []
    """Paths of keywords that calls in the model's form cannot be held to."""

    def after(self, reasoning: Reasoning, marks: ReasoningMarks | None) -> WantedGrammar:
        """The same for an answer that begins so."""
        if reasoning == "never" or marks is None:
            return self
        return replace(self, spec=replace(self.spec, reasoning=reasoning, marks=marks))

    def locate(self, error: RequestError) -> RequestError:
        """The same refusal, with its place in the request."""
        param = self._path_of(error.param) if error.param else self.param
        return RequestError(f"{param}: {error}", param=param, code=error.code)

    def require_promised(self, unenforced: Iterable[str], ignored: IgnoredFields) -> None:
        """Tell `ignored` the keywords that are not enforced. Raises `RequestError` for one that has to be."""
        for path in (*self.unenforced, *map(self._path_of, unenforced)):
            shown = path[:MAX_PARAM_CHARS]
            ignored.add_keyword(shown, is_promised=any(shown.startswith(each) for each in self.strict))

    def _path_of(self, place: str) -> str:
        for known, path in self.places.items():
            if place.startswith(known):
                return path + place.removeprefix(known)
        return f"{self.param}.{place}".replace(".[", "[")
