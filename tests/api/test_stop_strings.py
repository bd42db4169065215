"""Stop strings: what comes out never depends on how the text was cut into pieces."""

from __future__ import annotations

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from histrio.contracts.gateway import Delta
from histrio.messages import RequestState
from histrio_api.answer.choice import Choice
from histrio_api.request.prompts import Prompt
from histrio_api.testing import ScriptedStream
from histrio_api.text.stops import StopStrings
from histrio_api.text.tokenizer import Tokenizer

ALPHABET = "ab\n"


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopStrings(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + ("" if matcher.is_stopped else matcher.flush()), matcher.is_stopped


def naive(stops: list[str], text: str) -> tuple[str, bool]:
    """Grow the text by one character until some stop string is complete."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=4),
    pieces=st.lists(st.text(ALPHABET, max_size=5), max_size=12),
)
def test_result_equals_a_search_character_by_character(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == naive(stops, "".join(pieces))


@given(
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3),
    pieces=st.lists(st.text(ALPHABET, max_size=5), max_size=12),
)
def test_no_more_is_held_back_than_could_begin_a_stop_string(stops: list[str], pieces: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(piece) for piece in pieces)
    if not matcher.is_stopped:
        held = "".join(pieces)[len(shown) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@given(
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=4),
    pieces=st.lists(st.text(ALPHABET, max_size=5), max_size=12),
)
def test_a_stop_string_that_is_to_be_shown_comes_out_behind_the_text(stops: list[str], pieces: list[str]) -> None:
    matcher = StopStrings(stops, shows_found=True)
    text = "".join(map(matcher.push, pieces)) + matcher.flush()
    before, is_stopped = naive(stops, "".join(pieces))
    assert (text, matcher.is_stopped) == (before + matcher.found, is_stopped)
    assert bool(matcher.found) == is_stopped, "a control: it is something"


def test_stop_string_that_spans_pieces_is_found_and_not_shown() -> None:
    matcher = StopStrings(["END"])
    assert [matcher.push(piece) for piece in ("text E", "N", "D more")] == ["text ", "", ""]
    assert matcher.is_stopped


def test_what_only_looked_like_a_stop_string_comes_out_at_the_end() -> None:
    matcher = StopStrings(["END"])
    assert matcher.push("text EN") == "text "
    assert matcher.flush() == "EN"
    assert not matcher.is_stopped


def test_a_search_that_forgets_held_text_would_be_noticed() -> None:
    forgetful = "".join(StopStrings(["END"]).push(piece) for piece in ("text E", "N", "D more"))
    assert forgetful != naive(["END"], "text END more")[0]


def test_a_stop_string_of_byte_tokens_ends_the_answer_with_its_own_last_token() -> None:
    words = {"Hi": 0, "<0x0A>": 1, "?": 2}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, "?"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    stream = ScriptedStream(1, [])
    choice = Choice(0, Prompt([0]), stream, frozenset(), counts_prompt=True)
    choice.decode_with(Tokenizer(tokenizer).detokenizer(), ["\n\n"])
    assert choice.take(Delta([0, 1], RequestState.DECODING)) == "Hi"
    assert choice.finish_reason == "", "one line break is no stop string"
    assert choice.take(Delta([1, 0, 0], RequestState.DECODING)) == ""
    assert (choice.finish_reason, choice.num_tokens) == ("stop", 3)
    assert stream.cancelled_with is RequestState.FINISHED_STOP
