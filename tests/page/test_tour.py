"""The page in a browser: what a person does with it, from the first message to the last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from histrio.config.model_kind import ModelKind
from histrio.contracts.gateway import Delta, Submission
from histrio.errors import RequestError
from histrio.messages import Extras, RequestState
from histrio_api.testing import Gate, Script, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from tests.page.conftest import Served

MARKDOWN = """**bold** <img src="x" onerror="window.hurt = 1"><script>window.hurt = 1</script>

[good](http://127.0.0.1/a) [bad](javascript:window.hurt=1) ![picture](http://example.invalid/p.png)

| left | right |
|---|--:|
| 1 | 2 |

```python
print("a < b")
```
"""
TOOLS = '[{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_an_answer_streams_is_stopped_and_given_again(served: Served) -> None:
    gate, page = Gate(), served.page
    served.plays([Delta(served.ids("It begins"), RequestState.DECODING), gate, *saying(served.ids(" and ends."))])
    served.send("Go on")
    page.wait_for_selector(".message:last-child .text:has-text('It begins')")
    assert served.last.get_attribute("aria-busy") == "true"
    page.keyboard.press("Escape")
    page.wait_for_selector(".message:last-child .end:has-text('Stopped')")
    assert served.gateway.streams[-1].was_cancelled.wait(5)
    served.says("It begins and ends.")
    served.last.get_by_label("Answer again").click()
    page.wait_for_selector(".message:last-child .text:has-text('It begins and ends.')")
    assert page.locator(".message").count() == 2
    page.wait_for_selector("#send:visible")
    assert "first token after" in served.last.locator(".speed").inner_text()
    assert page.locator("#context").inner_text().startswith("Context ")


def test_enter_sends_and_shift_enter_begins_a_line(served: Served) -> None:
    served.says("Fine.")
    served.page.fill("#input", "one")
    served.page.press("#input", "Shift+Enter")
    served.page.keyboard.type("two")
    assert served.page.input_value("#input") == "one\ntwo"
    served.page.press("#input", "Enter")
    served.page.wait_for_selector(".message:last-child .text:has-text('Fine.')")
    assert "one\ntwo<|im_end|>" in served.prompt


def test_markdown_is_shown_and_nothing_in_it_runs_or_loads(served: Served) -> None:
    served.ask("Show me", MARKDOWN)
    text = served.last.locator(".text")
    assert text.locator("strong").inner_text() == "bold"
    assert text.locator("img, script").count() == 0
    assert "<img src=" in text.inner_text()
    assert text.locator("a").first.get_attribute("href") == "http://127.0.0.1/a"
    assert text.locator("a[href^='javascript']").count() == 0
    assert served.page.evaluate("window.hurt") is None
    assert served.page.evaluate("getComputedStyle(document.querySelector('td.right')).textAlign") == "right"
    text.get_by_role("button", name="Copy").click()
    assert served.page.evaluate("navigator.clipboard.readText()") == 'print("a < b")\n'


def test_a_question_is_edited_and_asked_again(served: Served) -> None:
    served.ask("What is teh time?", "Noon.")
    served.ask("And now?", "One.")
    first = served.page.locator(".message.user").first
    first.get_by_label("Edit").click()
    first.locator("textarea").fill("What is the time?")
    served.says("Two.")
    first.get_by_role("button", name="Send again").click()
    served.page.wait_for_selector(".message:last-child .text:has-text('Two.')")
    assert served.page.locator(".message").count() == 2
    assert "What is the time?" in served.prompt
    assert "Noon." not in served.prompt


def test_conversations_are_kept_found_renamed_and_deleted(served: Served) -> None:
    page = served.page
    served.ask("About apples", "Red.")
    page.click("#new")
    served.ask("About pears", "Green.")
    page.reload()
    page.wait_for_selector(".conversation >> nth=1")
    assert page.locator(".conversation").all_inner_texts() == ["About pears", "About apples"]
    page.fill("#search", "red.")
    assert page.locator(".conversation").all_inner_texts() == ["About apples"]
    page.click(".conversation")
    assert page.locator(".message .text").inner_text() == "Red."
    page.get_by_label("Rename “About apples”").click()
    page.get_by_label("Name of the conversation").fill("Fruit")
    page.keyboard.press("Enter")
    page.wait_for_selector("#title:has-text('Fruit')")
    page.fill("#search", "")
    page.get_by_label("Delete “Fruit”").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_selector(".welcome")
    assert page.locator(".conversation").all_inner_texts() == ["About pears"]


def test_a_full_store_is_said(served: Served) -> None:
    full = "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('', 'QuotaExceededError'); }; }"
    served.page.evaluate(full)
    served.ask("Keep this", "No.")
    served.page.wait_for_selector("#notice:has-text('no room')")


def test_settings_are_those_of_the_server_and_are_sent(served: Served) -> None:
    page = served.page
    page.click("#open-settings")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("button", name="Precise").click()
    assert page.get_by_label("temperature", exact=True).input_value() == "0.2"
    page.get_by_label("temperature", exact=True).fill("3")
    assert "from 0 to 2" in page.locator(".field-error:visible").inner_text()
    page.get_by_label("temperature", exact=True).fill("1.5")
    assert page.locator(".field-error:visible").count() == 0
    page.get_by_label("max_tokens", exact=True).fill("7")
    page.get_by_label("stop", exact=True).fill("END\n\\n")
    served.ask("Hello", "Hi.")
    submission = served.gateway.submissions[-1]
    assert submission.ask.sampling == {"temperature": 1.5, "top_p": 0.9}
    assert submission.max_new_tokens == 7
    assert "Be brief." in served.prompt


def test_reasoning_is_folded_and_a_tool_is_answered(served: Served) -> None:
    page = served.page
    page.click("#open-settings")
    page.get_by_label("Tools", exact=True).fill(TOOLS)
    page.click("#close-settings")
    served.ask("How is the weather in Oslo?", f"<think>\nI ask the tool.\n</think>\n\n{CALL}")
    reasoning = served.last.locator("details")
    assert reasoning.get_attribute("open") is None
    reasoning.locator("summary").click()
    assert reasoning.locator(".reasoning-text").inner_text().strip() == "I ask the tool."
    assert json.loads(served.last.locator(".call pre").inner_text()) == {"city": "Oslo"}
    served.says("It snows.")
    served.last.get_by_label("Result of weather").fill("snow")
    served.last.get_by_role("button", name="Give this result").click()
    page.wait_for_selector(".message:last-child .text:has-text('It snows.')")
    assert "<tool_response>\nsnow\n</tool_response>" in served.prompt


def test_the_form_of_an_answer_is_asked_for(served: Served) -> None:
    served.page.click("#open-settings")
    served.page.get_by_label("Form of the answer").select_option("json_schema")
    served.page.get_by_label("JSON schema").fill("{")
    served.page.wait_for_selector(".field-error:visible:has-text('must be JSON')")
    served.page.get_by_label("JSON schema").fill('{"type": "object", "properties": {"a": {"type": "integer"}}}')
    served.ask("JSON, please", '{"a": 1}')
    grammar = served.gateway.submissions[-1].ask.grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"


def test_errors_are_the_servers_words_and_can_be_tried_again(open_page: Callable[..., Served]) -> None:
    served = open_page()
    served.page.wait_for_selector("#model:not(:empty)")
    served.gateway.refusal = RequestError("top_p: the server says why", param="top_p")
    served.send("Hello")
    served.page.wait_for_selector(".error:has-text('the server says why')")
    served.gateway.refusal = None
    served.says("Hi.")
    served.page.get_by_role("button", name="Try again").click()
    served.page.wait_for_selector(".message:last-child .text:has-text('Hi.')")
    assert served.page.locator(".error").count() == 0


def test_what_is_sent_while_the_model_loads_is_answered_when_it_can_be(open_page: Callable[..., Served]) -> None:
    served = open_page()
    page, status = served.page, served.gateway.status
    page.wait_for_selector("#model:not(:empty)")
    status.state, status.detail, status.progress = "loading", "stage 0: layer 3", 0.4
    served.says("Hi.")
    served.send("Hello")
    page.wait_for_selector("#banner:has-text('stage 0: layer 3')")
    assert page.evaluate("document.getElementById('banner-progress').value") == pytest.approx(0.4)
    status.state = "ready"
    page.wait_for_selector(".message:last-child .text:has-text('Hi.')")
    assert page.locator("#banner:visible").count() == 0


def test_the_key_is_asked_for_and_sent(open_page: Callable[..., Served], model: Path) -> None:
    gateway = ScriptedGateway(served_model(model), lambda submission, choice: saying([5]))
    served = open_page()
    with running_endpoint(gateway, **{"api-keys": ["sesame"]}) as url:
        page = served.page
        page.goto(f"{url}/")
        page.fill("#key-input", "sesame")
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("#model:not(:empty)")
        served.send("Hello")
        page.wait_for_selector(".message:last-child .speed:not(:empty)")
        page.click("#share")
        assert "$HISTRIO_API_KEY" in page.get_by_role("dialog").inner_text()
        assert "sesame" not in page.content()
        assert gateway.submissions


def test_a_model_without_a_template_continues_what_is_written(open_page: Callable[..., Served], tmp_path: Path) -> None:
    write_tokenizer(tmp_path, None)
    served = open_page()
    ids = served.ids(" upon a time")
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying(ids))
    with running_endpoint(gateway) as url:
        served.page.goto(f"{url}/")
        served.page.wait_for_selector(".welcome:has-text('continued as it stands')")
        served.send("Once")
        served.page.wait_for_selector(".message:last-child .text:has-text('upon a time')")
        prompt = served.tokenizer.decode(gateway.submissions[-1].ids, skip_special=True)
        assert prompt == "Once"
        assert gateway.submissions[-1].max_new_tokens > 16, "the answer may fill the context, as in chats"


def test_the_next_request_is_copied_as_code_and_conversations_are_saved(served: Served, tmp_path: Path) -> None:
    page = served.page
    served.ask('It\'s "12" + 7', "19")
    page.click("#share")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Copy as Python").click()
    program = page.evaluate("navigator.clipboard.readText()")
    compile(program, "program", "exec")
    assert f'base_url="{served.url}/v1"' in program
    dialog.get_by_role("button", name="Copy as cURL").click()
    command = page.evaluate("navigator.clipboard.readText()")
    body = json.loads(command.partition("-d '")[2].removesuffix("'").replace("'\\''", "'"))
    assert httpx.post(f"{served.url}/v1/chat/completions", json=body).status_code == 200
    for label, check in {"JSON": '"content": "19"', "Markdown": "## Assistant\n\n19"}.items():
        with page.expect_download() as saved:
            dialog.get_by_role("button", name=f"Save as {label}").click()
        saved.value.save_as(tmp_path / label)
        assert check in (tmp_path / label).read_text(encoding="utf-8")


def test_the_status_is_live(served: Served) -> None:
    page, status = served.page, served.gateway.status
    status.gauges |= {"running_sequences": 3, 'layer_latency_seconds{stage="0"}': 0.002}
    page.click("#to-status")
    page.wait_for_selector(".tile:has-text('Running'):has-text('3')")
    assert "4.0 ms" in page.locator(".status table").inner_text()
    status.gauges["running_sequences"] = 7
    page.wait_for_selector(".tile:has-text('Running'):has-text('7')")


@pytest.fixture
def open_texts(open_page: Callable[..., Served], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Open the page of a model of this kind, whose vectors are as long as their texts."""
    with ExitStack() as running:

        def opened(kind: ModelKind, **options: Any) -> Served:
            write_tokenizer(tmp_path, None)
            model = msgspec.structs.replace(served_model(tmp_path), kind=kind)

            def vector(submission: Submission, choice: int) -> Script:
                numbers = np.array([len(submission.ids), 1.0], "<f4")[: 1 if kind == "score" else 2]
                return [Delta([], RequestState.FINISHED_MAX_LENGTH, Extras(pooled=numbers.tobytes()))]

            served = open_page(**options)
            served.page.goto(running.enter_context(running_endpoint(ScriptedGateway(model, vector))))
            served.page.wait_for_selector("#texts:visible")
            return served

        yield opened


def test_a_model_that_makes_vectors_compares_texts(open_texts: Callable[..., Served]) -> None:
    page = open_texts("embed").page
    assert "does not chat" in page.locator("#texts").inner_text()
    assert not page.locator("#composer, #new, #share, #open-settings").filter(visible=True).count()
    page.fill("#texts-texts", "one\n\none\na much longer text than those")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".similarities")
    rows = [row.split() for row in page.locator(".similarities tbody tr").all_inner_texts()]
    assert rows[0][-3:-1] == ["1.00", "1.00"]
    assert float(rows[0][-1]) < 0.99, "control: other texts"
    page.click("#to-status")
    page.wait_for_selector(".tile")
    assert page.locator("#texts").is_hidden()
    page.click("#to-chat")
    page.fill("#texts-texts", " ")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".error:has-text('1 to 12 lines')")


def test_a_model_that_scores_ranks_documents(open_texts: Callable[..., Served]) -> None:
    page = open_texts("score").page
    page.fill("#texts-query", "which?")
    page.fill("#texts-documents", "short\nthe longest of these documents\nlonger than that")
    page.get_by_role("button", name="Rank").click()
    page.wait_for_selector(".ranking")
    first = page.locator(".ranking li").first.inner_text()
    assert first.startswith("the longest of these documents")


@pytest.mark.parametrize("kind", ["embed", "score"])
@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_axe_finds_nothing_serious_with_texts(
    open_texts: Callable[..., Served], axe: str, kind: ModelKind, scheme: str, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    served = open_texts(kind, **options)
    served.page.locator("#texts button").click()
    served.page.wait_for_selector(".similarities, .ranking")
    served.page.evaluate(axe)
    assert served.page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert not complaints(served)
    served.page.evaluate("document.querySelector('#texts label').remove()")
    assert complaints(served), "control: a field without a name is one"


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_axe_finds_nothing_serious(open_page: Callable[..., Served], axe: str, scheme: str, width: int) -> None:
    served = open_page(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    page = served.page
    page.wait_for_selector("#model:not(:empty)")
    page.evaluate(axe)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    served.ask("Show me", MARKDOWN)
    page.mouse.move(0, 0)
    found = {"chat": complaints(served)}
    page.click("#open-settings")
    page.locator(".more summary").click()
    found["settings"] = complaints(served)
    page.click("#close-settings")
    page.click("#share")
    found["dialog"] = complaints(served)
    page.keyboard.press("Escape")
    page.click("#to-status")
    page.wait_for_selector(".status table")
    found["status"] = complaints(served)
    assert not any(found.values()), found
    page.evaluate("document.getElementById('send').removeAttribute('aria-label')")
    page.click("#to-chat")
    page.wait_for_selector("#send:visible")
    assert complaints(served), "control: a button without a name is one"


def complaints(served: Served) -> list[str]:
    """What axe counts as serious or critical, and where."""
    script = "axe.run().then((found) => found.violations)"
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in served.page.evaluate(script)
        if each["impact"] in ("serious", "critical")
    ]
