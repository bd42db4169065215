"""Which route a path has: plain ones first, parameters, needless slashes, and what is answered without any."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from histrio_api.http.request import Request
from histrio_api.http.response import Response
from histrio_api.http.routing import Router, delete, get, post
from histrio_api.testing import ScriptedGateway, running_endpoint, served_model


@get(["/things", "/all"])
async def things(request: Request[None]) -> Response:
    return Response()


@get("/things/{name:str}")
async def thing(request: Request[None]) -> Response:
    return Response()


@delete("/things/{name:str}")
async def no_thing(request: Request[None]) -> Response:
    return Response()


@get("/things/{name:str}/parts")
async def parts(request: Request[None]) -> Response:
    return Response()


@post("/things/first")
async def first(request: Request[None]) -> Response:
    return Response()


@get("/files/{rest:path}")
async def files(request: Request[None]) -> Response:
    return Response()


ROUTER = Router([things, thing, no_thing, parts, first, files])


@pytest.mark.parametrize(
    ("path", "found", "parameters"),
    [
        ("/things", {"GET": things}, {}),
        ("/all", {"GET": things}, {}),
        ("//things/", {"GET": things}, {}),
        ("/things/a.b", {"GET": thing, "DELETE": no_thing}, {"name": "a.b"}),
        ("/things/a/parts", {"GET": parts}, {"name": "a"}),
        ("/things/first", {"POST": first}, {}),
        ("/files/a/b", {"GET": files}, {"rest": "a/b"}),
        ("/files", {}, {}),
        ("/things/a/b", {}, {}),
        ("/thing", {}, {}),
        ("/", {}, {}),
    ],
)
def test_a_path_has_its_routes(path: str, found: dict[str, object], parameters: dict[str, str]) -> None:
    _, methods, values = ROUTER.find(path)
    assert (methods, values) == (found, parameters)


def test_two_routes_for_one_request_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="two routes answer GET /things"):
        Router([things, get("/things")(thing.handler)])


def test_other_methods_and_paths_are_refused_and_options_told(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: [])
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as client:
        wrong = client.get("/v1/chat/completions")
        told = client.options("/v1/responses/resp_1")
        unknown = client.options("/v1/nothing")

    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")
    assert (told.status_code, told.headers["allow"], told.content) == (204, "DELETE, GET, OPTIONS", b"")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
