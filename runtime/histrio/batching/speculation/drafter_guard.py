"""A drafter of a plugin, contained: none of its faults ends a request.

At its first fault the drafter is switched off, which is logged once, and nothing is drafted before the next epoch.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from histrio.contracts.drafter import Draft, Drafter
from histrio.contracts.sampler import DraftProbs
from histrio.messages import Generate
from histrio.system.flight_record import Code

__all__ = ["DrafterGuard"]

_log = logging.getLogger(__name__)
_MOST_IDS = 2**31
_MOST_ERROR = 0.01
"""Largest error of the sum of a distribution."""
_FAULTS = (Exception, SystemExit)


class DrafterGuard:
    """Calls a drafter until its first fault. `vocab_size` bounds its ids; 0: not known."""

    def __init__(self, drafter: Drafter, name: str = "", vocab_size: int = 0) -> None:
        self.is_on = True
        """Whether the drafter is still called."""
        self._drafter = drafter
        self._name = name or type(drafter).__name__
        self._code = Code(f"drafter {self._name!r} ({type(drafter).__module__})", is_request_code=False)
        self._num_ids = vocab_size or _MOST_IDS

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """As `Drafter.open`."""
        self._call(lambda: self._drafter.open(command, ids))

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """As `Drafter.extend`."""
        self._call(lambda: self._drafter.extend(request, ids))

    def close(self, request: int) -> None:
        """As `Drafter.close`."""
        self._call(lambda: self._drafter.close(request))

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """As `Drafter.propose`, with plain ids of the vocabulary; empty once it is off."""
        found: dict[int, Draft] = {}
        self._call(lambda: found.update(self._checked(self._drafter.propose(lengths), lengths)))
        return found

    def _call(self, call: Callable[[], None]) -> None:
        if not self.is_on:
            return
        try:
            with self._code:
                call()
        except _FAULTS as error:
            self.is_on = False
            _log.error("nothing is drafted any more: %s failed", self._code.name, exc_info=error)

    def _checked(self, found: Any, lengths: Mapping[int, int]) -> Mapping[int, Draft]:
        """The drafts with plain ints. Raises `TypeError` or `ValueError` for a draft that breaks the contract.

        All ids of a step are looked at together, and drafts that are plain already are passed on as they are.
        """
        ids: list[Any] = []
        is_plain = True
        for request, draft in found.items():
            given, draft_probs = draft.ids, draft.draft_probs
            if len(given) > lengths[request] or (draft_probs and len(draft_probs) != len(given)):
                raise ValueError(f"{len(given)} tokens for {lengths[request]}, {len(draft_probs)} with probabilities")
            is_plain &= type(given) is list and not draft_probs
            ids.extend(given)
        if not is_plain or not set(map(type, ids)) <= {int}:
            return {request: self._made_plain(draft) for request, draft in found.items()}

        self._require_known(ids)
        plain: Mapping[int, Draft] = found
        return plain

    def _made_plain(self, draft: Draft) -> Draft:
        return Draft(self._plain(draft.ids), [self._distribution(each) for each in draft.draft_probs])

    def _plain(self, ids: Sequence[int]) -> list[int]:
        """An array takes nothing but whole numbers."""
        plain = array("q", ids).tolist()
        self._require_known(plain)
        return plain

    def _require_known(self, ids: list[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self._num_ids:
            raise ValueError(f"ids from {min(ids)} to {max(ids)} in a vocabulary of {self._num_ids}")

    def _distribution(self, draft_probs: Any) -> DraftProbs:
        tokens = self._plain([token for token, _ in draft_probs])
        shares = array("d", [share for _, share in draft_probs])
        if not abs(sum(shares) - 1) < _MOST_ERROR or min(shares) < 0:
            raise ValueError("draft probabilities that do not add up to 1")
        return list(zip(tokens, shares.tolist(), strict=True))
