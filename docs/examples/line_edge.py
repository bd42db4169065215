"""An edge service in one file: a line of token ids comes in over TCP, a line of token ids goes out.

Its table in a topology is `[lines]`; it runs where the table is there.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

import msgspec

from histrio.contracts.gateway import Gateway, Submission
from histrio.contracts.hooks import EdgeContext, EdgeService, hookimpl
from histrio.errors import HistrioError
from histrio.messages import Ask


class LinesSettings(msgspec.Struct, frozen=True, rename="kebab"):
    """`[lines]`."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0: a free one."""
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1)] = 16
    """Of an answer."""


async def answer(gateway: Gateway, line: str, max_new_tokens: int) -> str:
    """The greedy continuation of the ids in a line."""
    try:
        ids = [int(word) for word in line.split()]
        submission = Submission(ids, max_new_tokens, Ask({"temperature": 0.0}, gateway.model.eos_ids))
        (stream,) = gateway.submit(submission)
        return " ".join([str(token_id) async for delta in stream for token_id in delta.ids])
    except (ValueError, HistrioError) as error:
        return f"error: {error}"


class Lines:
    """What is registered."""

    name = "lines"
    settings = LinesSettings

    async def run(self, context: EdgeContext) -> None:
        """Serve until cancelled; `context.settings` is a `LinesSettings`."""
        settings: LinesSettings = context.settings

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                text = await answer(context.gateway, line.decode(errors="replace"), settings.max_new_tokens)
                writer.write(text.encode() + b"\n")
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", settings.port)
        async with server:
            host, port = server.sockets[0].getsockname()[:2]
            context.ready(f"{host}:{port}")
            await server.serve_forever()


@hookimpl
def register_edges(register: Callable[[EdgeService], None]) -> None:
    """Called once at start-up."""
    register(Lines())
