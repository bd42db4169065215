"""The page at /: its files, their headers, the switch, and the settings it is given. The tour has tests of its own."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from histrio.contracts.request_fields import FieldTable
from histrio_api.request.described import PRESETS
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model
from histrio_samplers.plugin import SAMPLERS

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

ROOT = Path(__file__).parents[2]
PAGE = Path(str(files("histrio_api") / "page"))
FILES = sorted(file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*") if file.is_file())
OWN_FILES = [name for name in FILES if not name.startswith("vendor/")]
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
MOST_BYTES = 150_000
ELSEWHERE = re.compile(r"https?://(?!www\.w3\.org/2000/svg)\w|[\"'(]//\w")
INLINE = re.compile(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", re.IGNORECASE)


def text_of(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


# --- files


def test_a_browser_gets_the_page_and_other_clients_one_line(endpoint: Endpoint) -> None:
    page = endpoint.http.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.content == (PAGE / "index.html").read_bytes()
    assert page.headers["vary"] == "accept"
    plain = endpoint.http.get("/")
    assert (plain.status_code, plain.text) == (200, "histrio is running\n")
    assert plain.headers["content-type"].startswith("text/plain")
    assert endpoint.http.head("/").status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_its_type_and_the_headers_that_keep_others_out(endpoint: Endpoint, name: str) -> None:
    answer = endpoint.http.get(f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.content == (PAGE / name).read_bytes()
    assert answer.headers["content-type"].split(";")[0] == TYPES[Path(name).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_a_file_is_sent_again_only_when_it_has_changed(endpoint: Endpoint) -> None:
    first = endpoint.http.get("/ui/page.css")
    assert first.headers["cache-control"] == "no-cache"
    again = endpoint.http.get("/ui/page.css", headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = endpoint.http.get("/ui/page.css", headers={"if-none-match": '"another"'})
    assert other.status_code == 200, "control"


@pytest.mark.parametrize("name", ["none.js", "../settings.py", "%2e%2e/plugin.py", "js/", "/etc/passwd"])
def test_nothing_else_is_served(endpoint: Endpoint, name: str) -> None:
    answer = endpoint.http.get(f"/ui/{name}")
    assert answer.status_code == 404
    assert "error" in answer.json()


def test_the_page_is_all_that_it_needs() -> None:
    """It works offline and under its own policy: no address elsewhere, no script and no style in the markup."""
    assert not [name for name in OWN_FILES if ELSEWHERE.search(text_of(name))]
    assert not [name for name in OWN_FILES if name.endswith((".html", ".svg")) and INLINE.search(text_of(name))]
    assert ELSEWHERE.search('<img src="https://example.org/a.png">'), "control"
    assert INLINE.search('<p style="color: red">'), "control"


def test_whatever_the_page_refers_to_is_one_of_its_files() -> None:
    named = set(re.findall(r'(?:href|src)="ui/([^"]+)"', text_of("index.html")))
    scripts = [name for name in OWN_FILES if name.endswith(".js")]
    imported = {f"js/{each}" for name in scripts for each in re.findall(r'from "\./([^"]+)"', text_of(name))}
    assert named
    assert named | imported <= set(FILES)
    assert set(scripts) <= named | imported, "a script that nothing loads"
    used = {
        each for name in OWN_FILES for each in re.findall(r'"#i-(\w+)"|(?:icon|iconButton)\("(\w+)"', text_of(name))
    }
    assert {name for pair in used for name in pair if name} <= set(re.findall(r'id="i-(\w+)"', text_of("index.html")))


def test_models_text_never_becomes_markup_but_through_the_sanitiser() -> None:
    writes = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert not [name for name in OWN_FILES if writes.search(text_of(name))]
    assert "DOMPurify.sanitize(html, CLEAN)" in text_of("js/markdown.js")
    assert "html: false" in text_of("js/markdown.js")


def test_the_page_is_small_and_its_libraries_have_their_licences() -> None:
    assert sum((PAGE / name).stat().st_size for name in OWN_FILES) <= MOST_BYTES
    licences = text_of("vendor/LICENSES.txt")
    for library in ("markdown-it", "linkify-it", "mdurl", "uc.micro", "entities", "punycode.js", "dompurify"):
        assert f"==== {library}" in licences


def test_the_files_are_part_of_the_wheel() -> None:
    """The wheel has all of a package but what git ignores."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert any(PAGE.is_relative_to(ROOT / package) for package in wheel["packages"])
    patterns = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if line]
    parts = {part for name in FILES for part in Path(name).parts}
    assert not [part for part in parts if any(fnmatch.fnmatch(part, pattern) for pattern in patterns)]


# --- switch and keys


def test_without_ui_there_is_no_page(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway, ui=False) as url, httpx.Client(base_url=url) as http:
        assert http.get("/", headers=BROWSER).text == "histrio is running\n"
        assert http.get("/ui/page.css").status_code == 404
        assert http.get("/ui/settings.json").status_code == 404
        assert http.get("/v1/status").status_code == 200, "which is no part of the page"


def test_files_need_no_key_and_data_does(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway, **{"api-keys": ["secret"]}) as url, httpx.Client(base_url=url) as http:
        assert http.get("/", headers=BROWSER).status_code == 200
        assert http.get("/ui/js/main.js").status_code == 200
        for path in ("/ui/settings.json", "/v1/status"):
            assert http.get(path).status_code == 401
            assert http.get(path, headers={"authorization": "Bearer secret"}).status_code == 200


def test_the_page_may_send_where_others_may_not(endpoint: Endpoint) -> None:
    own = endpoint.http.post("/tokenize", json={"prompt": "a"}, headers={"origin": endpoint.url})
    assert own.status_code == 200
    foreign = endpoint.http.post("/tokenize", json={"prompt": "a"}, headers={"origin": "https://example.org"})
    assert foreign.status_code == 403, "control"


# --- settings


def test_settings_have_the_bounds_of_this_server(endpoint: Endpoint) -> None:
    found = endpoint.http.get("/ui/settings.json").json()
    assert found["model"]["id"] == "test/scripted"
    assert found["model"]["default_sampling"] == {"temperature": 0.7}
    fields = found["fields"]
    assert fields["temperature"] == endpoint.gateway.sampling_schemas()["temperature"]
    (tokens,) = fields["max_tokens"]["anyOf"]
    assert (tokens["minimum"], tokens["maximum"]) == (1, found["model"]["max_sequence_length"])
    assert endpoint.chat(max_tokens=tokens["minimum"] - 1).status_code == 400
    assert endpoint.chat(max_tokens=tokens["maximum"]).status_code == 200
    stops = fields["stop"]
    assert endpoint.chat(stop=["x"] * stops["maxItems"]).status_code == 200
    assert endpoint.chat(stop=["x"] * (stops["maxItems"] + 1)).status_code == 400
    assert endpoint.chat(stop=["x" * stops["items"]["maxLength"]]).status_code == 200
    assert endpoint.chat(stop=["x" * (stops["items"]["maxLength"] + 1)]).status_code == 400
    most = fields["max_speculation"]["anyOf"][0]["maximum"]
    assert endpoint.chat(max_speculation=most).status_code == 200
    assert endpoint.chat(max_speculation=most + 1).status_code == 400


def test_fields_that_only_templates_read_are_shown_where_they_do(endpoint: Endpoint) -> None:
    fields = endpoint.http.get("/ui/settings.json").json()["fields"]
    assert "enable_thinking" not in fields
    assert "seed" in fields, "control"


def test_presets_are_within_the_bounds_of_all_samplers(endpoint: Endpoint) -> None:
    table = FieldTable(SAMPLERS)
    assert list(PRESETS) == ["precise", "balanced", "creative"]
    for fields in PRESETS.values():
        table.check(fields)
    shown = endpoint.http.get("/ui/settings.json").json()["presets"]
    assert "min_p" not in shown["creative"], "no sampler here honours it"
    assert shown["creative"]["temperature"] == PRESETS["creative"]["temperature"]
