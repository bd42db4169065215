"""Which machines a head admits: those on its list, those that know a token, and those that a person accepts.

The list, the tokens and the open requests are files of the head's folder. `histrio hosts` changes them while the head
runs, which looks at them again when they have changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from histrio.errors import WireError
from histrio.hosts.folder import HostFolder
from histrio.hosts.proof import is_proof, new_token, proof, token_key
from histrio.net.keys import fingerprint

__all__ = ["Member", "Members", "Token"]

_HOSTS, _TOKENS, _REQUESTS = "hosts.json", "tokens.json", "requests.json"
_MOST_MEMBERS, _MOST_TOKENS, _MOST_REQUESTS = 4096, 256, 64
_REQUEST_S = 600.0
"""How long a request stands after the machine asked last."""


class Member(msgspec.Struct, kw_only=True):
    """A machine that is admitted, or asks to be."""

    peer_id: str
    name: str
    """What it calls itself; the list has each name once."""
    address: str = ""
    """Where it asked from."""
    at: float = 0.0
    """When it was admitted, or asked last; seconds since 1970."""


class Token(msgspec.Struct, kw_only=True):
    """A word that admits machines. Stored as its key: the word itself is shown once."""

    key: str
    """In hex."""
    expires_at: float
    """Seconds since 1970."""
    is_reusable: bool = False


class Members:
    """The lists of one head."""

    def __init__(self, folder: HostFolder, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def all(self) -> list[Member]:
        """The machines that are admitted."""
        return self._folder.read(_HOSTS, list[Member], [])

    def find(self, peer_id: str) -> Member | None:
        """The admitted machine with this peer id."""
        return next((each for each in self.all() if each.peer_id == peer_id), None)

    def requests(self) -> list[Member]:
        """The machines that wait for a person's word."""
        now = self._clock()
        return [each for each in self._folder.read(_REQUESTS, list[Member], []) if now - each.at < _REQUEST_S]

    @property
    def version(self) -> int:
        """Changes when the list of admitted machines does."""
        return self._folder.changed_at(_HOSTS)

    def make_token(self, *, valid_s: float, is_reusable: bool = False) -> str:
        """A new token; it is in no file. Raises `WireError` if there are too many."""
        word, now = new_token(), self._clock()
        with self._folder.changing(_TOKENS, list[Token], []) as tokens:
            tokens[:] = [each for each in tokens if each.expires_at > now]
            if len(tokens) >= _MOST_TOKENS:
                raise WireError(f"there are {_MOST_TOKENS} valid tokens; use one of them, or wait until some expire")
            tokens.append(Token(key=token_key(word).hex(), expires_at=now + valid_s, is_reusable=is_reusable))
        return word

    def admit_by_token(self, head: str, asking: Member, given: str) -> str:
        """Admit the machine if `given` proves that it knows a valid token, which is then spent unless it is reusable;
        gives the head's own proof. Empty if it does not."""
        now = self._clock()
        with self._folder.changing(_TOKENS, list[Token], []) as tokens:
            tokens[:] = [each for each in tokens if each.expires_at > now]
            for token in tokens:
                key = bytes.fromhex(token.key)
                if is_proof(given, key, "joiner", head, asking.peer_id):
                    break
            else:
                return ""
            if not token.is_reusable:
                tokens.remove(token)
        self._add(asking)
        return proof(key, "head", head, asking.peer_id)

    def ask(self, asking: Member) -> None:
        """Put the machine among the requests; the oldest one goes if there are too many."""
        asking.at = self._clock()
        with self._folder.changing(_REQUESTS, list[Member], []) as requests:
            others = [each for each in requests if each.peer_id != asking.peer_id and asking.at - each.at < _REQUEST_S]
            requests[:] = [*others[1 - _MOST_REQUESTS :], asking]

    def accept(self, which: str) -> Member:
        """Admit the machine whose request has this name or fingerprint. Raises `WireError`."""
        found = [each for each in self.requests() if which in (each.name, fingerprint(each.peer_id))]
        if not found:
            raise WireError(f"no machine called {which!r} asks to join; `histrio hosts list` shows those that do")
        if len(found) > 1:
            raise WireError(f"{len(found)} machines call themselves {which!r}; give the fingerprint of one")
        self._add(found[0])
        return found[0]

    def remove(self, which: str) -> Member:
        """Take an admitted machine off the list, by its name or fingerprint. Raises `WireError`."""
        with self._folder.changing(_HOSTS, list[Member], []) as hosts:
            for host in hosts:
                if which in (host.name, fingerprint(host.peer_id)):
                    hosts.remove(host)
                    return host
        raise WireError(f"no machine called {which!r} is admitted; `histrio hosts list` shows those that are")

    def _add(self, member: Member) -> None:
        member.at = self._clock()
        with self._folder.changing(_HOSTS, list[Member], []) as hosts:
            others = [each for each in hosts if each.peer_id != member.peer_id]
            if len(others) >= _MOST_MEMBERS:
                raise WireError(f"{_MOST_MEMBERS} machines are admitted; remove some (`histrio hosts remove NAME`)")
            taken = {each.name for each in others}
            member.name = next(name for name in _variants(member.name) if name not in taken)
            hosts[:] = [*others, member]
        with self._folder.changing(_REQUESTS, list[Member], []) as requests:
            requests[:] = [each for each in requests if each.peer_id != member.peer_id]


def _variants(name: str) -> list[str]:
    return [name, *(f"{name}-{count}" for count in range(2, _MOST_MEMBERS + 2))]
