"""Stop strings: what comes out never depends on how the text was cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from histrio_api.text.stops import StopStrings

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
