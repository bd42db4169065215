"""Fields that leave no token to begin with are told at once; what may still go on is taken."""

from __future__ import annotations

from typing import Any

import pytest

from histrio.errors import RequestError
from histrio_api.request.contradictions import require_a_token

END_IDS, VOCAB_SIZE = [7, 8], 10
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"allowed_token_ids": [1], "bad_words_ids": [[1]]}, "bad_words_ids"),
    ({"allowed_token_ids": [1, 2], "bad_words_ids": [[2], [1, 3], [1]]}, "bad_words_ids"),
    ({"allowed_token_ids": [7, 8], "min_tokens": 1}, "min_tokens"),
    ({"allowed_token_ids": [1, 8], "min_tokens": 1, "bad_words_ids": [[1]]}, "bad_words_ids"),
    ({"bad_words_ids": [[each] for each in range(VOCAB_SIZE)]}, "bad_words_ids"),
    ({"bad_words_ids": [[each] for each in range(7)] + [[9]], "min_tokens": 3}, "bad_words_ids"),
]


@pytest.mark.parametrize(("sampling", "param"), REFUSED)
def test_nothing_to_begin_with_is_refused(sampling: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match="no token") as caught:
        require_a_token(sampling, END_IDS, VOCAB_SIZE)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"allowed_token_ids": None, "bad_words_ids": [], "min_tokens": 0},
        {"allowed_token_ids": [1, 2], "bad_words_ids": [[1], [2, 2]]},
        {"allowed_token_ids": [7], "min_tokens": 0},
        {"allowed_token_ids": [7, 3], "min_tokens": 5},
        {"bad_words_ids": [[each] for each in range(VOCAB_SIZE - 1)]},
        {"min_tokens": 5},
    ],
)
def test_what_may_begin_is_taken(sampling: dict[str, Any]) -> None:
    require_a_token(sampling, END_IDS, VOCAB_SIZE)
