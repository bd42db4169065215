"""The model's chat template: messages to the text it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes

from histrio.config.model_files import read_json_object, read_model_text
from histrio.contracts.reasoning_format import WrittenAnswer
from histrio.contracts.tool_format import WrittenCall
from histrio.errors import RequestError, UnsupportedModel
from histrio_api.text.sandbox import template_environment
from histrio_api.text.sandbox_limits import TemplateLimit
from histrio_api.text.template_forms import (
    PLAIN,
    PROBE_TOOLS,
    ROLES,
    WRAPPING,
    Message,
    TemplateForm,
    learn_form,
    writes_role,
    written_answer,
    written_call,
)

__all__ = ["ChatTemplate", "Message", "load_chat_template"]

MAX_ERROR_CHARS = 300
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_ASKS_WHETHER_GIVEN = frozenset({"defined", "undefined", "default", "d"})
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_MAX_ROLES = 64
"""Other roles that clients may ask for; beyond them none is taken."""
_PROBE = "a text that no template writes"


class ChatTemplate:
    """One model's template, compiled once; `tool_use` may be a second one for requests with tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """`sources` maps names to jinja text and has "default"; raises `UnsupportedModel` if one does not compile."""
        self.special_tokens = dict(special_tokens)
        """`bos_token`, `eos_token` and the like, as the tokenizer declares them."""
        self._sources = dict(sources)
        self._compiled = {name: _compile(name, source) for name, source in sources.items()}
        self._forms: dict[tuple[str, bool], TemplateForm] = {}
        self._roles: dict[str, bool] = {}
        self._unasked: dict[str, bool] = {}

    @property
    def source(self) -> str:
        """The template's text, of requests without tools where those with tools have another."""
        return self._sources["default"]

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names a request may set (`enable_thinking` …): read by the template, not set by the endpoint."""
        trees = [template_environment().parse(source) for source in self._sources.values()]
        names = frozenset().union(*map(_open_names, trees))
        return names - _OURS - self.special_tokens.keys() - template_environment().globals.keys()

    def takes_role(self, role: str) -> bool:
        """Whether messages of this role mean something to it: it writes what they say.

        Of `developer` it has to speak, because templates that name no roles write any. `function` was `tool` once.
        """
        if role in ROLES or role == "function":
            return role in ROLES
        if role == "developer":
            return any(role in source for source in self._sources.values())
        if role not in self._roles and len(self._roles) < _MAX_ROLES and _ROLE.fullmatch(role):
            self._roles[role] = writes_role(partial(self._render_probe, "default", False), role)
        return self._roles.get(role, False)

    @cached_property
    def written_call(self) -> WrittenCall | None:
        """What it makes of a call; None if it does not write tools into the prompt."""
        name = self._name_for(has_tools=True)
        return written_call(partial(self._render_probe, name, True), self._form(name, True), self._sources[name])

    @cached_property
    def written_answer(self) -> WrittenAnswer:
        """What it makes of an answer."""
        return written_answer(partial(self._render_probe, "default", False), "\n".join(self._sources.values()))

    def reasons_unasked(self, opening: str) -> bool:
        """Whether a model that reasons behind this mark writes it by itself: no variable makes the prompt do so."""
        if opening not in self._unasked:
            given = ({}, *({name: True} for name in self.variables))
            self._unasked[opening] = not any(self._opens(opening, each) for each in given)
        return self._unasked[opening]

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. Raises `RequestError` if the template refuses the messages."""
        name = self._name_for(has_tools=bool(tools))
        form = self._form(name, bool(tools))
        values = self.special_tokens | variables
        given = {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        tried: list[list[Message]] = []
        failures: list[Exception] = []
        for each in (form, PLAIN, WRAPPING):
            fitted = [each.fit(message) for message in messages]
            if fitted in tried:
                continue
            tried.append(fitted)
            try:
                return self._compiled[name].render(values, messages=fitted, **given)
            except TemplateLimit as error:  # another form of the messages would be no shorter
                raise _refusal(error) from error
            except Exception as error:  # a template is a program of its own: any error in it is about these messages
                failures.append(error)
        raise _refusal(failures[0]) from failures[0]

    def prepare(self) -> None:
        """Learn now what requests will ask for, so that none of them waits for it.

        Raises `UnsupportedModel` for a template that takes more than it may for the short chats it is asked with.
        """
        for has_tools in (False, True):
            self._form(self._name_for(has_tools=has_tools), has_tools)
        _ = self.written_call, self.written_answer, self.variables

    def _name_for(self, *, has_tools: bool) -> str:
        return "tool_use" if has_tools and "tool_use" in self._compiled else "default"

    def _form(self, name: str, has_tools: bool) -> TemplateForm:
        """Asked for once: short conversations are rendered to learn it."""
        key = (name, has_tools)
        if key not in self._forms:
            self._forms[key] = learn_form(partial(self._render_probe, *key))
        return self._forms[key]

    def _render_probe(self, name: str, has_tools: bool, messages: Sequence[Message]) -> str:
        tools = PROBE_TOOLS if has_tools else None
        try:
            return self._compiled[name].render(
                self.special_tokens, messages=messages, tools=tools, documents=None, add_generation_prompt=True
            )
        except TemplateLimit as error:
            raise UnsupportedModel(f"chat template {name!r}: {error}") from None

    def _opens(self, opening: str, variables: Mapping[str, Any]) -> bool:
        try:
            text = self.render([{"role": "user", "content": _PROBE}], **variables)
        except RequestError as error:
            if isinstance(error.__cause__, TemplateLimit):
                raise UnsupportedModel(f"chat template: {error.__cause__}") from None
            return False  # it refuses what it is asked
        return text.rstrip().endswith(opening.rstrip())


def load_chat_template(folder: str | Path) -> ChatTemplate | None:
    """Read the template of a model's folder, or None if it has none.

    chat_template.jinja comes first (with additional_chat_templates/NAME.jinja), then chat_template.json, then the key
    in tokenizer_config.json, a string or a list of named ones. Raises `ModelError` with the file's name for one that
    does not compile, or takes more than it may.
    """
    root = Path(folder)
    config = read_json_object(root / "tokenizer_config.json", optional=True)
    file, sources = _sources(root, config)
    if not sources:
        return None

    sources.setdefault("default", next(iter(sources.values())))
    tokens = read_json_object(root / "special_tokens_map.json", optional=True) | config
    try:
        template = ChatTemplate(sources, _special_tokens(tokens))
        template.prepare()
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{file}: {error}") from None
    return template


def _sources(root: Path, config: dict[str, Any]) -> tuple[Path, dict[str, str]]:
    """Name → jinja text, and the file that has it, or the first of them. Raises `ModelError` with the file's name."""
    if (path := root / "chat_template.jinja").exists():
        extra = sorted((root / "additional_chat_templates").glob("*.jinja"))
        named = {other.stem: read_model_text(other) for other in extra}
        return path, named | {"default": read_model_text(path)}

    path = root / "chat_template.json"
    found = read_json_object(path, optional=True).get("chat_template")
    if not found:
        path, found = root / "tokenizer_config.json", config.get("chat_template")
    if found is None or isinstance(found, str):
        return path, {"default": found} if found else {}

    texts: dict[str, str] = {}
    for entry in found if isinstance(found, list) else [found]:
        name, text = (entry.get(key) if isinstance(entry, dict) else None for key in ("name", "template"))
        if not isinstance(name, str) or not isinstance(text, str):
            raise UnsupportedModel(
                f"{path}: chat_template must be a text, or a list of objects of `name` and `template`"
            )
        texts[name] = text
    return path, texts


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Every `*_token` of the configuration as its text (`bos_token`, `eos_token` …)."""
    tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _open_names(tree: nodes.Template) -> set[str]:
    """What a template reads from outside. What it sets itself counts only if it asks whether that was given."""
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    return meta.find_undeclared_variables(tree) - (stored - _names_asked_for(tree, frozenset()))


def _names_asked_for(node: nodes.Node, parameters: frozenset[str]) -> set[str]:
    """Names of which a template asks whether they are given, but for the parameters of its macros."""
    if isinstance(node, nodes.Macro):
        parameters = parameters.union(each.name for each in node.args)
    asked = set()
    if isinstance(node, nodes.Test | nodes.Filter) and node.name in _ASKS_WHETHER_GIVEN:
        asked = {node.node.name} - parameters if isinstance(node.node, nodes.Name) else set()
    return asked.union(*(_names_asked_for(child, parameters) for child in node.iter_child_nodes()))


def _refusal(error: Exception) -> RequestError:
    if isinstance(error, jinja2.TemplateError):
        text = f"the model's chat template refuses these messages: {str(error)[:MAX_ERROR_CHARS]}"
    else:
        text = f"the model's chat template failed on these messages ({type(error).__name__})"
    return RequestError(text, param="messages")


def _compile(name: str, source: str) -> jinja2.Template:
    try:
        return template_environment().bounded(source)
    except jinja2.TemplateSyntaxError as error:
        raise UnsupportedModel(f"chat template {name!r}, line {error.lineno}: {error.message}") from error
    except TemplateLimit as error:
        raise UnsupportedModel(f"chat template {name!r}: {error}") from None
    except (SyntaxError, RecursionError, MemoryError):  # of the Python that jinja makes of it
        raise UnsupportedModel(f"chat template {name!r} is nested too deep") from None
