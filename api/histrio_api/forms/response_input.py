"""What a request of /v1/responses brings into its conversation, and what was there before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from histrio.errors import RequestError
from histrio_api.request.fields import convert_fields
from histrio_api.request.ignored import IgnoredFields
from histrio_api.schemas.responses import InputItem, InputPart, InputTokensRequest
from histrio_api.shared.edge import Edge
from histrio_api.shared.response_store import ResponseStore

__all__ = ["earlier_items", "num_named_bytes", "own_items"]

_ID_BEGINNINGS = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_ID_BEGINNINGS |= {"custom_tool_call": "ctc", "custom_tool_call_output": "ctco"}
_OWN_ID = re.compile(rb'"((?:resp|msg|rs|fc|fco|ctc|ctco)_[0-9a-f]{32})"')


def own_items(edge: Edge, request: InputTokensRequest, key: str) -> list[InputItem]:
    """What the request asks, each item with an id and references replaced by what they mean. Raises `RequestError`."""
    if isinstance(request.input, str):
        return [_with_id(InputItem(type="message", role="user", content=request.input))]
    return [_own_item(edge, item, key, f"input[{at}]") for at, item in enumerate(request.input)]


def earlier_items(edge: Edge, request: InputTokensRequest, key: str) -> Iterator[InputItem]:
    """The conversation that the request goes on with, if it names one. Raises `RequestError`."""
    if request.previous_response_id is None:
        return

    kept = edge.responses.conversation(key, request.previous_response_id)
    if kept is None:
        text = f"previous_response_id: {_gone(edge, 'this response or one before it')}; send the conversation as input"
        raise RequestError(text, param="previous_response_id", code="previous_response_not_found")
    for response in kept:
        for _, item in response.items:
            yield _read(item)


def num_named_bytes(edge: Edge, key: str, body: bytes) -> int:
    """How long the conversations and items are that a request names: its prompt is longer than its body by them."""
    store = edge.responses
    if len(body) > edge.settings.thread_encode_chars:
        return 0  # long enough as it is
    return sum(_num_kept_bytes(store, key, name.decode()) for name in set(_OWN_ID.findall(body)))


def _num_kept_bytes(store: ResponseStore, key: str, name: str) -> int:
    if name.startswith("resp_"):
        return store.num_conversation_bytes(key, name)
    return len(store.find_item(key, name) or b"")


def _own_item(edge: Edge, item: InputItem, key: str, path: str) -> InputItem:
    if item.kind != "item_reference":
        return _with_id(item)

    found = None if item.id is None else edge.responses.find_item(key, item.id)
    if found is None:
        text = f"{path}.id: {_gone(edge, 'the item')}; send it as it is"
        raise RequestError(text, param=f"{path}.id", code="item_not_found")
    return _read(found)


def _gone(edge: Edge, what: str) -> str:
    return f"{what} is not kept here" if edge.responses.is_open else "this server keeps no responses"


def _read(item: bytes) -> InputItem:
    """One that was kept, without what only answers have."""
    return convert_fields(msgspec.json.decode(item), InputItem, IgnoredFields(), prefix="input[]")


def _with_id(item: InputItem) -> InputItem:
    """As it is listed later: of a type, with an id, and a message with a list of parts."""
    content = item.content
    if isinstance(content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        content = [InputPart(type=kind, text=content)]
    item_id = item.id or f"{_ID_BEGINNINGS.get(item.kind, 'item')}_{uuid4().hex}"
    return replace(item, type=item.kind, id=item_id, content=content)
