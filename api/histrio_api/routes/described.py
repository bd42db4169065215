"""What a route says of itself for the OpenAPI document: what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histrio_api.forms.form import Form

__all__ = ["Described", "described", "described_form"]

_NAME = "described"
_NONE: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Described:
    """What bodies and queries of one route consist of; None where there is none, or anything may be in it."""

    asks: type | None = None
    """The struct of a request's body."""
    answers: type | None = None
    """Of an answer's."""
    query: type | None = None
    """Of the fields in the URL."""
    streams: str = ""
    """The media type of its streams, if it has any."""
    without: Mapping[str, object] = field(default_factory=dict)
    """Fields of a request's struct that are refused, unless they have these values."""

    @classmethod
    def of(cls, opt: Mapping[str, Any]) -> Described:
        """As the route's `opt` has it."""
        found: Described = opt.get(_NAME, cls())
        return found


def described(
    asks: type | None = None,
    answers: type | None = None,
    *,
    query: type | None = None,
    without: Mapping[str, object] = _NONE,
) -> dict[str, Any]:
    """`opt=` of a route."""
    return {_NAME: Described(asks, answers, query, without=without)}


def described_form(form: Form[Any], answers: type | None = None) -> dict[str, Any]:
    """`opt=` of a route that answers requests of this form."""
    return {_NAME: Described(form.schema, answers, streams=form.media_type, without=form.absent)}
