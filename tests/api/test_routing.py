"""Which route a path has: plain ones first, parameters, needless slashes, and what is answered without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from histrio_api.http.response import Response
from histrio_api.http.routing import Handler, delete, get, post
from histrio_api.routes.common import HttpRequest
from histrio_api.service.app import create_app
from histrio_api.service.service import open_edge
from histrio_api.shared.settings import ApiSettings
from histrio_api.testing import ScriptedGateway, running_endpoint, served_model

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def says(name: str) -> Handler:
    """A handler that answers its name and the parameters of the path."""

    async def handler(request: HttpRequest) -> Response:
        return Response(msgspec.json.encode([name, dict(request.path_params)]))

    return handler


ROUTES = [
    get(["/things", "/all"])(says("things")),
    get("/things/{name:str}")(says("thing")),
    delete("/things/{name:str}")(says("no_thing")),
    get("/things/{name:str}/parts")(says("parts")),
    post("/things/first")(says("first")),
    get("/files/{rest:path}")(says("files")),
]


@pytest.fixture
def client(model_folder: Path) -> httpx.AsyncClient:
    edge = open_edge(ScriptedGateway(served_model(model_folder), lambda submission, choice: []), ApiSettings())
    app: Any = create_app(edge, ROUTES)
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/things", ["things", {}]),
        ("GET", "/all", ["things", {}]),
        ("GET", "/things/", ["things", {}]),
        ("GET", "/things/a.b", ["thing", {"name": "a.b"}]),
        ("DELETE", "/things/a.b", ["no_thing", {"name": "a.b"}]),
        ("GET", "/things/a/parts", ["parts", {"name": "a"}]),
        ("POST", "/things/first", ["first", {}]),
        ("GET", "/files/a/b", ["files", {"rest": "a/b"}]),
        ("POST", "/things", 405),
        ("PUT", "/things/a", 405),
        ("GET", "/things/first", 405),
        ("GET", "/files", 404),
        ("GET", "/things/a/b", 404),
        ("GET", "/thing", 404),
        ("GET", "/", 404),
    ],
)
async def test_a_path_has_its_routes(client: httpx.AsyncClient, method: str, path: str, expected: object) -> None:
    async with client:
        reply = await client.request(method, path)
    assert (reply.json() if reply.status_code == 200 else reply.status_code) == expected


def test_two_routes_for_one_request_are_a_mistake(model_folder: Path) -> None:
    edge = open_edge(ScriptedGateway(served_model(model_folder), lambda submission, choice: []), ApiSettings())
    with pytest.raises(AssertionError, match="two routes answer GET /things"):
        create_app(edge, [ROUTES[0], get("/things")(says("again"))])


def test_other_methods_and_paths_are_refused_and_options_told(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: [])
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as client:
        wrong = client.get("/v1/chat/completions")
        told = client.options("/v1/responses/resp_1")
        unknown = client.options("/v1/nothing")

    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")
    assert (told.status_code, told.headers["allow"], told.content) == (204, "DELETE, GET, OPTIONS", b"")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
