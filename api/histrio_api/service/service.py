"""Starting the endpoint: read the model's text side, build the application, serve it."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio import to_thread

from histrio.contracts.gateway import Gateway, ServedModel
from histrio.contracts.grammar import GrammarKinds, VocabularySpec
from histrio.contracts.hooks import EdgeContext
from histrio.contracts.options import as_options
from histrio.errors import TopologyError
from histrio.front.grammar_check import GrammarChecker
from histrio.plugins.registry import installed_plugins
from histrio_api.keys.ring import KeyRing
from histrio_api.service.app import create_app
from histrio_api.service.formats import chosen_reasoning_format, chosen_tool_format
from histrio_api.service.gate import Gate
from histrio_api.service.listener import serve
from histrio_api.shared.edge import Edge
from histrio_api.shared.metrics import EndpointMetrics
from histrio_api.shared.settings import ApiSettings
from histrio_api.text.side import TextSide, read_text_side
from histrio_api.usage.ledger import UsageLedger
from histrio_api.usage.usage_file import UsageFile

__all__ = ["open_edge", "run_endpoint"]

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
_MOST_YOUNG_OBJECTS = 10_000
"""Between two looks of the garbage collector: a request makes some hundred, and hardly one is left to it."""


async def run_endpoint(context: EdgeContext, text: TextSide | None = None) -> None:
    """Serve `context.gateway` until cancelled; `text` is the model's text side if it has been read."""
    settings = as_options(context.settings, ApiSettings, "api")
    edge = await to_thread.run_sync(open_edge, context.gateway, settings, text)
    app = Gate(create_app(edge), settings, edge.metrics.count_request)
    kept = edge.usage.writing() if edge.usage is not None else nullcontext()

    def ready(address: str) -> None:
        context.ready(address)
        if settings.ui:
            logger.info("the page to talk to the model is at %s/", address)

    _spare_collector("started")
    async with _grammar_trials(edge), _beside(edge.keys.watch, partial(_spare_when_warm, edge.metrics)), kept:
        await serve(app, settings, ready)


async def _spare_when_warm(metrics: EndpointMetrics) -> None:
    """The first request loads modules and fills caches, which live as long as the process, too."""
    while not metrics.has_finished:  # noqa: ASYNC110 - a plain field, nothing announces its change
        await anyio.sleep(_LOOK_S)
    _spare_collector("warm")


@cache
def _spare_collector(at: Literal["started", "warm"]) -> None:
    """Once in a process at each time: what lives as long as it is looked at no more. Looking through all the modules
    each time that many objects were made would stop every stream for a tenth of a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_MOST_YOUNG_OBJECTS)


def open_edge(gateway: Gateway, settings: ApiSettings, text: TextSide | None = None) -> Edge:
    """The endpoint's parts; reads the model's text side if it has not been. Raises `ModelError`, and `TopologyError`
    for a format that is not known."""
    model = gateway.model
    tokenizer, template = text or read_text_side(model)
    plugins = installed_plugins()
    return Edge(
        gateway,
        settings,
        tokenizer,
        template,
        EndpointMetrics(),
        chosen_tool_format(plugins.tool_formats, settings.tool_parser, template),
        chosen_reasoning_format(plugins.reasoning_formats, settings.reasoning_parser, template),
        _grammar_checker(model),
        _key_ring(settings),
        _usage_ledger(settings),
    )


def _key_ring(settings: ApiSettings) -> KeyRing:
    file = None if settings.key_file is None else Path(settings.key_file)
    try:
        return KeyRing(settings.api_keys or (), settings.key, file)
    except TopologyError as error:
        raise TopologyError("api.key-file" if file else "api.key", str(error)) from None


def _usage_ledger(settings: ApiSettings) -> UsageLedger | None:
    if settings.usage_file is None:
        return None
    return UsageLedger(UsageFile(Path(settings.usage_file)), settings.usage_days)


@asynccontextmanager
async def _grammar_trials(edge: Edge) -> AsyncIterator[None]:
    """Grammars are tried in processes of their own while the block runs; the model's start does not wait for them."""
    if edge.grammars is None:
        yield
        return

    async with edge.grammars.running(), anyio.create_task_group() as tasks:
        if edge.settings.warm_grammars:
            tasks.start_soon(_warm_when_ready, edge.gateway, edge.grammars)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _beside(*work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """What is to be done while the block runs."""
    async with anyio.create_task_group() as tasks:
        for each in work:
            tasks.start_soon(each)
        yield
        tasks.cancel_scope.cancel()


async def _warm_when_ready(gateway: Gateway, grammars: GrammarChecker) -> None:
    while gateway.status.state == "loading":  # noqa: ASYNC110 - a plain field, nothing announces its change
        await anyio.sleep(_LOOK_S)
    await grammars.warm()


def _grammar_checker(model: ServedModel) -> GrammarChecker | None:
    """None where none are enforced."""
    if not model.honours.grammar_kinds:
        return None

    vocabulary = VocabularySpec(model.path, model.vocab_size, tuple(model.eos_ids))
    return GrammarChecker(GrammarKinds(installed_plugins().grammars), vocabulary)
