"""Templates that change lists: those that they made themselves, within bounds, and no others."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from jinja2.sandbox import SandboxedEnvironment

from histrio.errors import RequestError
from histrio_api.text import sandbox_limits
from histrio_api.text.sandbox import template_environment
from histrio_api.text.sandbox_limits import TemplateLimit
from histrio_api.text.template import ChatTemplate

USER: list[dict[str, Any]] = [{"role": "user", "content": "hello", "parts": ["a", "b"]}]
CHANGING = {
    "append": "{% set xs = [] %}{% for m in messages %}{% set _ = xs.append(m.content) %}{% endfor %}{{ xs }}",
    "a queue in a namespace": "{% set q = namespace(ids=[]) %}{% for i in range(4) %}"
    "{% set _ = q.ids.append('f' ~ i) %}{% endfor %}{{ q.ids.pop(0) }}{{ q.ids.pop() }}{{ q.ids }}",
    "all changes": "{% set xs = [3, 1, 2] %}{% do xs.insert(1, 9) %}{% do xs.extend([7, 8]) %}{% do xs.remove(1) %}"
    "{% do xs.reverse() %}{{ xs }}{% do xs.clear() %}{{ xs | length }}",
    "of itself": "{% set xs = [1, 2] %}{% do xs.extend(xs) %}{% do xs.extend(xs | map('string') | list) %}{{ xs }}",
    "copies of what is given": "{% set ms = messages[:] %}{% do ms.pop(0) %}{{ ms | length }}{{ messages | length }}"
    "{% set ms = messages | list %}{% do ms.append(1) %}{{ ms | length }}{% set ms = messages + [1] %}"
    "{% do ms.append(2) %}{{ ms | length }}",
    "as other lists": "{% set xs = [1] %}{% do xs.append(2) %}{{ xs == [1, 2] }}{{ xs is sequence }}{{ xs | tojson }}"
    "{{ (xs + [3]) | join('-') }}",
    "a macro": "{% macro f(xs, x) %}{% do xs.append(x) %}{% endmacro %}{% set ys = [] %}"
    "{{ f(ys, 1) }}{{ f(ys, 2) }}{{ ys }}",
}  # fmt: skip
REFUSED = {
    "what is given": "{% do messages.append(1) %}",
    "a part of what is given": "{% do messages[0].parts.append(1) %}",
    "a part of a copy": "{% set ms = messages[:] %}{% do ms[0].parts.clear() %}",
    "a part of something": "{% set x = [] %}{% set y = [x, x] %}{% do x.append(1) %}",
    "a part of a list that changed": "{% set x = [] %}{% set y = [] %}{% do y.append(x) %}{% do x.append(1) %}",
    "itself": "{% set x = [] %}{% do x.append(x) %}",
    "what is in a tuple of arguments": "{% macro f() %}{% set y = [varargs] %}{% endmacro %}{% set x = [] %}"
    "{{ f(x, x) }}{% do x.append(1) %}",
    "an object": "{% set d = {} %}{% do d.update(a=1) %}{% set x = [] %}{% do x.append(1) %}",
    "by sorting": "{% set x = [2, 1] %}{% do x.append(1) %}{% do x.sort() %}",
    "its class": "{% set x = [] %}{% do x.append(1) %}{{ x.__class__.__mro__ }}",
}  # fmt: skip
BOMBS = {
    "doubling": "{% set x = ['a'] %}{% for i in range(99) %}{% do x.extend(x) %}{% endfor %}",
    "many": "{% set x = [] %}{% for i in range(99999) %}{% do x.append(i) %}{% do x.append(i) %}{% endfor %}",
    "large ones": "{% set x = [] %}{% set t = 'a' * 900000 %}{% for i in range(9) %}{% do x.append(t) %}{% endfor %}",
    "while it is read": "{% set x = [1] %}{% for i in x %}{% do x.append(i) %}{% endfor %}",
    "in a tree": "{% set n = namespace(x=[1, 2]) %}{% for i in range(99) %}{% set y = [] %}{% do y.append(n.x) %}"
    "{% do y.append(n.x) %}{% set n.x = y %}{% endfor %}",
}  # fmt: skip
LAZY = "{% set xs = [1, 2] %}{% do xs.extend(xs | map('string')) %}{{ xs }}"
"""Without end in jinja's own sandbox."""


def rendered(source: str) -> str:
    environment = template_environment()
    environment.add_extension("jinja2.ext.do")
    return environment.bounded(source).render(messages=USER)


@pytest.mark.parametrize("source", CHANGING.values(), ids=CHANGING)
def test_what_it_made_itself_changes_as_in_jinja(source: str) -> None:
    judge = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.do"])
    expected = judge.from_string(source).render(messages=[dict(each) for each in USER])
    assert rendered(source) == expected
    assert rendered(source) == expected, "nothing is left of the rendering before"


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED)
def test_nothing_else_is_changed(source: str) -> None:
    before = repr(USER)
    with pytest.raises(jinja2.exceptions.SecurityError):
        rendered(source)
    assert repr(USER) == before


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_changes_are_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "MAX_CPU_S", 0.2)
    monkeypatch.setattr(sandbox_limits, "MAX_VALUE", 2**20)
    with pytest.raises(TemplateLimit):
        rendered(source)


def test_a_refusal_is_the_requests() -> None:
    with pytest.raises(RequestError, match="refuses these messages"):
        ChatTemplate({"default": "{% set _ = messages.append(1) %}"}, {}).render(USER)
    kept = ChatTemplate({"default": "{% set x = [] %}{% set _ = x.append(messages[0].content) %}{{ x[0] }}"}, {})
    assert kept.render(USER) == "hello", "a control"


def test_what_a_list_grows_by_is_read_before_it_grows() -> None:
    assert rendered(LAZY) == "[1, 2, '1', '2']"
