"""A tokenizer may know added tokens that the model has no row for: text that holds one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
import tokenizers

from histrio_api.testing import CHATML, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer

ADDED = "<|pad:\n|>"
PADDING = ADDED.replace("\n", "\\n")
FIELDS = ["bad_words_ids", "dry_sequence_breaker_ids", "dry_multiplier"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ScriptedGateway, httpx.Client]]:
    folder = tmp_path_factory.mktemp("beyond")
    write_tokenizer(
        folder, CHATML.replace("'<|im_start|>assistant", f"('{PADDING}' if padded else '') + '<|im_start|>assistant")
    )
    file = str(folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(file)
    tokenizer.add_tokens([ADDED])
    tokenizer.save(file)
    model = served_model(folder)
    added_id = tokenizer.token_to_id(ADDED)
    assert added_id is not None
    assert added_id >= model.vocab_size
    gateway = ScriptedGateway(msgspec.structs.replace(model, sampling_fields=FIELDS), lambda *_: saying([5]))
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as http:
        yield gateway, http


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    path = "chat/completions" if "messages" in fields else "completions"
    return http.post(f"/v1/{path}", json={"model": "test/scripted", "max_tokens": 4} | fields)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("refused", "served"),
    [
        ({"prompt": f"a {ADDED} b"}, {"prompt": "a b"}),
        ({"prompt": ["a", ADDED]}, {"prompt": ["a", "b"]}),
        ({"prompt": ADDED, "echo": True}, {"prompt": "a", "echo": True}),
        ({"messages": said(ADDED)}, {"messages": said("a")}),
        (
            {"messages": said("a"), "chat_template_kwargs": {"padded": True}},
            {"messages": said("a"), "chat_template_kwargs": {"padded": False}},
        ),
    ],
)
def test_such_text_is_a_400_that_names_the_field(
    known: tuple[ScriptedGateway, httpx.Client], refused: dict[str, Any], served: dict[str, Any]
) -> None:
    gateway, http = known
    gateway.submissions.clear()
    response = ask(http, **refused)
    assert (response.status_code, gateway.submissions) == (400, [])
    assert response.json()["error"]["param"] == ("messages" if "messages" in refused else "prompt")
    assert ask(http, **served).status_code == 200, "control"


def test_words_of_such_tokens_are_none_that_could_be_said(known: tuple[ScriptedGateway, httpx.Client]) -> None:
    gateway, http = known
    response = ask(http, prompt="a", bad_words=[ADDED, "fox"], dry_multiplier=1)
    assert response.status_code == 200, response.text
    sampling = gateway.submissions[-1].ask.sampling
    ids = [*sampling["dry_sequence_breaker_ids"], *(each for word in sampling["bad_words_ids"] for each in word)]
    assert len(sampling["bad_words_ids"]) == 2, "with and without a space before it"
    assert sampling["dry_sequence_breaker_ids"]
    assert max(ids) < gateway.model.vocab_size
