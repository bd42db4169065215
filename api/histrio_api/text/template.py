"""The model's chat template: messages to the text it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from histrio.errors import RequestError, UnsupportedModel
from histrio.grammar import THOUGHT_CLOSE, THOUGHT_OPEN
from histrio_api.text.sandbox import template_environment
from histrio_api.text.tools import CALL_CLOSE, CALL_OPEN

__all__ = ["ChatTemplate", "Message", "load_chat_template"]

Message = dict[str, Any]
"""A chat message as templates see it: plain JSON values only."""

MAX_ERROR_CHARS = 300
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_PROBE = "a text that no template writes"


class ChatTemplate:
    """One model's template, compiled once; `tool_use` may be a second one for requests with tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, Any]) -> None:
        """`sources` maps names to jinja text and has "default"; raises `UnsupportedModel` if one does not compile."""
        self._special_tokens = dict(special_tokens)
        self._sources = dict(sources)
        self._compiled = {name: _compile(name, source) for name, source in sources.items()}
        self._wants_parts = self._only_takes_parts()

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names a request may set (`enable_thinking` …): those the template reads and nobody else gives."""
        names: set[str] = set()
        for source in self._sources.values():
            names |= meta.find_undeclared_variables(template_environment().parse(source))
        return frozenset(names - _OURS - self._special_tokens.keys() - template_environment().globals.keys())

    @property
    def knows_developer(self) -> bool:
        """Whether the role `developer` means something to it; otherwise such messages are system messages."""
        return any("developer" in source for source in self._sources.values())

    @property
    def writes_tools(self) -> bool:
        """Whether it puts tool definitions into the prompt."""
        return any("tools" in source for source in self._sources.values())

    @property
    def has_hermes_calls(self) -> bool:
        """Whether tool calls are written as JSON between `<tool_call>` and `</tool_call>`."""
        sources = self._sources.values()
        return any(CALL_OPEN in each and CALL_CLOSE in each and "<function=" not in each for each in sources)

    @cached_property
    def knows_thoughts(self) -> bool:
        """Whether answers may begin with a thought between `<think>` and `</think>`."""
        return any(THOUGHT_CLOSE in source for source in self._sources.values())

    @cached_property
    def thinks_unasked(self) -> bool:
        """Whether the model opens a thought itself: it knows thoughts, and no variable makes the prompt open one."""
        return self.knows_thoughts and not any(
            self._opens_thought(given) for given in ({}, *({name: True} for name in self.variables))
        )

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. Raises `RequestError` if the template refuses the messages."""
        name = "tool_use" if tools and "tool_use" in self._compiled else "default"
        if self._wants_parts:
            messages = [_as_parts(message) for message in messages]
        values = self._special_tokens | variables
        try:
            return self._compiled[name].render(
                values, messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:
            text = str(error)[:MAX_ERROR_CHARS]
            raise RequestError(f"the model's chat template refuses these messages: {text}", param="messages") from error
        except Exception as error:  # a template is a program of its own: any error in it is about these messages
            what = type(error).__name__
            raise RequestError(
                f"the model's chat template failed on these messages ({what})", param="messages"
            ) from error

    def _opens_thought(self, variables: Mapping[str, Any]) -> bool:
        try:
            text = self.render([{"role": "user", "content": _PROBE}], **variables)
        except RequestError:  # it refuses what it is asked
            return False
        return text.rstrip().endswith(THOUGHT_OPEN)

    def _only_takes_parts(self) -> bool:
        """Whether a plain string as content is lost, but a list of parts is written (some multimodal families)."""
        try:
            if _PROBE in self.render_unchecked([{"role": "user", "content": _PROBE}]):
                return False
            return _PROBE in self.render_unchecked([{"role": "user", "content": [{"type": "text", "text": _PROBE}]}])
        except Exception:  # it cannot be asked: strings are what nearly all templates take
            return False

    def render_unchecked(self, messages: Sequence[Message]) -> str:
        """Render with the default template and let every error out."""
        return self._compiled["default"].render(
            self._special_tokens, messages=messages, tools=None, add_generation_prompt=True
        )


def load_chat_template(folder: str | Path) -> ChatTemplate | None:
    """Read the template of a model's folder, or None if it has none.

    chat_template.jinja comes first (with additional_chat_templates/NAME.jinja), then chat_template.json, then the key
    in tokenizer_config.json, a string or a list of named ones. Raises `UnsupportedModel` if it does not compile.
    """
    root = Path(folder)
    config = _read_json(root / "tokenizer_config.json")
    sources = _sources(root, config)
    if not sources:
        return None

    sources.setdefault("default", next(iter(sources.values())))
    return ChatTemplate(sources, _special_tokens(_read_json(root / "special_tokens_map.json") | config))


def _sources(root: Path, config: dict[str, Any]) -> dict[str, str]:
    if (path := root / "chat_template.jinja").is_file():
        extra = sorted((root / "additional_chat_templates").glob("*.jinja"))
        named = {other.stem: other.read_text(encoding="utf-8") for other in extra}
        return named | {"default": path.read_text(encoding="utf-8")}

    found = _read_json(root / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list):
        return {entry["name"]: entry["template"] for entry in found}
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModel(f"{path}: not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Every `*_token` of the configuration as its text (`bos_token`, `eos_token` …)."""
    tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _as_parts(message: Message) -> Message:
    content = message.get("content")
    return message | {"content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _compile(name: str, source: str) -> jinja2.Template:
    try:
        return template_environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UnsupportedModel(f"chat template {name!r}, line {error.lineno}: {error.message}") from error
