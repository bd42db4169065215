"""What one key has used of its limits, and the refusal once it may take no more for now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import monotonic

from histrio.errors import ModelNotFound, Overloaded, RequestError
from histrio_api.keys.bucket import Bucket
from histrio_api.keys.key import ApiKey

__all__ = ["KeyLimits", "RateLimited", "Reservation"]

_RETRY_AFTER_S = 1


class RateLimited(Overloaded):
    """A key's limit is reached; `type` is what it limits, as OpenAI says it."""

    def __init__(self, kind: str, message: str, wait_s: float) -> None:
        super().__init__(message, retry_after_s=max(_RETRY_AFTER_S, math.ceil(wait_s)))
        self.type = kind


class ModelNotAllowed(ModelNotFound):
    """The key may not use this model."""

    status = 403
    code = "model_not_allowed"


class KeyLimits:
    """One key, and how much of its limits is left. All methods run on the loop and take no time."""

    def __init__(self, key: ApiKey, clock: Callable[[], float] = monotonic) -> None:
        self.key = key
        self._clock = clock
        self._requests = self._bucket(key.requests_per_minute)
        self._tokens = self._bucket(key.tokens_per_minute)
        self._num_running = 0

    def change(self, key: ApiKey) -> None:
        """The file has other limits for the key now; those that stay the same go on as they are."""
        if key.requests_per_minute != self.key.requests_per_minute:
            self._requests = self._bucket(key.requests_per_minute)
        if key.tokens_per_minute != self.key.tokens_per_minute:
            self._tokens = self._bucket(key.tokens_per_minute)
        self.key = key

    def take_request(self) -> None:
        """Count one request. Raises `RateLimited`, and then counts nothing."""
        if self._requests is None:
            return
        now_s = self._clock()
        if wait_s := self._requests.wait_s(1, now_s):
            limit = self._requests.per_minute
            raise RateLimited(
                "requests", f"this API key may send {limit} requests per minute; {_again(wait_s)}", wait_s
            )
        self._requests.take(1, now_s)

    def reserve(self, num_tokens: int) -> Reservation:
        """Begin to generate, for so many tokens as far as is known ahead. Raises `RateLimited`."""
        most = self.key.concurrent_requests
        if most is not None and self._num_running >= most:
            text = f"this API key may have {most} requests at the same time; try again when one has ended"
            raise RateLimited("concurrent_requests", text, _RETRY_AFTER_S)
        if self._tokens is not None:
            now_s = self._clock()
            if wait_s := self._tokens.wait_s(num_tokens, now_s):
                limit, left = self._tokens.per_minute, self._tokens.level(now_s)
                text = (
                    f"this API key may have {limit} tokens per minute; {left} are left, and the request may take "
                    f"{num_tokens}; {_again(wait_s)}"
                )
                raise RateLimited("tokens", text, wait_s)
            self._tokens.take(num_tokens, now_s)
        self._num_running += 1
        return Reservation(self, num_tokens)

    def settle(self, num_too_many: int) -> None:
        """A reservation's: the request has ended, and took so many tokens less; negative for more."""
        self._num_running -= 1
        if self._tokens is not None:
            self._tokens.take(-num_too_many, self._clock())

    def may_use(self, model: str) -> bool:
        """Whether the key may use this model."""
        return not self.key.models or model in self.key.models

    def require_model(self, model: str) -> None:
        """Raise `ModelNotAllowed` unless the key may use it."""
        if not self.may_use(model):
            raise ModelNotAllowed("model: this API key may not use the model that is served here", param="model")

    def priority(self, wanted: int | None) -> int:
        """The priority of a request; without one the most urgent that the key may have. Raises `RequestError`."""
        highest = self.key.highest_priority
        if wanted is not None and wanted < highest:
            raise RequestError(f"priority: this API key's requests may have {highest} or more", param="priority")
        return highest if wanted is None else wanted

    def headers(self) -> dict[str, str]:
        """What is left, under the names that OpenAI gives it."""
        return {} if self._requests is None and self._tokens is None else dict(self._headers())

    def _headers(self) -> Iterator[tuple[str, str]]:
        now_s = self._clock()
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                yield f"x-ratelimit-limit-{kind}", str(bucket.per_minute)
                yield f"x-ratelimit-remaining-{kind}", str(bucket.level(now_s))
                yield f"x-ratelimit-reset-{kind}", _duration(bucket.full_s(now_s))

    def _bucket(self, per_minute: int | None) -> Bucket | None:
        return None if per_minute is None else Bucket(per_minute, self._clock())


class Reservation:
    """Tokens that a request may take. `settle` it however the request ends."""

    def __init__(self, limits: KeyLimits, num_tokens: int) -> None:
        self._limits = limits
        self._num_tokens = num_tokens
        self._is_settled = False

    def settle(self, num_tokens: int) -> None:
        """The request took so many. Safe to call twice."""
        if not self._is_settled:
            self._is_settled = True
            self._limits.settle(self._num_tokens - num_tokens)


def _again(wait_s: float) -> str:
    return f"try again in {max(1, math.ceil(wait_s))} s"


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `6.5s`, `1m30s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"
