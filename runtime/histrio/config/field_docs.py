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
        body = class_source(kind).body
    except OSError:
        return {}

    found = {}
    for field, following in pairwise(body):
        match field, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = text
            case _:
                pass
    return found


def class_source(kind: type) -> ast.ClassDef:
    """The definition of a class at the top of its module. Raises `OSError` where the source is not there."""
    module = inspect.getmodule(kind)
    assert module is not None, f"{kind} belongs to no module"
    return next(each for each in _tree(module).body if isinstance(each, ast.ClassDef) and each.name == kind.__name__)


@cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))
