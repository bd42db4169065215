"""The `[api]` table of a topology: every limit of the endpoint is a number here."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["ApiSettings"]

_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0)]


class ApiSettings(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """Where the endpoint listens and what it accepts."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback lets other machines in, so set `api-keys` too."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 3001
    """0 picks a free port."""
    max_body_bytes: _Count = 64 * 1024 * 1024
    """Longer request bodies get 413."""
    cors_origins: list[str] = []
    """Web origins that may call the endpoint from a browser; `*` allows all."""
    api_keys: list[Annotated[str, Meta(min_length=1)]] = []
    """If any are given, a request must carry one as `Authorization: Bearer KEY`; `/health` stays open."""
    keep_alive_s: _Seconds = 15.0
    """A stream without data for so long gets a comment, so that proxies keep it open."""
    idle_connection_s: _Count = 75
    """Seconds until an unused connection is closed."""
    shutdown_s: _Count = 5
    """Seconds that open responses have to end once the endpoint stops."""
    connection_backlog: _Count = 2048
    """Connections the operating system queues before they are accepted."""
    max_choices: _Count = 16
    """Largest `n`."""
    max_prompts: _Count = 64
    """Most prompts in the list of one completion request."""
    max_messages: _Count = 4096
    """Most messages of one chat."""
    max_stop_strings: _Count = 16
    """Most entries of `stop`, and of `stop_token_ids`."""
    max_stop_chars: _Count = 256
    """Longest entry of `stop`."""
    thread_encode_chars: _Count = 16_384
    """Prompts longer than this are rendered and encoded in a thread, so that running streams don't wait."""
    max_encode_threads: _Count = 2
    """Threads that encode long prompts at the same time."""
    max_encode_queue: _Count = 64
    """Most long prompts that are encoded or wait for it; further ones get 429."""
