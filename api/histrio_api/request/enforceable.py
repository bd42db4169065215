"""Whether the grammar of a request can be enforced: tried once beside the front, before anything is generated."""

from __future__ import annotations

from histrio.errors import Overloaded, RequestError
from histrio.front.grammar_check import GrammarChecker
from histrio_api.http.request import Receive
from histrio_api.request.attended import attended
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.wanted import WantedGrammar
from histrio_api.shared.edge import Edge

__all__ = ["require_enforceable"]


async def require_enforceable(edge: Edge, wanted: WantedGrammar, ignored: IgnoredFields, receive: Receive) -> None:
    """Raise `RequestError` where it cannot be enforced, `Overloaded`, or what is no fault of the request.

    `ignored` takes what is left unenforced. `receive` gives the request's next ASGI message: a client that leaves ends
    the trial with `ClientLeft`.
    """
    checker = edge.grammars
    if checker is None:
        wanted.require_promised((), ignored)
        return

    unenforced = checker.accepted(wanted.spec)
    if unenforced is not None:
        wanted.require_promised(unenforced, ignored)
        return

    async def work() -> None:
        wanted.require_promised(await _check(checker, wanted), ignored)

    await attended(edge, receive, work)


async def _check(checker: GrammarChecker, wanted: WantedGrammar) -> tuple[str, ...]:
    try:
        return await checker.check(wanted.spec)
    except Overloaded:
        raise
    except RequestError as error:
        raise wanted.locate(error) from None
