"""Chat templates are programs from strangers: what one uses up is bounded, when it is loaded and for each request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histrio.errors import ModelError, RequestError, UnsupportedModel
from histrio_api.text import sandbox_limits
from histrio_api.text.sandbox import template_environment
from histrio_api.text.sandbox_limits import TemplateLimit
from histrio_api.text.template import ChatTemplate, load_chat_template

USER = [{"role": "user", "content": "hello"}]
MANY = "{% for a in range(99999) %}"
GROW = "{% set ns = namespace(x=['a']) %}{% for i in range(64) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
NESTED = (
    "{% set ns = namespace(x=1) %}{% for i in range(40) %}{% set next = namespace(a=ns.x, b=ns.x) %}"
    "{% set ns.x = next %}{% endfor %}"
)

ENDLESS = {
    "loops": f"{MANY * 3}x{'{% endfor %}' * 3}",
    "silent loops": MANY * 3 + "{% endfor %}" * 3,
    "filtered loops": f"{MANY}{MANY.replace(' %}', ' if false %}')}{'{% endfor %}' * 2}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}
LARGE = {
    "concatenation": GROW.replace("STEP", "ns.x ~ ns.x"),
    "addition": GROW.replace("STEP", "ns.x + ns.x"),
    "lists": GROW.replace("STEP", "[ns.x, ns.x]"),
    "tuples": GROW.replace("STEP", "(ns.x, ns.x)"),
    "objects": GROW.replace("STEP", "{'a': ns.x, 'b': ns.x}"),
    "dict": GROW.replace("STEP", "dict(a=ns.x, b=ns.x)"),
    "replacement": GROW.replace("STEP", "(ns.x | string).replace('a', ns.x | string)"),
    "replace filter": GROW.replace("STEP", "ns.x | string | replace('a', 'aaaaaa')"),
    "blocks": GROW.replace("{% set ns.x = STEP %}", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "namespaces": NESTED + "{{ ns.x }}",
    "namespaces as text": NESTED + "{{ ns.x | string | length }}{{ '%s' % ns.x }}",
    "namespaces in formats": NESTED + "{{ '{}'.format(ns.x) }}",
    "center": "{{ 'a' | center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "tabs": "{{ '\t'.expandtabs(10000000000) }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "width of format": "{{ '{:>{w}}'.format(1, w=9999999999) }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (9999999999, 1) }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "repetition": "{{ 'a' * 10**10 }}{{ 10**10 * [1] }}",
    "power": "{{ 2 ** (10 ** 10) }}",
    "rounding": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "batch": "{{ 'abc' | batch(10000000000, 'x') | list }}",
    "slice": "{{ 'abc' | slice(10000000000) | list }}",
    "json": "{{ {'a': [1]} | tojson(indent=10000000000) }}",
    "indent": "{{ ('\n' * 1000000) | indent('x' * 1000) }}",
    "join": "{{ (range(99999) | list) | join('a' * 10000000) }}",
    "join of a range": "{{ range(99999) | join('a' * 1000000) }}",
    "join of a map": "{{ ('a' * 1000000).join(range(99999) | map('string')) }}",
    "sum": "{{ [[1] * 10000] * 1000 | sum(start=[]) }}{{ [[1]] | sum(start=[]) }}",
    "output": "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
    "text": MANY + "x" * 100_000 + "{% endfor %}",
    "output of macros": "{% macro f() %}" + MANY + "{{ 'a' * 999999 }}{% endfor %}{% endmacro %}{{ f() }}",
    "blocks called": "{% block b %}" + "y" * 100_000 + "{% endblock %}" + MANY + "{{ self.b() }}{% endfor %}",
    "callers": "{% macro m() %}" + MANY + "{{ caller() }}{% endfor %}{% endmacro %}{% call m() %}"
    + "y" * 9999 + "{% endcall %}",
    "parts of texts": "{% macro f(s) %}{% set t = s[1:] %}{{ f(t) }}{% endmacro %}{{ f('a' * 10000000) }}",
    "tables": "{{ ('a' * 10000).translate({97: 'b' * 100000}) }}",
    "filter block": "{% filter center(10000000000) %}a{% endfilter %}",
}  # fmt: skip
MISSPELT = {
    "deep blocks": "{% if x %}" * 600 + "{% endif %}" * 600,
    "deep loops": "{% for i in x %}" * 30 + "{% endfor %}" * 30,
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "long sums": "{{ " + "+".join("1" * 20_000) + " }}",
    "long text": "a" * 2**21,
    "words of no filter": "{{ 'a' | urlize }}",
}


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for seconds."""
    monkeypatch.setattr(sandbox_limits, "MAX_CPU_S", 0.2)
    monkeypatch.setattr(sandbox_limits, "MAX_VALUE", 2**20)


@pytest.mark.parametrize("source", [*ENDLESS.values(), *LARGE.values()], ids=[*ENDLESS, *LARGE])
def test_a_bomb_ends_as_an_error_of_its_template(source: str) -> None:
    with pytest.raises(TemplateLimit):
        template_environment().bounded(source).render(messages=USER)


@pytest.mark.parametrize("source", [ENDLESS["loops"], LARGE["center"], LARGE["addition"]])
def test_a_bomb_is_refused_at_load_and_names_its_file(source: str, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    with pytest.raises(UnsupportedModel, match=r"chat_template\.jinja: chat template 'default': it (makes|comp|calls)"):
        load_chat_template(tmp_path)


@pytest.mark.parametrize("source", [ENDLESS["loops"], LARGE["center"]])
def test_a_bomb_behind_a_condition_is_the_requests_error(source: str) -> None:
    condition = "{% if messages | length > 20 %}"
    template = ChatTemplate({"default": condition + source + "{% endif %}{{ messages[0].content }}"}, {})
    template.prepare()
    assert template.render(USER) == "hello"
    with pytest.raises(RequestError, match=r"refuses these messages: it (makes|computes|calls)"):
        template.render(USER * 21)
    assert template.render(USER) == "hello", "each rendering has an account of its own"


@pytest.mark.parametrize("source", MISSPELT.values(), ids=MISSPELT)
def test_what_does_not_compile_names_its_file(source: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    with pytest.raises(UnsupportedModel, match=r"tokenizer_config\.json: chat template 'default'"):
        load_chat_template(tmp_path)


@pytest.mark.parametrize("found", [5, {"a": "b"}, [{"name": "default"}], [{"name": 1, "template": "x"}], ["x"]])
def test_a_template_of_another_form_is_named(found: object, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": found}))
    with pytest.raises(UnsupportedModel, match=r"tokenizer_config\.json: chat_template must be"):
        load_chat_template(tmp_path)


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"chat_template\.jinja is not a text in UTF-8"):
        load_chat_template(tmp_path)


def test_what_templates_do_stays_within_the_bounds() -> None:
    """A control: every form that is bounded above, in a size that real templates have."""
    source = (
        "{% set ns = namespace(x=['a'], seen=false) %}{% for i in range(3) if i %}{% set ns.x = ns.x + [i ~ '-' ~ i] %}"
        "{% endfor %}{{ ns.x | join(', ') }} {{ '%-5s|' % 'ab' }}{{ '{:>4}'.format(7) }}{{ 'a' * 3 }}"
        "{{ 'x' | center(5) }}"
        "{% for m in messages recursive %}{{ loop.index }}/{{ loop.length }}{{ m.content[1:] }}{% if m.get('inner') %}"
        "{{ loop(m.inner) }}{% endif %}{% endfor %}{{ {'a': [1, (2, 3)]} | tojson(indent=1) }}"
        "{{ ', '.join(messages | map(attribute='role')) }}{{ 2 ** 10 }}{{ 'aXa'.replace('X', '--') }}{{ [1, 2] | sum }}"
    )
    inner = [{"role": "user", "content": "inner"}]
    text = template_environment().bounded(source).render(messages=[USER[0] | {"inner": inner}])
    assert text == (
        "a, 1-1, 2-2 ab   |   7aaa  x  1/1ello1/1nner"
        '{\n "a": [\n  1,\n  [\n   2,\n   3\n  ]\n ]\n}user1024a--a3'
    )  # fmt: skip
