"""Plain completions, as OpenAI has them: texts or token ids in, what follows them out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from histrio.errors import RequestError
from histrio_api.answer.choice import Choice
from histrio_api.answer.chunks import Chunks, encode, ids_field, logprobs_field
from histrio_api.answer.logprobs import completion_logprobs
from histrio_api.forms.form import Form
from histrio_api.request.gaps import Gap, gap_prompt
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import Prompt, given_prompts, ids_prompt, prompt_cut, text_prompt
from histrio_api.request.reasoning import prompts_reasoning
from histrio_api.request.received import Received
from histrio_api.request.scores import Scores, wanted_scores
from histrio_api.request.structured import requested_grammar
from histrio_api.schemas.completions import Completion, CompletionChoice, CompletionRequest
from histrio_api.shared.edge import Edge

__all__ = ["COMPLETION", "CompletionAnswer", "prepare_completion"]

DEFAULT_MAX_TOKENS = 16
"""As OpenAI has it."""


def prepare_completion(edge: Edge, received: Received[CompletionRequest]) -> Prepared:
    """One prompt for a string or a list of ids, several for a list of strings or of lists. Raises `RequestError`."""
    request = received.request
    asked = Scores(
        request.logprobs,
        num_reported=request.prompt_logprobs,
        token_ids=request.logprob_token_ids,
        top_param="logprobs",
        by_text=True,
    )
    scores = wanted_scores(edge, asked, is_stream=request.stream, echoes=request.echo)
    if request.max_tokens == 0 and not request.echo and request.prompt_logprobs is None:
        raise RequestError("max_tokens: 0 is only allowed with echo or prompt_logprobs", param="max_tokens")

    if request.max_tokens == 0 and scores.token_ids:
        text = "logprob_token_ids: an answer without tokens has none to tell of them beside; leave it out"
        raise RequestError(text, param="logprob_token_ids")

    given = given_prompts(request.prompt, edge.settings.max_prompts)
    prompts = [_prompt(edge, request, each, param) for param, each in given]
    grammar = requested_grammar(edge, received)
    if grammar is not None:
        grammar = grammar.after(prompts_reasoning(edge, [each for _, each in given]), edge.reasoning_marks)
    return Prepared(
        received=received,
        prompts=prompts,
        prompt_param="prompt",
        num_wanted_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        scores=scores,
        grammar=grammar,
        hides_special=request.skip_special_tokens,
        keeps_ids=request.return_token_ids,
        continues_prompt=not request.suffix,
        echoes=request.echo,
    )


def _prompt(edge: Edge, request: CompletionRequest, given: str | list[int], param: str) -> Prompt:
    if request.suffix:
        return _filled_prompt(edge, request, given)
    num_wanted = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    cut = prompt_cut(edge, request.truncate_prompt_tokens, request.truncation_side, num_wanted)
    if cut is not None and request.echo:
        raise RequestError("truncate_prompt_tokens: cannot be combined with echo", param="truncate_prompt_tokens")
    if isinstance(given, str):
        return text_prompt(edge, given, param, add_special=request.add_special_tokens, is_placed=request.echo, cut=cut)
    return ids_prompt(edge, given if cut is None else cut.of(given), param, is_placed=request.echo)


def _filled_prompt(edge: Edge, request: CompletionRequest, given: str | list[int]) -> Prompt:
    if not isinstance(given, str):
        raise RequestError("suffix: the prompt has to be a text beside it", param="suffix")
    if request.echo:
        raise RequestError("suffix: cannot be combined with echo", param="suffix")
    return gap_prompt(edge, Gap(given, request.suffix), "suffix", add_special=request.add_special_tokens)


class CompletionAnswer(Chunks[CompletionChoice]):
    """A completion, or its chunks."""

    object_name = "text_completion"

    def opening(self) -> bytes:
        """A first chunk for each choice with the ids of its prompt, if they are asked for."""
        choices = [choice for choice in self.generation.choices if choice.keeps_ids]
        empty = b'"text":"","logprobs":null'
        return b"".join(self.chunk(each, empty + ids_field(b"prompt_token_ids", each.prompt.ids)) for each in choices)

    def piece(self, choice: Choice, text: str) -> bytes:
        """One chunk; the last one of a choice says why it ends."""
        finish_reason = encode(choice.finish_reason) if choice.finish_reason else b"null"
        logprobs = b',"logprobs":null' if choice.logprobs is None else logprobs_field(choice, completion_logprobs)
        return self.chunk(choice, b'"text":' + encode(text) + logprobs, finish_reason)

    def whole(self, texts: Sequence[str]) -> Completion:
        """All choices with their texts."""
        generation = self.generation
        return Completion(
            id=generation.id,
            created=generation.created,
            model=self.model,
            choices=self.choices(texts),
            usage=generation.usage,
            system_fingerprint=self.fingerprint,
        )

    def choice(self, choice: Choice, text: str) -> CompletionChoice:
        """One of them, with what was scored."""
        logprobs = None
        if choice.logprobs is not None:  # encoded for each choice alone, since encoding holds the interpreter's lock
            logprobs = msgspec.Raw(msgspec.json.encode(completion_logprobs(choice.logprobs.take_shown())))
        return CompletionChoice(
            index=choice.index,
            finish_reason=choice.finish_reason,
            text=text,
            logprobs=logprobs,
            prompt_logprobs=choice.prompt_logprobs,
            prompt_token_ids=choice.prompt_ids,
            token_ids=choice.take_ids() if choice.keeps_ids else msgspec.UNSET,
        )


COMPLETION = Form(CompletionRequest, "cmpl-", prepare_completion, CompletionAnswer)
"""POST /v1/completions."""
