"""API keys: known by their digests alone, compared in constant time, each with a quota of its own."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LOCAL_OWNER = "local"
"""Who everybody is while no keys are set: the service then answers on loopback only."""


def owner_of(key: str) -> str:
    """The name of whoever comes with a key, as settings give it."""
    return f"key-{_digest_of(key)[:16]}"


def operators(keys: Sequence[str], api_key: str | None) -> frozenset[str]:
    """Who may do what concerns everybody: whoever is local, the only key's owner, or that of the setting `api_key`."""
    if not keys:
        return frozenset({LOCAL_OWNER})
    named = [api_key] if api_key else list(keys) if len(keys) == 1 else []
    return frozenset(map(owner_of, named))


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Keyring:
    """The keys that open the service.

    A key is given in clear or as `sha256:` and the digest's 64 hex digits. An owner is named by the beginning of the
    digest, so that what a key has written stays its own over restarts and says nothing about the key.
    """

    def __init__(
        self,
        keys: Iterable[str],
        *,
        requests_per_minute: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._digests = [_digest_of(key) for key in keys]
        self._per_minute = requests_per_minute
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def owner(self, authorization: str | None) -> str | None:
        """Whose the `Authorization` header's bearer key is; None if it opens nothing."""
        if not self._digests:
            return LOCAL_OWNER
        scheme, _, key = (authorization or "").partition(" ")
        presented = hashlib.sha256(key.strip().encode()).hexdigest()
        found = None
        for digest in self._digests:  # all of them, whichever fits
            if hmac.compare_digest(digest, presented):
                found = f"key-{digest[:16]}"
        return found if scheme.lower() == "bearer" else None

    def seconds_until_allowed(self, owner: str) -> float:
        """Count one request against the owner's quota. 0 if it is within; else how long to wait, and it counts not."""
        if not self._per_minute:
            return 0.0
        with self._lock:
            now = self._clock()
            bucket = self._buckets.setdefault(owner, _Bucket(float(self._per_minute), now))
            rate = self._per_minute / 60.0
            bucket.tokens = min(float(self._per_minute), bucket.tokens + (now - bucket.filled_at) * rate)
            bucket.filled_at = now
            if bucket.tokens >= 1.0:
                bucket.tokens -= 1.0
                return 0.0
            return (1.0 - bucket.tokens) / rate


def _digest_of(key: str) -> str:
    if key.startswith("sha256:"):
        digest = key.removeprefix("sha256:").lower()
        if len(digest) != 64 or any(c not in "0123456789abcdef" for c in digest):
            raise ValueError("an API key that begins with 'sha256:' must go on with 64 hex digits")
        return digest
    if len(key) < 8:
        raise ValueError("an API key needs at least 8 characters")
    return hashlib.sha256(key.encode()).hexdigest()
