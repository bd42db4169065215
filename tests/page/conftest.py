"""A browser, and an endpoint whose answers a test writes.

Without a browser, Playwright or axe these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histrio.contracts.gateway import GatewayStatus, StageStatus
from histrio_api.testing import (
    Script,
    ScriptedGateway,
    running_endpoint,
    saying,
    served_model,
    write_tokenizer,
)
from histrio_api.text.tokenizer import Tokenizer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TEMPLATE = Path(__file__).parents[1] / "api" / "templates" / "qwen3_tools.jinja"


@dataclass
class Served:
    """The endpoint, and a page in the browser that shows it."""

    url: str
    gateway: ScriptedGateway
    tokenizer: Tokenizer
    page: Any
    requested: list[str] = field(default_factory=list)
    """Every URL that the browser has asked for."""
    problems: list[str] = field(default_factory=list)
    """What the browser complained of."""

    def says(self, text: str) -> None:
        """The next answers are this text, a token at a time."""
        self.plays(saying(self.ids(text)))

    def plays(self, script: Script) -> None:
        """The next answers play this script."""
        self.gateway.script = lambda submission, choice: list(script)

    def ids(self, text: str) -> list[int]:
        """Ids of a text without special tokens."""
        return self.tokenizer.encode(text, add_special=False)

    @property
    def prompt(self) -> str:
        """What the model was asked last."""
        return self.tokenizer.decode(self.gateway.submissions[-1].ids, skip_special=False)

    def send(self, text: str) -> None:
        """Write a message and press Enter."""
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")

    def ask(self, text: str, answer: str) -> None:
        """The same, with this answer, until it is there."""
        self.says(answer)
        self.send(text)
        self.page.wait_for_selector(".message:last-child .speed:not(:empty)")
        self.page.wait_for_selector("#send:visible")

    @property
    def last(self) -> Any:
        """The last message."""
        return self.page.locator(".message").last


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if find_spec("playwright") is None:
        pytest.skip("Playwright is not installed: pip install playwright")
    where = os.environ.get("HISTRIO_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if where is None:
        pytest.skip(f"there is no browser: install one of {', '.join(BROWSERS)}, or name one in HISTRIO_BROWSER")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The program that looks for what people cannot read, reach or operate."""
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe is not installed: pip install axe-playwright-python")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_tokenizer(folder, TEMPLATE.read_text(encoding="utf-8"))
    return folder


@pytest.fixture(scope="session")
def shared_gateway(model: Path) -> Iterator[tuple[str, ScriptedGateway]]:
    known = served_model(model)
    honours = msgspec.structs.replace(known.honours, grammar_kinds=["json_object", "json_schema", "structural_tag"])
    gateway = ScriptedGateway(msgspec.structs.replace(known, honours=honours), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        yield url, gateway


@pytest.fixture
def open_page(
    browser: Any, model: Path, shared_gateway: tuple[str, ScriptedGateway]
) -> Iterator[Callable[..., Served]]:
    """Open the page in a fresh profile with these options of a browser context."""
    url, gateway = shared_gateway
    contexts: list[Any] = []

    def opened(at: str = "", **options: Any) -> Served:
        gateway.refusal = None
        gateway.submissions.clear()
        gateway.streams.clear()
        gateway.status = GatewayStatus(state="ready", progress=1.0)
        gateway.status.stages[0] = StageStatus(index=0, first_layer=0, last_layer=2, backend="toy", process="engine")
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        served = Served(url, gateway, Tokenizer.load(model, bos_id=0), context.new_page())
        served.page.on("request", lambda request: served.requested.append(request.url))
        served.page.on("pageerror", lambda error: served.problems.append(str(error)))
        served.page.on("console", lambda said: served.problems.extend([said.text] if said.type == "error" else []))
        served.page.goto(f"{url}/{at}")
        return served

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def served(open_page: Callable[..., Served]) -> Iterator[Served]:
    """The page, ready; at its end the browser may have nothing to complain of, and asked this server alone."""
    found = open_page()
    found.page.wait_for_selector("#model:not(:empty)")
    yield found
    assert not found.problems
    assert not [url for url in found.requested if not url.startswith((found.url, "blob:"))]
