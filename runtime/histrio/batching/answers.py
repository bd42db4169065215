"""From a step's result to the message about one row for the front."""

from __future__ import annotations

from histrio.batching.sequence import Sequence
from histrio.batching.speculation.speculation import Speculation
from histrio.errors import PluginFailed
from histrio.messages import Extras, RequestState, Row, StepResult, TokenRow

__all__ = ["token_row", "vector_row"]


def token_row(
    sequence: Sequence, row: Row, result: StepResult, gained: slice, speculation: Speculation | None
) -> TokenRow:
    """The tokens of a row (`gained` is their range in `result.ids`), up to the one that ends the text; or why the
    sequence cannot go on. The sequence takes them in.

    The first ones of a request come with what is known of its prompt.
    """
    drawn = result.ids[gained]
    extras = result.extras.get(row.slot)
    if extras is not None and extras.code:
        return _failed(sequence, extras)

    ids = sequence.take(drawn)
    parts = _of_prompt(sequence)
    if extras is not None:
        parts.append(extras.cut(len(ids)))
        sequence.sampler_state = extras.sampler_state or sequence.sampler_state
    if sequence.drafted.ids and speculation:
        num_drafted, num_accepted = speculation.judge(sequence, len(drawn))
        parts.append(Extras(num_drafted=num_drafted, num_accepted=num_accepted))
    return TokenRow(sequence.request, ids, sequence.state, Extras.joined(parts) if parts else None)


def vector_row(sequence: Sequence, extras: Extras) -> TokenRow:
    """The end of a sequence whose request asks for a vector: the vector, or why there is none."""
    if extras.code:
        return _failed(sequence, extras)

    sequence.state = RequestState.FINISHED_MAX_LENGTH
    return TokenRow(sequence.request, [], sequence.state, Extras.joined([*_of_prompt(sequence), extras]))


def _failed(sequence: Sequence, extras: Extras) -> TokenRow:
    sequence.state = RequestState.ERROR
    reason = extras.reason
    if extras.code == PluginFailed.code:
        reason += f"; the server's log tells more under request {sequence.request}"
    return TokenRow.failed(sequence.request, reason, extras.code)


def _of_prompt(sequence: Sequence) -> list[Extras]:
    """What is known of the prompt; once, with what the front is told first."""
    if sequence.has_reported:
        return []

    sequence.has_reported = True
    num_cached = min(sequence.num_cached_tokens, sequence.command.num_prompt_tokens)
    return [Extras(num_cached_tokens=num_cached), *sequence.extras] if num_cached else sequence.extras
