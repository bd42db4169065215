"""What stands under the fields of a class: their docstrings, which only the source has."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from types import ModuleType

__all__ = ["class_source", "field_docs"]


def field_docs(kind: type) -> dict[str, str]:
    """Field → its docstring, of those that have one; without the source there are none."""
    try:
        return dict(_docs_of_classes(_module_of(kind))[kind.__name__])
    except OSError:
        return {}


def class_source(kind: type) -> ast.ClassDef:
    """The definition of a class at the top of its module. Raises `OSError` where the source is not there."""
    return next(each for each in _classes(_module_of(kind)) if each.name == kind.__name__)


@cache
def _docs_of_classes(module: ModuleType) -> dict[str, dict[str, str]]:
    """Texts alone are kept: syntax trees are tens of thousands of objects, which each collection would look through."""
    return {each.name: _docs_of(each) for each in _classes(module)}


def _docs_of(source: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, following in pairwise(source.body):
        match field, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = text
            case _:
                pass
    return found


def _classes(module: ModuleType) -> list[ast.ClassDef]:
    return [each for each in ast.parse(inspect.getsource(module)).body if isinstance(each, ast.ClassDef)]


def _module_of(kind: type) -> ModuleType:
    module = inspect.getmodule(kind)
    assert module is not None, f"{kind} belongs to no module"
    return module
