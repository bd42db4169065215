"""Whatever a client sends, the answer is a result or an error object that blames the request, never a 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histrio_api.request.known_fields import KNOWN_FIELDS

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(KNOWN_FIELDS)
FIELDS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), JSON, max_size=4)
PARTS = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", ""])}, optional={"text": JSON}))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
        optional={"content": st.text(max_size=8) | PARTS | st.none(), "tool_calls": JSON, "name": JSON, "audio": JSON},
    ),
    max_size=3,
)
LENIENT = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(response: Any) -> None:
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}


@LENIENT
@given(fields=FIELDS, messages=MESSAGES)
def test_no_chat_makes_a_500(endpoint: Endpoint, fields: dict[str, Any], messages: list[Any]) -> None:
    check(endpoint.chat(**({"messages": messages} | fields)))
    check(endpoint.chat(**({"messages": messages, "logprobs": True} | fields)))


@LENIENT
@given(fields=FIELDS, prompt=JSON | st.lists(st.integers(0, 450)) | st.lists(st.lists(st.integers(0, 450))))
def test_no_completion_makes_a_500(endpoint: Endpoint, fields: dict[str, Any], prompt: Any) -> None:
    check(endpoint.complete(**({"prompt": prompt} | fields)))


@LENIENT
@given(
    body=st.binary(max_size=64) | st.text(max_size=64).map(str.encode), path=st.sampled_from(["tokenize", "detokenize"])
)
def test_no_body_makes_a_500(endpoint: Endpoint, body: bytes, path: str) -> None:
    check(endpoint.http.post(f"/{path}", content=body))


@LENIENT
@given(fields=st.dictionaries(st.sampled_from(["prompt", "messages", "tokens", "model"]), JSON))
def test_no_tokenization_makes_a_500(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    check(endpoint.http.post("/tokenize", json=fields))
    check(endpoint.http.post("/detokenize", json=fields))
