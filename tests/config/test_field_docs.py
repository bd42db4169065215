"""Docstrings of fields come from the source; without it there are none."""

from __future__ import annotations

import ast
import gc
import inspect

import pytest

from histrio.config import field_docs as module
from histrio.config.field_docs import class_source, field_docs


class Boat:
    """A class with fields."""

    num_oars: int = 2
    """Oars in the water."""
    name: str = "Argo"
    length = 3
    """In metres."""

    def row(self) -> None:
        """Not a field."""


def test_a_docstring_belongs_to_the_field_above_it() -> None:
    assert field_docs(Boat) == {"num_oars": "Oars in the water.", "length": "In metres."}
    assert class_source(Boat).name == "Boat"


def test_no_syntax_tree_is_kept() -> None:
    def is_of_boat(each: object) -> bool:
        return type(each) is ast.ClassDef and each.name == "Boat"

    assert field_docs(Boat)
    assert not any(map(is_of_boat, gc.get_objects()))
    kept = class_source(Boat)
    assert [*filter(is_of_boat, gc.get_objects())] == [kept], "a control"


def test_without_the_source_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_module: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", missing)
    module._docs_of_classes.cache_clear()
    assert field_docs(Boat) == {}
    monkeypatch.undo()
    assert field_docs(Boat) != {}, "a control"
