"""The jinja environment chat templates run in.

Templates are programs from strangers, so it is jinja's immutable sandbox, with block trimming, `tojson`,
`raise_exception`, `strftime_now` and `{% generation %}` as the hub's templates expect them. What a rendering may use up
is bounded: `sandbox_limits.py` counts, `sandbox_calls.py` looks at single calls.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from histrio_api.text.sandbox_calls import bound_filters, check_format, check_method, check_operator
from histrio_api.text.sandbox_limits import HOOKS, Rendering, account, bounded_tree
from histrio_api.text.sandbox_lists import CHANGES, TemplateList

__all__ = ["TemplateEnvironment", "template_environment"]

_JINJAS_OWN = ("_loop_vars", "_block_vars")
"""Arguments that jinja adds to calls."""
_UNUSED_GLOBALS = ("lipsum", "cycler", "joiner")


class _Template(jinja2.Template):
    """Each rendering has an account of its own."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """The text. Raises `TemplateLimit` beside what jinja raises."""
        with Rendering():
            return super().render(*args, **kwargs)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """jinja's immutable sandbox, with bounds."""

    template_class = _Template
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in _UNUSED_GLOBALS:
            del self.globals[name]
        vars(self).update(HOOKS)

    def bounded(self, source: str) -> jinja2.Template:
        """The compiled template. Raises `TemplateLimit` beside what jinja and Python raise for mistakes."""
        template = self.from_string(bounded_tree(self, source))
        template.globals = dict(template.globals)  # jinja's own are a chain, which each rendering would go through
        return template

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call something that a template names."""
        if type(obj) is types.FunctionType and obj in _HOOKS:
            return obj(*args)

        own = account()
        own.step()
        native = getattr(obj, "__wrapped__", obj)  # of `format`, which jinja wraps
        is_native = isinstance(native, types.BuiltinMethodType)
        if is_native:
            if native.__name__ == "join" and args:
                args = (list(args[0]), *args[1:])  # what is made on the way is measured before it is joined
            given = [*args, *(value for name, value in kwargs.items() if name not in _JINJAS_OWN)]
            check_method(native.__name__, native.__self__, given)
            if isinstance(native.__self__, TemplateList) and native.__name__ in CHANGES:
                return self._change(context, obj, args)
        result = super().call(context, obj, *args, **kwargs)
        if is_native or obj is dict:
            own.charge(result)
        return result

    def _change(self, context: Context, method: Any, given: tuple[Any, ...]) -> Any:
        if method.__name__ == "extend":
            given = tuple(list(each) for each in given)  # it may be made of the very list that grows
        account().begin_change(method.__self__, given)
        result = super().call(context, method, *given)
        account().end_change(method.__self__, method.__name__, given)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read it: of what changes lists, the methods of those that it made itself."""
        return (isinstance(obj, TemplateList) and attr in CHANGES) or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator."""
        check_operator(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        account().charge(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`format` of a string that does not pad."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_format(value.__self__)
        return wrapped


_HOOKS = frozenset(HOOKS.values())


def template_environment() -> TemplateEnvironment:
    """The environment that templates of the hub are written for."""
    environment = TemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.filters = bound_filters(environment.filters)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model is trained on; to a prompt it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's own statements, in a scope of their own as training tools have it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [nodes.Scope(body, lineno=line)]


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it: jinja's own filter would escape `<`, `>`, `&` and quotes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
