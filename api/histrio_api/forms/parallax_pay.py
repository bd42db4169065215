"""Inference as ParallaxPay has it: a prompt in, its completion with the time that it took out; nothing is paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from histrio_api.answer.generation import Generation
from histrio_api.forms.chat import prepare_chat
from histrio_api.forms.form import Form, WholeAnswer
from histrio_api.request.absent import require_absent
from histrio_api.request.prepared import Prepared
from histrio_api.request.received import Received
from histrio_api.schemas.generation import StreamOptions
from histrio_api.schemas.parallax_pay import Inference, InferenceMetadata, InferenceRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.answers import AnswerParser

__all__ = ["INFERENCE"]

DEFAULT_MAX_TOKENS = 100
_TIERS = ((512, "premium"), (256, "standard"), (0, "basic"))
"""From how many tokens on."""
_NOT_OF_INFERENCE: dict[str, object] = {
    "n": 1,
    "stream": False,
    "stream_options": StreamOptions(),
    "logprobs": False,
    "prompt_logprobs": None,
    "return_token_ids": False,
}


def prepare_inference(edge: Edge, received: Received[InferenceRequest]) -> Prepared:
    """From a prompt to the chat that it begins. Raises `RequestError`."""
    require_absent(received.request, _NOT_OF_INFERENCE, "/v1/inference")
    chat = prepare_chat(edge, received)
    return chat if chat.num_wanted_tokens is not None else replace(chat, num_wanted_tokens=DEFAULT_MAX_TOKENS)


class InferenceAnswer(WholeAnswer):
    """A completion."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        self._generation = generation
        self._model = edge.gateway.model.id
        self._parser = AnswerParser(prepared.parts)
        num_tokens = prepared.num_wanted_tokens or 0
        self._tier = next(name for least, name in _TIERS if num_tokens >= least)

    def whole(self, texts: Sequence[str]) -> Inference:
        """All of it, without the reasoning before it."""
        text = self._parser.push(texts[0], is_last=True).text
        metadata = InferenceMetadata(self._model, self._generation.timings.total_s * 1000)
        return Inference(text, self._generation.usage.total_tokens, self._tier, metadata)


INFERENCE = Form(InferenceRequest, "inf-", prepare_inference, InferenceAnswer, absent=_NOT_OF_INFERENCE)
"""POST /v1/inference."""
