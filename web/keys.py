"""API keys: known by their digests alone, compared in constant time; each says whose it is and what it is good for."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from web.scopes import SCOPES, Scope

LOCAL_OWNER = "local"
"""Who everybody is while no keys are set: the service then answers on loopback only."""
_ORDINARY: frozenset[Scope] = SCOPES - {"admin"}
_USER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, as the service knows it."""

    digest: str
    """SHA-256 of the key, in hex."""
    owner: str
    """Whose memory, adapters, states and sessions it opens."""
    scopes: frozenset[Scope]

    @property
    def name(self) -> str:
        """What logs and records call it: says nothing of the key."""
        return f"key-{self.digest[:16]}" if self.digest else self.owner


_EVERYBODY = Key(digest="", owner=LOCAL_OWNER, scopes=SCOPES)


def parsed(line: str, *, admin: bool = False) -> Key:
    """A key as settings give it: `KEY [scopes=chat+memory+export+admin] [user=NAME]`.

    KEY is in clear, or `sha256:` and 64 hex digits. Keys of one `user` open the same things, so that a key can be
    changed and its user's memory stays; without it a key is a user of its own, named by the beginning of its digest, so
    that what it has written says nothing about it. Without `scopes` it is good for all but `admin`, unless `admin`.

    Raises:
        ValueError: what it is not good for.
    """
    key, *options = line.split() or [""]
    digest = _digest_of(key)
    scopes = SCOPES if admin else _ORDINARY
    owner = f"key-{digest[:16]}"
    for option in options:
        name, _, value = option.partition("=")
        if name == "scopes":
            wanted = frozenset(value.split("+"))
            if not wanted <= SCOPES:
                raise ValueError(f"scopes are {', '.join(sorted(SCOPES))}, joined by '+'; not {value!r}")
            scopes = frozenset(s for s in SCOPES if s in wanted)
        elif name == "user" and _USER.fullmatch(value):
            owner = f"user-{value}"
        else:
            raise ValueError(
                f"{option!r} after a key: scopes=chat+memory or user=NAME of a-z, 0-9, '_' and '-' may stand there"
            )
    return Key(digest=digest, owner=owner, scopes=scopes)


def keys_of(lines: Iterable[str], api_key: str | None = None) -> list[Key]:
    """All keys. The one of the setting `api_key`, or an only one, administers, unless its own scopes say otherwise."""
    given = list(lines)
    return [parsed(line, admin=line == api_key or len(given) == 1) for line in given]


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Keyring:
    """The keys that open the service, and each owner's quota."""

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        requests_per_minute: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = list(keys)
        self._per_minute = requests_per_minute
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._keys)

    def presented(self, authorization: str | None) -> Key | None:
        """The key that the `Authorization` header bears; None if it opens nothing."""
        if not self._keys:
            return _EVERYBODY
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        found = None
        for known in self._keys:  # all of them, whichever fits
            if hmac.compare_digest(known.digest, digest):
                found = known
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
