"""From a step's result to the message about one row for the front."""

from __future__ import annotations

from msgspec.structs import replace

from histrio.batching.sequence import Sequence
from histrio.batching.speculation.speculation import Speculation
from histrio.errors import GenerationStuck, PluginFailed
from histrio.messages import RequestState, Row, StepResult, TokenRow

__all__ = ["token_row"]


def token_row(
    sequence: Sequence, row: Row, result: StepResult, gained: slice, speculation: Speculation | None
) -> TokenRow:
    """The tokens of a row (`gained` is their place in `result.ids`), up to the one that ends the text; or why the
    sequence cannot go on. The sequence takes them in.

    The first ones of a request come with what is known of its prompt.
    """
    if row.slot in result.failures:
        sequence.state = RequestState.ERROR
        return TokenRow(sequence.request, [], sequence.state, result.failures[row.slot], GenerationStuck.code)
    if row.slot in result.faults:
        sequence.state = RequestState.ERROR
        text = f"{result.faults[row.slot]}; the server's log tells more under request {sequence.request}"
        return TokenRow(sequence.request, [], sequence.state, text, PluginFailed.code)

    drawn = result.ids[gained]
    ids = sequence.take(drawn)
    num_drafted, num_accepted = speculation.judge(sequence, len(drawn)) if sequence.drafts and speculation else (0, 0)
    sequence.sampler_state = result.states.get(row.slot, sequence.sampler_state)
    answer = TokenRow(
        sequence.request,
        ids,
        sequence.state,
        sampler_state=sequence.sampler_state,
        num_drafted=num_drafted,
        num_accepted=num_accepted,
    )
    if result.logprobs:
        places = range(gained.start, gained.start + len(ids))
        found = [result.logprobs[at] for at in places if at in result.logprobs]
        answer = replace(answer, logprobs=[each.logprob for each in found], top_logprobs=[each.top for each in found])
    if not sequence.has_reported:
        sequence.has_reported = True
        num_cached = min(sequence.num_cached_tokens, sequence.order.num_prompt_tokens)
        answer = replace(answer, num_cached_tokens=num_cached, prompt_logprobs=sequence.prompt_logprobs)
    return answer
