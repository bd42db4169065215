"""A gateway that plays scripts, a tokenizer for tests, and the endpoint on a free port: for tests and benchmarks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from histrio.contracts.gateway import Delta, Gateway, GatewayStatus, ServedModel, Submission, TokenStream
from histrio.contracts.hooks import EdgeContext
from histrio.errors import HistrioError, RequestError
from histrio.messages import Extras, RequestState, TokenLogprobs, Tune

__all__ = [
    "CHATML",
    "Gate",
    "Script",
    "ScriptedGateway",
    "ScriptedStream",
    "endpoint_over",
    "running_endpoint",
    "saying",
    "served_model",
    "write_tokenizer",
]

START_TIMEOUT_S = 15.0

CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)

_TEXTS = [
    "The quick brown fox jumps over the lazy dog. Hello, world! Numbers: 0 1 2 3 4 5 6 7 8 9.",
    "An actor owns its state and tells others what happened; nobody waits for an answer.",
    'naïve café – “quotes”, 日本語のテキスト, 한국어, emoji 🙂🚀, and JSON {"name": "value", "list": [1, 2, 3]}.',
]


class Gate:
    """In a script: wait here until the test opens it."""

    def __init__(self) -> None:
        self._is_open = False
        self._opened = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Let the stream go on; from any thread."""
        self._is_open = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._opened.set)

    async def wait(self) -> None:
        """Return once it is open."""
        self._loop = asyncio.get_running_loop()
        if not self._is_open:
            await self._opened.wait()


Script: TypeAlias = Sequence[Delta | Gate | Exception]
"""What a stream plays: deltas, gates to wait at, and errors that only a bug would raise."""


class ScriptedStream:
    """Plays a script once."""

    def __init__(self, num_prompt_tokens: int, script: Script, yields: bool = False) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.is_recovering = False
        self.cancelled_with: RequestState | None = None
        """What `cancel` was called with while the stream still ran."""
        self.was_cancelled = threading.Event()
        self._script = deque(script)
        self._is_over = False
        self._yields = yields

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        """The next delta of the script."""
        if self._yields:
            await asyncio.sleep(0)
        while self._script:
            match self._script.popleft():
                case Delta() as delta:
                    self._is_over = delta.state.is_finished
                    return delta
                case Gate() as gate:
                    await gate.wait()
                case Exception() as error:
                    raise error
        raise StopAsyncIteration

    def cancel(self, state: RequestState = RequestState.CANCELLED) -> None:
        """Remember it; nothing follows."""
        if not self._is_over:
            self._is_over = True
            self._script.clear()
            self.cancelled_with = state
            self.was_cancelled.set()


@dataclass
class ScriptedGateway:
    """A `Gateway` whose answers a test writes: `script(submission, choice)` gives what a stream plays."""

    model: ServedModel
    script: Callable[[Submission, int], Script]
    status: GatewayStatus = field(default_factory=lambda: GatewayStatus(state="ready", progress=1.0))
    submissions: list[Submission] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)
    yields_between_deltas: bool = False
    """The loop turns after every delta, as it does when a step ends; for benchmarks."""
    num_resets: int = 0
    tunings: list[Tune] = field(default_factory=list)
    refusal: HistrioError | None = None
    """Raised by `submit` if set."""

    def check_sampling(self, fields: dict[str, Any]) -> None:
        """Temperature within [0, 2]; other fields need only be known."""
        for name, value in fields.items():
            if name not in self.model.sampling_fields:
                raise RequestError(f"{name}: unknown field", param=name)
            if name == "temperature" and not (isinstance(value, int | float) and 0 <= value <= 2):
                raise RequestError("temperature: must be between 0 and 2", param="temperature")

    def sampling_schemas(self) -> dict[str, dict[str, Any]]:
        """Of temperature its bounds; other fields may be any number."""
        bounds = {"temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1.0}}
        return {name: bounds.get(name, {"type": "number"}) for name in self.model.sampling_fields}

    def reset_cache(self) -> None:
        """Count it."""
        self.num_resets += 1

    def tune(self, tuning: Tune) -> None:
        """Remember it."""
        self.tunings.append(tuning)

    def submit(self, submission: Submission) -> list[TokenStream]:
        """One scripted stream for each choice."""
        if self.refusal is not None:
            raise self.refusal

        self.submissions.append(submission)
        num_prompt_tokens = len(submission.ids)
        streams = [
            ScriptedStream(num_prompt_tokens, self.script(submission, choice), self.yields_between_deltas)
            for choice in range(submission.num_choices)
        ]
        self.streams += streams
        return list(streams)


def write_tokenizer(folder: Path, chat_template: str | None = CHATML) -> None:
    """A small byte-level BPE tokenizer with `<|bos|>`, `<|im_start|>`, `<|im_end|>`; encoding adds BOS if asked."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|bos|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def served_model(folder: Path, max_sequence_length: int = 512) -> ServedModel:
    """A model over `write_tokenizer`'s files."""
    return ServedModel(
        id="test/scripted",
        path=str(folder),
        created=1_700_000_000,
        architecture="ScriptedForCausalLM",
        num_layers=2,
        vocab_size=400,
        max_sequence_length=max_sequence_length,
        bos_id=0,
        eos_ids=[2],
        default_sampling={"temperature": 0.7},
        sampling_fields=["temperature", "top_k", "top_p"],
    )


def saying(ids: Sequence[int], end: int = 2, num_logprobs: int | None = None) -> Script:
    """One delta for each id, then the id that ends the text; with log probabilities where some are asked for."""
    extras = Extras()
    if num_logprobs is not None:
        top = [(token_id, -0.5 - token_id) for token_id in range(num_logprobs)]
        extras = Extras(logprobs=[TokenLogprobs(-0.5, top)])
    deltas = [Delta([token_id], RequestState.DECODING, extras) for token_id in ids]
    return [*deltas, Delta([end], RequestState.FINISHED_EOS, extras)]


@asynccontextmanager
async def endpoint_over(gateway: Gateway, **settings: Any) -> AsyncIterator[str]:
    """Serve `gateway` on the running loop; gives the address. Stops the endpoint at the end."""
    from histrio_api.plugin import ApiService

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with anyio.create_task_group() as tasks:
        context = EdgeContext(gateway, {"port": 0, "shutdown-s": 1} | settings, address.set_result)
        tasks.start_soon(ApiService().run, context)
        yield await address
        tasks.cancel_scope.cancel()


@contextmanager
def running_endpoint(gateway: ScriptedGateway, **settings: Any) -> Iterator[str]:
    """Serve `gateway` from a thread with a loop of its own; gives the address. Stops the endpoint at the end."""
    from histrio_api.plugin import ApiService

    address: list[str] = []
    errors: list[BaseException] = []
    up, stop = threading.Event(), threading.Event()

    def ready(where: str) -> None:
        address.append(where)
        up.set()

    async def serve() -> None:
        context = EdgeContext(gateway, {"port": 0, "shutdown-s": 1} | settings, ready)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ApiService().run, context)
            await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()

    def run() -> None:
        try:
            anyio.run(serve, backend_options={"use_uvloop": True})
        except BaseException as error:
            errors.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=run, name="endpoint")
    thread.start()
    try:
        if not up.wait(START_TIMEOUT_S) or errors:
            raise RuntimeError("the endpoint did not start") from (errors[0] if errors else None)
        yield address[0]
    finally:
        stop.set()
        thread.join(START_TIMEOUT_S)
