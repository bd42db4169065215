"""What a chat template may use up: text, values, processor time.

Templates are programs from strangers, and some never end or fill the memory. Before a template is compiled, calls are
put into its tree: where a loop or a macro begins, where something is written, and where values are put together. They
count against one account for each rendering. What Python does in a single call is bounded by what goes in, in
`sandbox_calls.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from histrio_api.text.sandbox_lists import CHANGES, TemplateList

__all__ = ["HOOKS", "MAX_VALUE", "Account", "Rendering", "TemplateLimit", "account", "bounded_tree"]

MAX_SOURCE_CHARS = 2**20
"""Published templates have up to 60,000."""
MAX_NODES = 200_000
MAX_CHARS = 2**27
"""Characters that one rendering makes, all values it forgets included; an entry of a list counts as several."""
MAX_VALUE = 2**24
"""The same, of one value."""
MAX_CPU_S = 3.0
_ENTRY_CHARS = 16
_ADDING_ONE = ("append", "insert")
"""Changes of a list after which it is not measured anew."""
_STEPS_PER_LOOK = 64
_LARGE_STEP = 2**16


class TemplateLimit(SecurityError):
    """The template takes more than it may; whatever it renders, this is its fault."""


class Account:
    """What one rendering has used."""

    def __init__(self) -> None:
        self._chars_left = MAX_CHARS
        self._num_steps = 0
        self._end: float | None = None
        """Of the time; short renderings are over before anything asks for it, which costs more than they do."""
        self._sizes: dict[int, tuple[int, Any]] = {}
        """By identity; the values are kept, so that no other gets the place of one."""
        self._held: dict[int, TemplateList] = {}
        """Lists that are part of something else, by identity."""

    def step(self, num_chars: int = 0) -> None:
        """Something was done that made so much. Raises `TemplateLimit`."""
        self._chars_left -= num_chars
        if self._chars_left < 0:
            raise TemplateLimit(f"it makes more than {MAX_CHARS} characters")
        self._num_steps += 1
        if self._num_steps % _STEPS_PER_LOOK == 0 or num_chars > _LARGE_STEP:
            self.look()

    def look(self) -> None:
        """Raise `TemplateLimit` if the time is up, which begins with the first look."""
        now = time.thread_time()
        if self._end is None:
            self._end = now + MAX_CPU_S
        if now > self._end:
            raise TemplateLimit(f"it computes for more than {MAX_CPU_S:g} s")

    def charge(self, value: Any) -> None:
        """A value was made. Raises `TemplateLimit`, also for a value that is too large by itself."""
        size = self.size(value)
        if size > MAX_VALUE:
            raise TemplateLimit(f"it makes a value of more than {MAX_VALUE} characters")
        self.step(size)

    def size(self, value: Any) -> int:
        """Characters and entries of a value as it would be written out, however often it holds the same one."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, Namespace):
            raise TemplateLimit("it treats a namespace as a value")
        if not isinstance(value, list | tuple | dict):
            return value.bit_length() // 3 if isinstance(value, int) else 1

        known = self._sizes.get(id(value))
        if known is None:
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            self._held.update((id(each), each) for each in inner if isinstance(each, TemplateList))
            known = self._sizes[id(value)] = (1 + sum(map(self.size, inner)) + _ENTRY_CHARS * len(inner), value)
        return known[0]

    def begin_change(self, changed: TemplateList, given: tuple[Any, ...]) -> None:
        """A list is about to be changed with these arguments. Raises `TemplateLimit` where it must not be."""
        num_chars = self.size(given)
        if id(changed) in self._held:
            raise TemplateLimit("it changes a list that is part of something else")
        if num_chars + self.size(changed) > MAX_VALUE:
            raise TemplateLimit(f"it makes a value of more than {MAX_VALUE} characters")
        self.step(num_chars)

    def end_change(self, changed: TemplateList, name: str, given: tuple[Any, ...]) -> None:
        """It was changed by the method of this name."""
        if name in _ADDING_ONE:
            self._sizes[id(changed)] = (self.size(changed) + self.size(given), changed)
        else:
            del self._sizes[id(changed)]


_account: ContextVar[Account | None] = ContextVar("_account", default=None)


def account() -> Account:
    """That of the rendering that goes on in this context; while a template is compiled, a fresh one."""
    return _account.get() or Account()


class Rendering:
    """Within the context everything counts against one account."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _account.set(Account())

    def __exit__(self, *_error: object) -> None:
        _account.reset(self._token)


def bounded_tree(environment: jinja2.Environment, source: str) -> nodes.Template:
    """The template's tree with the calls in it. Raises `TemplateLimit`, and what jinja raises for mistakes."""
    if len(source) > MAX_SOURCE_CHARS:
        raise TemplateLimit(f"it is longer than {MAX_SOURCE_CHARS} characters")

    tree = environment.parse(source)
    if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
        raise TemplateLimit(f"it has more than {MAX_NODES} parts")
    _Bounder(changes_lists=any(each.attr in CHANGES for each in tree.find_all(nodes.Getattr))).visit(tree)
    tree.set_environment(environment)
    return tree


class _Bounder(NodeTransformer):
    """Puts calls of the hooks below, which are attributes of the environment, into a tree."""

    def __init__(self, *, changes_lists: bool) -> None:
        """Most templates change no lists, and theirs are what Python makes."""
        self._changes_lists = changes_lists

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [each if isinstance(each, nodes.TemplateData) else _call("kept", [each]) for each in node.nodes]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:
            node.test = nodes.And(_call("ticked", [nodes.Const(0)]), node.test, lineno=node.lineno)
        return self._with_tick(node)

    def _with_tick(self, node: Any) -> nodes.Node:
        weight = sum(len(data.data) for each in node.body for data in _texts(each))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("ticked", [nodes.Const(weight)]), lineno=node.lineno))
        return node  # type: ignore[no-any-return]

    visit_Macro = visit_CallBlock = visit_Block = _with_tick

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", node.nodes)

    def _kept(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        is_read = getattr(node, "ctx", "load") == "load"
        is_plain = all(isinstance(each, nodes.Const) for each in getattr(node, "items", []))
        return _call("kept", [node]) if is_read and not is_plain else node

    visit_Tuple = visit_Dict = _kept

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node) if self._changes_lists else self._kept(node)

    def _made(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return _call("made", [node])

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        return self._made(node) if self._changes_lists else self.generic_visit(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        return self._made(node) if self._changes_lists and node.name == "list" else self.generic_visit(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        is_slice = isinstance(node.arg, nodes.Slice) and node.ctx == "load"
        if is_slice and self._changes_lists:
            return self._made(node)
        self.generic_visit(node)
        return _call("kept", [node]) if is_slice else node


def _texts(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _call(hook: str, arguments: list[nodes.Expr]) -> nodes.Call:
    lineno = arguments[0].lineno or 1
    call = nodes.Call(nodes.EnvironmentAttribute(hook), arguments, [], None, None)
    call.set_lineno(lineno)
    return call


def _ticked(num_chars: int) -> bool:
    """A round of a loop, or a macro, begins."""
    account().step(num_chars)
    return True


def _kept(value: Any) -> Any:
    """The value, which is written or was put together."""
    account().charge(value)
    return value


def _made(value: Any) -> Any:
    """The same of a list that was made just now, which may be changed."""
    return TemplateList(_kept(value)) if type(value) is list else _kept(value)


def _joined(*parts: Any) -> str:
    """What jinja's `~` gives."""
    texts = [each if isinstance(each, str) else str(_kept(each)) for each in parts]
    account().step(sum(map(len, texts)))
    return _kept("".join(texts)) if sum(map(len, texts)) <= MAX_VALUE else _kept(texts)  # type: ignore[no-any-return]


HOOKS = {"ticked": _ticked, "kept": _kept, "made": _made, "joined": _joined}
"""Name → what the tree calls; attributes of the environment under these names."""
