"""One choice of a request: deltas of ids in, pieces of text out."""

from __future__ import annotations

from collections.abc import Sequence

from anyio import to_thread
from msgspec import UNSET, Raw, UnsetType

from histrio.contracts.gateway import Delta, TokenStream
from histrio.errors import (
    EngineError,
    EngineRestarted,
    GenerationStuck,
    HistrioError,
    PluginFailed,
    RequestBrokeEngine,
    RequestTimeout,
)
from histrio.messages import RequestState
from histrio_api.answer.logprobs import ChoiceLogprobs, TokenPlace
from histrio_api.answer.prompt_logprobs import PromptScores
from histrio_api.answer.reasoning_count import ReasoningCount
from histrio_api.errors import GenerationFailed
from histrio_api.request.prompts import Prompt
from histrio_api.text.detokenizer import Detokenizer
from histrio_api.text.stops import StopStrings

__all__ = ["Choice", "require_no_error"]

_ERRORS: dict[str, type[HistrioError]] = {
    each.code: each for each in (RequestTimeout, EngineRestarted, GenerationStuck, RequestBrokeEngine, PluginFailed)
}


class Choice:
    """One answer: takes deltas of ids, gives pieces of text."""

    __slots__ = (
        "_detokenizer",
        "_ending",
        "_kept_ids",
        "_stops",
        "counts_prompt",
        "echoes",
        "elapsed_s",
        "finish_reason",
        "has_answer",
        "index",
        "logprobs",
        "num_tokens",
        "prompt",
        "reasoning",
        "scores",
        "stream",
    )

    def __init__(
        self, index: int, prompt: Prompt, stream: TokenStream, ending: frozenset[int], *, counts_prompt: bool
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.stream = stream
        self.counts_prompt = counts_prompt
        """True for the first choice of each prompt: prompt usage and prompt logprobs are counted on it only."""
        self.echoes = False
        """The text begins with the prompt, and every token has its entry, also the one that ends the text."""
        self.has_answer = True
        """False: what is generated is dropped, and the prompt is all there is."""
        self.scores: PromptScores | None = None
        """Of the prompt, shared with its other choices, if the request asks for them."""
        self.num_tokens = 0
        self.logprobs: ChoiceLogprobs | None = None
        """Entries that go out with the text, if the request asks for them."""
        self.reasoning: ReasoningCount | None = None
        """Of an answer that may begin with reasoning."""
        self.finish_reason = ""
        """"stop" or "length" once the last piece was taken."""
        self.elapsed_s = 0.0
        """From the request's arrival to that piece."""
        self._ending = ending
        self._kept_ids: list[int] | None = None
        self._detokenizer: Detokenizer
        self._stops: StopStrings | None = None

    @property
    def prompt_logprobs(self) -> Raw | UnsetType:
        """The answer's field of this name, if the request has one."""
        return UNSET if self.scores is None else self.scores.report

    @property
    def stop_string(self) -> str:
        """The one that ended the text; empty if none did."""
        return "" if self._stops is None else self._stops.found

    @property
    def num_reasoning_tokens(self) -> int:
        """How many of its tokens are reasoning."""
        return 0 if self.reasoning is None else self.reasoning.num_tokens

    @property
    def num_shown_logprobs(self) -> int:
        """How many tokens' log probabilities wait to go out."""
        return 0 if self.logprobs is None else self.logprobs.num_shown

    @property
    def has_logprobs(self) -> bool:
        """Whether log probabilities wait to go out."""
        return bool(self.num_shown_logprobs)

    @property
    def keeps_ids(self) -> bool:
        """Whether ids are asked for."""
        return self._kept_ids is not None

    @property
    def prompt_ids(self) -> list[int] | UnsetType:
        """Those of the prompt, if ids are asked for."""
        return self.prompt.ids if self.keeps_ids else UNSET

    def keep_ids(self) -> None:
        """Ids are asked for; called once, before the first delta."""
        self._kept_ids = []

    def take_ids(self) -> list[int]:
        """Those of the tokens that were counted since this was called last, of a choice that keeps them."""
        ids, self._kept_ids = self._kept_ids or [], []
        return ids

    def decode_with(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        logprobs: ChoiceLogprobs | None = None,
        *,
        shows_stop: bool = False,
    ) -> None:
        """Set how ids become text; called once, before the first delta. `shows_stop`: the stop string that ends the
        text is part of it."""
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops, shows_found=shows_stop) if stops or logprobs is not None else None
        self.logprobs = logprobs

    async def begin(self, delta: Delta) -> str:
        """What stands before the text of the first delta, which was taken. Waits for the prompt's log probabilities."""
        if self.scores is not None:
            if self.counts_prompt:
                self.scores.tell(delta)
            found = await self.scores.wait()
            if self.echoes and self.logprobs is not None:
                await to_thread.run_sync(self.logprobs.put_first, self.prompt, found)
        return self.prompt.text if self.echoes else ""

    def take(self, delta: Delta) -> str:
        """The text a delta adds; sets `finish_reason` with the last. Raises `EngineError` or
        `GenerationStuck` if generation failed."""
        require_no_error(delta)
        if not self.has_answer:
            self.finish_reason = "length"
            return ""

        ids = delta.ids
        has_end = bool(ids) and ids[-1] in self._ending
        ids = ids[:-1] if has_end else ids
        num_before = self.num_tokens
        if self._stops is not None:
            text = self._take_singly(delta, ids, self._stops)
            has_end = has_end and not self._stops.is_stopped
        else:
            text = self._take_at_once(delta, ids)
        self.num_tokens += has_end  # counted where it was reached, but no part of the text
        if self._kept_ids is not None:
            self._kept_ids += delta.ids[: self.num_tokens - num_before]
        return text

    def _take_at_once(self, delta: Delta, ids: list[int]) -> str:
        """Where no stop string is looked for."""
        if self.reasoning is None or self.reasoning.is_over:
            self.num_tokens += len(ids)
            text = self._detokenizer.push(ids)
        else:
            text = "".join(map(self._take_token, ids))
        if delta.state.is_finished:
            self.finish_reason = _finish_reason(delta.state)
            text += self._detokenizer.flush()
        return text

    def _take_token(self, token_id: int) -> str:
        """The text of one token, which is counted."""
        self.num_tokens += 1
        piece = self._detokenizer.push((token_id,))
        if self.reasoning is not None and not self.reasoning.is_over:
            self.reasoning.push(piece, self.num_tokens)
        return piece

    def _take_singly(self, delta: Delta, ids: list[int], stops: StopStrings) -> str:
        """Token by token, so that the count of tokens does not depend on how they were grouped into deltas."""
        shown: list[str] = []
        places: list[TokenPlace] = []
        detokenizer = self._detokenizer
        for token_id in ids:
            piece = self._take_token(token_id)
            places.append((detokenizer.num_late_chars, piece))
            shown.append(stops.push(piece))
            if not stops.is_stopped and stops.would_stop(detokenizer.complete_text):
                # Byte tokens that make a stop string together: what would change them is not generated any more.
                shown.append(stops.push(detokenizer.flush()))
            if stops.is_stopped:
                break

        is_finished = delta.state.is_finished
        if is_finished and not stops.is_stopped:
            shown.append(stops.push(self._detokenizer.flush()))
            shown.append(stops.flush())
        if stops.is_stopped:
            self.finish_reason = "stop"
            self.stream.cancel(RequestState.FINISHED_STOP)
        elif is_finished:
            self.finish_reason = _finish_reason(delta.state)
        text = "".join(shown)
        if self.logprobs is not None:
            is_whole = is_finished and not stops.is_stopped
            is_last = bool(self.finish_reason)
            self.logprobs.push(delta, places, len(text), is_last=is_last, is_whole=is_whole)
            if self.echoes and is_whole and len(ids) < len(delta.ids):
                self.logprobs.push_end(delta)
        return text


def _finish_reason(state: RequestState) -> str:
    return "length" if state is RequestState.FINISHED_MAX_LENGTH else "stop"


def require_no_error(delta: Delta) -> None:
    """Raise what a request ended with, if that is neither an answer nor a stop that the client asked for."""
    if delta.state is RequestState.ERROR:
        raise _ERRORS.get(delta.extras.code, GenerationFailed)(delta.extras.reason or "generation failed")
    if delta.state is RequestState.CANCELLED:
        raise EngineError("the server stopped this request; try again")
