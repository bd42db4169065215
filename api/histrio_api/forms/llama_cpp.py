"""Completions and filled gaps as llama.cpp has them: pieces with their tokens, timings with the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histrio.errors import HistrioError, RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import encode
from histrio_api.answer.generation import Generation
from histrio_api.answer.logprobs import chat_logprobs
from histrio_api.error_shapes import llama_error
from histrio_api.forms.form import Form
from histrio_api.request.absent import require_absent
from histrio_api.request.gaps import Gap, gap_prompt
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import Prompt, given_prompts, ids_prompt, text_prompt
from histrio_api.request.received import Received
from histrio_api.request.scores import Scores, wanted_scores
from histrio_api.request.structured import requested_grammar
from histrio_api.schemas.generation import StreamOptions
from histrio_api.schemas.llama_cpp import InfillRequest, LlamaFields, LlamaRequest
from histrio_api.shared.edge import Edge

__all__ = ["INFILL", "LLAMA_COMPLETION", "LlamaAnswer"]

_NOT_OF_LLAMA: dict[str, object] = {"n": 1, "stream_options": StreamOptions()}
_NO_SLOT = -1
"""Requests have no slots here: they share the steps of the engine."""


def prepare_llama(edge: Edge, received: Received[LlamaRequest]) -> Prepared:
    """One prompt, or several. Raises `RequestError`."""
    request = received.request
    require_absent(request, _NOT_OF_LLAMA, "/completion")
    prompts = [_prompt(edge, request, *each) for each in _given(edge, request)]
    return _prepared(edge, received, prompts, continues_prompt=True)


def prepare_infill(edge: Edge, received: Received[InfillRequest]) -> Prepared:
    """From what stands around a gap to the prompt that asks for what is between. Raises `RequestError`."""
    request = received.request
    require_absent(request, _NOT_OF_LLAMA, "/infill")
    files = [(each.filename, each.text) for each in request.input_extra]
    gap = Gap(request.input_prefix, request.input_suffix, request.prompt, files)
    prompt = gap_prompt(edge, gap, "input_prefix", add_special=request.add_special_tokens)
    return _prepared(edge, received, [prompt], continues_prompt=False)


def _prepared(
    edge: Edge, received: Received[LlamaFields], prompts: list[Prompt], *, continues_prompt: bool
) -> Prepared:
    request = received.request
    asked = Scores(request.n_probs or None, names_ids=True, top_param="n_probs")
    return Prepared(
        received=received,
        prompts=prompts,
        prompt_param="prompt",
        num_wanted_tokens=request.max_tokens,
        scores=wanted_scores(edge, asked, is_stream=request.stream),
        grammar=requested_grammar(edge, received),
        hides_special=request.skip_special_tokens,
        continues_prompt=continues_prompt,
        keeps_ids=request.stream or request.return_tokens,
    )


def _given(edge: Edge, request: LlamaRequest) -> list[tuple[str, str | list[Any]]]:
    """The prompts; a list with ids in it is one prompt, with texts among them or not. Raises `RequestError`."""
    given = request.prompt
    if isinstance(given, list) and any(isinstance(part, int) for part in given):
        inner = next((at for at, part in enumerate(given) if isinstance(part, list)), None)
        if inner is not None:
            raise RequestError(f"prompt[{inner}]: a list cannot stand among token ids", param="prompt")
        return [("prompt", given)]
    return [*given_prompts(given, edge.settings.max_prompts)]


def _prompt(edge: Edge, request: LlamaRequest, param: str, given: str | list[Any]) -> Prompt:
    if isinstance(given, str):
        return text_prompt(edge, given, param, add_special=request.add_special_tokens)

    ids: list[int] = []
    for at, part in enumerate(given):
        if isinstance(part, int):
            ids.append(part)
        else:
            ids += text_prompt(edge, part, param, add_special=request.add_special_tokens and at == 0).ids
    return ids_prompt(edge, ids, param)


class LlamaAnswer:
    """A result for each prompt, or its events."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        request = prepared.received.request
        self._generation = generation
        self._model = edge.gateway.model.id
        self._has_lines = [False] * len(generation.choices)
        self._settings = (
            edge.gateway.model.default_sampling
            | prepared.received.sampling
            | {
                "n_predict": -1 if prepared.num_wanted_tokens is None else prepared.num_wanted_tokens,
                "seed": -1 if request.seed is None else request.seed,
                "stop": request.stop_strings,
                "stream": request.stream,
            }
        )

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def piece(self, choice: Choice, text: str) -> bytes:
        """An event; the last of a prompt has all that is known of its answer."""
        self._has_lines[choice.index] |= "\n" in text
        if choice.finish_reason:
            return _event(self._result(choice, text))
        counts = {"tokens_predicted": choice.num_tokens, "tokens_evaluated": len(choice.prompt.ids)}
        return _event(self._begun(choice, text, is_last=False) | counts)

    def waiting(self, *, is_recovering: bool) -> bytes:
        """A comment."""
        return b": recovering\n\n" if is_recovering else b": ping\n\n"

    def closing(self) -> bytes:
        """Nothing: the last events were the end."""
        return b""

    def failure(self, error: HistrioError) -> bytes:
        """The error's object."""
        return _event(llama_error(error))

    def whole(self, texts: Sequence[str]) -> Any:
        """The result, or a list of those of several prompts."""
        for choice, text in zip(self._generation.choices, texts, strict=True):
            self._has_lines[choice.index] = "\n" in text
        results = [self._result(*each) for each in zip(self._generation.choices, texts, strict=True)]
        return results[0] if len(results) == 1 else results

    def _begun(self, choice: Choice, text: str, *, is_last: bool) -> dict[str, Any]:
        fields = {
            "index": choice.index,
            "content": text,
            "tokens": choice.take_ids(),
            "id_slot": _NO_SLOT,
            "stop": is_last,
        }
        if choice.logprobs is None:
            return fields
        return fields | {"completion_probabilities": chat_logprobs(choice.logprobs.take_shown()).content}

    def _result(self, choice: Choice, text: str) -> dict[str, Any]:
        return self._begun(choice, text, is_last=True) | {
            "model": self._model,
            "tokens_predicted": choice.num_tokens,
            "tokens_evaluated": len(choice.prompt.ids),
            "generation_settings": self._settings,
            "prompt": choice.prompt.text,
            "has_new_line": self._has_lines[choice.index],
            "truncated": False,
            "stop_type": _stop_type(choice),
            "stopping_word": choice.stop_string,
            "tokens_cached": self._generation.num_cached_tokens,
            "timings": self._timings(choice),
        }

    def _timings(self, choice: Choice) -> dict[str, float]:
        """Of prompts that run side by side they are those of all."""
        timings, num_cached = self._generation.timings, self._generation.num_cached_tokens
        num_read = max(self._generation.num_prompt_tokens - num_cached, 1)
        num_said = max(choice.num_tokens, 1)
        prompt_ms, answer_ms = timings.prompt_s * 1000, timings.answer_s * 1000
        return {
            "cache_n": num_cached,
            "prompt_n": num_read,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / num_read,
            "prompt_per_second": num_read / timings.prompt_s,
            "predicted_n": choice.num_tokens,
            "predicted_ms": answer_ms,
            "predicted_per_token_ms": answer_ms / num_said,
            "predicted_per_second": num_said / timings.answer_s if timings.answer_s else 0.0,
        }


def _stop_type(choice: Choice) -> str:
    if choice.finish_reason == "length":
        return "limit"
    return "word" if choice.stop_string else "eos"


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + encode(fields) + b"\n\n"


LLAMA_COMPLETION = Form(LlamaRequest, "cmpl-", prepare_llama, LlamaAnswer, absent=_NOT_OF_LLAMA)
"""POST /completion."""
INFILL = Form(InfillRequest, "fill-", prepare_infill, LlamaAnswer, absent=_NOT_OF_LLAMA)
"""POST /infill."""
