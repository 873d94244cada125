"""Pure: what a key must be good for, by request, and which requests are put on record.

chat: talk, sessions, the persona. memory: what is remembered, what nights make of it, who serves. export: whatever
takes all of something out at once. admin: what concerns everybody on this machine.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

Scope = Literal["chat", "memory", "export", "admin"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

_ANY, _READ = "[A-Z]+", "GET|HEAD"
_NEEDED: tuple[tuple[str, str, Scope], ...] = (
    (_READ, "/v1/memories/export", "export"),
    (_READ, "/v1/sessions/[^/]+/checkpoint", "export"),
    (_ANY, "/v1/(memories|receipts|sleep|adapters)(/.*)?", "memory"),
    (_ANY, "/v1/(models|chat|sessions|checkpoints|feedback|persona)(/.*)?", "chat"),
    (_READ, "/v1/heartbeat", "chat"),
    (_ANY, "/v1/(heartbeat|rooms|backups|audit)(/.*)?", "admin"),
)
"""The first that fits. Every route below /v1 is in it (tests/test_keys.py)."""
_ON_RECORD: tuple[tuple[str, str], ...] = (
    (_READ, "/v1/memories/export"),
    (_READ, "/v1/sessions/[^/]+/checkpoint"),
    ("POST", "/v1/memories/(import|[^/]+/verify)"),
    ("PATCH|DELETE", "/v1/memories/[^/]+"),
    ("DELETE", "/v1/sessions/[^/]+"),
    ("POST", "/v1/checkpoints(/uploads/[^/]+/import)?"),
    ("POST", "/v1/sleep(/cycles/[^/]+/cancel)?"),
    ("POST", "/v1/adapters/.*"),
    ("PUT", "/v1/(persona|heartbeat)"),
    ("POST", "/v1/backups"),
    (_READ, "/v1/rooms/[^/]+"),
)
"""What changes or takes out what an agent is, beside talking to it."""


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request takes; None: any key will do, or there is nothing there."""
    return next((scope for how, where, scope in _NEEDED if _fits(how, where, method, path)), None)


def on_record(method: str, path: str) -> bool:
    """Whether a request is an administrative act."""
    return any(_fits(how, where, method, path) for how, where in _ON_RECORD)


def _fits(how: str, where: str, method: str, path: str) -> bool:
    return bool(re.fullmatch(how, method) and re.fullmatch(where, path))
