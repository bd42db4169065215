"""The `[api]` table of a topology: every limit of the endpoint is a number here."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

import msgspec
from msgspec import Meta

from histrio_api.keys.key import ApiKey, require_distinct

__all__ = ["ApiSettings", "is_loopback"]

_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0)]


class ApiSettings(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """Where the endpoint listens and what it accepts."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback lets other machines in, so it needs keys."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 3001
    """0 picks a free port."""
    max_body_bytes: _Count = 8 * 1024 * 1024
    """Longer request bodies get 413."""
    max_waiting_body_bytes: _Count = 64 * 1024 * 1024
    """Of all bodies that are received, or read and encoded, at the same time, beyond the first 64 KiB of each; further
    ones get 429."""
    max_header_bytes: _Count = 65_536
    """Request line and headers of a request; longer ones get 431."""
    max_connections: _Count = 1024
    """Open at the same time; less where the system allows fewer open files. Beyond it the connection that has been
    without a whole request's head for longest is closed, or the new one gets 503."""
    cors_origins: list[str] = []
    """Web origins that may call the endpoint from a browser; `*` allows all."""
    allowed_hosts: list[str] = []
    """Names that `Host` may have besides addresses, `localhost` and names without a dot. If there are any, others are
    refused; if not, only where `host` is loopback and no keys are asked for."""
    api_keys: list[Annotated[str, Meta(min_length=1)]] | None = None
    """If any are given, a request must carry one as `Authorization: Bearer KEY` or as `x-api-key: KEY`; `/health` and
    the files of the page stay open."""
    key: list[ApiKey] = []
    """Keys by their hashes, `[[api.key]]`, with limits."""
    key_file: Annotated[str, Meta(min_length=1)] | None = None
    """A file of such keys, made by `histrio keys`, that is read again when it changes."""
    usage_file: Annotated[str, Meta(min_length=1)] | None = None
    """A file of SQLite in which is counted what each key uses; made if there is none."""
    usage_days: Annotated[int, Meta(ge=1, le=36_500)] = 400
    """Days for which it is kept."""
    open_metrics: bool = False
    """Let requests without a key read `/metrics` and the details of `/health`."""
    allow_anonymous: bool = False
    """Let requests without a key in although `host` is not loopback."""
    keep_alive_s: _Seconds = 15.0
    """A stream without data for so long gets a comment, so that proxies keep it open."""
    idle_connection_s: _Count = 75
    """Seconds without a request after which a connection is closed. A request's head has to come within them."""
    min_bytes_per_s: _Count = 1024
    """Slowest average, over each `idle_connection_s`, at which a client may send a body, or take what of its answer is
    ready to be sent."""
    warm_grammars: bool = True
    """Read the model's tokens for checking grammars as soon as the model is ready, not with the first request that
    asks for a form of its answer: a process beside the front keeps them, 40 MB to 250 MB."""
    shutdown_s: _Count = 5
    """Seconds that open responses have to end once the endpoint stops."""
    connection_backlog: _Count = 2048
    """Connections the operating system queues before they are accepted."""
    max_choices: _Count = 16
    """Largest `n`."""
    max_prompts: _Count = 64
    """Most prompts in the list of one completion request."""
    max_inputs: _Count = 2048
    """Most texts of one request for vectors, scores or a ranking."""
    max_inputs_at_a_time: _Count = 64
    """Of these texts, so many are with the engine at the same time; the others wait for them."""
    any_dimensions: bool = False
    """Shorten vectors to any `dimensions`, whether or not the model's files say that it was trained for that."""
    max_messages: _Count = 4096
    """Most messages of one chat."""
    max_tools: _Count = 1024
    """Most tools of one chat."""
    max_tool_calls: _Count = 4096
    """Most tool calls in the messages of one chat, together."""
    max_content_parts: _Count = 16_384
    """Most parts that the contents of one chat's messages have, together."""
    max_json_parts: _Count = 131_072
    """Most lists, objects and names in objects of one request's body, together."""
    max_json_values: _Count = 1_048_576
    """Most values in lists and objects of one request's body, such as token ids, together."""
    max_tokenize_chars: _Count = 1_048_576
    """Longest text that `/tokenize` takes, in characters; a chat's is what its template makes of it."""
    max_detokenize_tokens: _Count = 262_144
    """Most ids that `/detokenize` takes."""
    max_logprobs: Annotated[int, Meta(ge=-1)] = 20
    """Most of the likeliest tokens that are told beside a token of an answer, or of a prompt; -1 for no bound, and so
    for whole vocabularies."""
    max_prompt_scores: _Count = 524_288
    """Most log probabilities of prompts' tokens in one answer: each token's own, and those of the likeliest beside."""
    max_vocabulary_scores: Annotated[int, Meta(ge=1, le=2**27)] = 33_554_432
    """Of requests for more than 128 of the likeliest tokens: most log probabilities, each of 4 bytes, that all of them
    hold together, a vocabulary's for each token; one that needs more gets 400, and 429 while others hold them."""
    max_stop_strings: _Count = 16
    """Most entries of `stop`, and of `stop_token_ids`."""
    max_stop_chars: _Count = 256
    """Longest entry of `stop`."""
    parse_special: bool = False
    """Special tokens that are written in messages count as such; else they are text like any other."""
    tool_parser: str = "auto"
    """Tool format in which the model writes calls; `auto` tells it from the chat template, `off` takes no tools."""
    reasoning_parser: str = "auto"
    """Reasoning format in which the model thinks before it answers; `auto` tells it from the chat template, `off` takes
    reasoning for text."""
    any_model: bool = False
    """Answer requests for models of any name with the one that is served."""
    ui: bool = True
    """Serve the page at `/`, with which people talk to the model and look at the service."""
    strict: bool = False
    """Refuse hints and unknown fields instead of naming them in `x-histrio-ignored`."""
    store_responses: bool = True
    """Keep what `/v1/responses` answers in memory, so that later requests can refer to it."""
    max_stored_responses: _Count = 1024
    """Most responses that are kept; what was not used for longest leaves first."""
    max_stored_response_bytes: _Count = 64 * 1024 * 1024
    """Of all responses that are kept, with what was asked."""
    log_requests: bool = True
    """A line in the log, at `info`, for each request that ended or was refused; never what was asked or answered."""
    thread_encode_chars: _Count = 16_384
    """Bodies longer than this are read, rendered and encoded in a thread, so that running streams don't wait."""
    max_encode_threads: _Count = 2
    """Threads that work on long requests at the same time."""
    max_encode_queue: _Count = 64
    """Most long requests that such threads work on, or that wait for one; further ones get 429."""

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_keys or self.key or self.key_file)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what would let in more than it seems to."""
        if self.api_keys == []:
            raise ValueError("api-keys is an empty list, which would let every client in; leave it out, or give a key")
        require_distinct(self.key)
        if not (self.has_keys or self.allow_anonymous or is_loopback(self.host)):
            raise ValueError(
                "host is reached from other machines, and without keys by any client there; give api-keys or a "
                "key-file, or set allow-anonymous = true"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
