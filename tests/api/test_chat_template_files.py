"""Where the chat template comes from, and what happens when there is none or it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histrio.errors import ModelError, RequestError, UnsupportedModel
from histrio_api.text.template import ChatTemplate, load_chat_template

USER = [{"role": "user", "content": "hello"}]


def write_config(folder: Path, **config: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def rendered(folder: Path, **variables: object) -> str:
    template = load_chat_template(folder)
    assert template is not None
    return template.render(USER, **variables)  # type: ignore[arg-type]


def test_a_folder_without_template_has_none(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None
    write_config(tmp_path, bos_token="<s>")
    assert load_chat_template(tmp_path) is None


def test_the_jinja_file_comes_before_the_configuration(tmp_path: Path) -> None:
    write_config(tmp_path, chat_template="configuration")
    assert rendered(tmp_path) == "configuration"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json file"}))
    assert rendered(tmp_path) == "json file"
    (tmp_path / "chat_template.jinja").write_text("jinja file")
    assert rendered(tmp_path) == "jinja file"


def test_the_template_named_tool_use_is_taken_for_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools: {{ tools | length }}"}]
    write_config(tmp_path, chat_template=named)
    assert rendered(tmp_path) == "plain"
    assert rendered(tmp_path, tools=[{}, {}]) == "tools: 2"


def test_additional_templates_are_read_beside_the_jinja_file(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    assert rendered(tmp_path) == "plain"
    assert rendered(tmp_path, tools=[{}]) == "with tools"


def test_special_tokens_are_given_as_text(tmp_path: Path) -> None:
    source = "{{ bos_token }}{{ eos_token }}{{ add_bos_token }}"
    write_config(tmp_path, chat_template=source, bos_token={"content": "<s>"}, eos_token="</s>", add_bos_token=True)
    assert rendered(tmp_path) == "<s></s>"


def test_a_template_that_takes_only_parts_gets_parts() -> None:
    only_parts = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    assert ChatTemplate({"default": only_parts}, {}).render(USER) == "hello"
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert ChatTemplate({"default": plain}, {}).render(USER) == "hello"


def test_a_template_that_does_not_compile_names_its_line() -> None:
    with pytest.raises(UnsupportedModel, match="line 2"):
        ChatTemplate({"default": "ok\n{% if %}"}, {})


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        load_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[5].content.x }}", "refuses"),
        ("{{ 1 + messages }}", "TypeError"),
        ("{{ messages.__class__.__mro__ }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
    ],
)
def test_a_template_that_fails_is_the_requests_fault(source: str, text: str) -> None:
    with pytest.raises(RequestError, match=text) as caught:
        ChatTemplate({"default": source}, {}).render(USER)
    assert caught.value.param == "messages"


def test_variables_are_what_the_template_reads_and_no_request_gives() -> None:
    source = (
        "{{ bos_token }}{{ enable_thinking }}{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('') }}"
    )
    assert ChatTemplate({"default": source}, {"bos_token": "<s>"}).variables == {"enable_thinking"}
