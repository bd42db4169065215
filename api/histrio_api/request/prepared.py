"""What a request wants done, in the same words for every endpoint: the last step that knows the endpoint makes it."""

from __future__ import annotations

from dataclasses import dataclass

from histrio_api.request.prompts import Prompt
from histrio_api.request.received import Received
from histrio_api.request.scores import Scores
from histrio_api.request.wanted import WantedGrammar
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.text.answers import TEXT_ALONE, AnswerParts

__all__ = ["Prepared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request whose prompts are token ids; its grammar is yet to be tried, its numbers are yet to be checked."""

    received: Received[GenerationRequest]
    prompts: list[Prompt]
    prompt_param: str
    """The field that has the prompts; errors name it."""
    num_wanted_tokens: int | None
    """New tokens of each choice; None for as many as fit, 0 for nothing but log probabilities of the prompts."""
    scores: Scores
    grammar: WantedGrammar | None
    """With whether its answer begins with reasoning."""
    parts: AnswerParts = TEXT_ALONE
    """What an answer consists of beside text."""
    hides_special: bool = True
    """Special tokens are no part of the answer's text."""
    continues_prompt: bool = False
    """The answer's text goes on where the prompt's ends, perhaps within a character."""
    echoes: bool = False
    """The answer's text begins with the prompt's."""
    begun: str = ""
    """What the client has of an answer, which begins with it."""
    keeps_ids: bool = False
    """The answer tells the ids of its tokens beside their text."""
