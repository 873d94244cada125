"""What every request passes before any route sees it: host, origin, key, quota, size, and that its body is JSON.

What a key is not good for is refused here, by `scopes.py`; administrative acts are put on record before they are done.
Pure ASGI, so that a refused body is never held in memory: it is read and thrown away, since a client that is still
sending when the connection closes never gets to read why.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.errors import ApiError, api_error
from web.keys import Key, Keyring
from web.scopes import needed, on_record

log = logging.getLogger("slowwave.web")

DISCARD_AT_MOST = 64 << 20
"""Bytes of an oversized body that are read before the connection is cut."""
_OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/openapi.json", "/favicon.ico"})
_OPEN_PREFIX = "/page/"
_LINES_PATH = "/v1/memories/import"
"""Where JSON lines are sent, many at once; each line is looked at there."""
MOST_LINES_BYTES = 64 << 20
_OCTET_PATHS = re.compile(r"/v1/checkpoints(/look|/uploads/[^/]+)?")
"""Where files are sent: POST or PATCH, of bytes."""


class Guard:
    """Refuses loudly and early. Leaves the owner's name in `scope["state"]["owner"]`.

    `asked` writes down an act and gives what is to be called with the answer's status; both may wait.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keyring: Keyring,
        max_body_bytes: int,
        allowed_hosts: frozenset[str],
        allowed_origins: frozenset[str],
        rejected: Callable[[str], None],
        asked: Callable[[Key, str], Callable[[int], None]],
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._max_body_bytes = max_body_bytes
        self._allowed_hosts = allowed_hosts
        self._allowed_origins = allowed_origins
        self._rejected = rejected
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        incoming = _Incoming(receive, headers)
        try:
            self._check_host(headers)
            self._check_origin(headers)
            key = self._check_key(scope, headers)
            scope.setdefault("state", {})["owner"] = key.owner if key else ""
            if key and on_record(scope["method"], scope["path"]):
                send = await self._recorded(key, scope, send)
            self._check_scope(key, scope)
            if _is_checkpoint(scope):  # read as it comes, by its route
                await self._app(scope, receive, send)
                return
            if scope["path"] == _LINES_PATH:
                body = await incoming.read(max(MOST_LINES_BYTES, self._max_body_bytes))
                _check_utf8(body)
            else:
                body = await incoming.read(self._max_body_bytes)
                _check_body(body, headers)
        except ApiError as error:
            self._rejected(error.code or str(error.status))
            await incoming.discard()
            await error.response()(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _check_host(self, headers: Headers) -> None:
        """A page elsewhere can make a browser's DNS point its own name at this machine, never an address."""
        host = _host_of(f"//{headers.get('host', '')}")
        if host in self._allowed_hosts or _is_address(host):
            return
        raise ApiError(
            421,
            f"This service does not answer to the name {host!r}. Use its address, or add the name to allowed_hosts.",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._allowed_origins or "*" in self._allowed_origins:
            return
        if origin.partition("://")[2].lower() == headers.get("host", "").lower():
            return
        raise ApiError(
            403,
            f"Pages from {origin} may not use this service. Add it to allowed_origins if they should.",
            code="origin_not_allowed",
        )

    def _check_key(self, scope: Scope, headers: Headers) -> Key | None:
        """The key that comes with it; None: it needs none."""
        path: str = scope["path"]
        if path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX) or scope["method"] == "OPTIONS":
            return None
        key = self._keyring.presented(headers.get("authorization"))
        if key is None:
            raise ApiError(
                401,
                "This service needs an API key: send it as 'Authorization: Bearer KEY'."
                if "authorization" not in headers
                else "The API key is not valid.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        wait = self._keyring.seconds_until_allowed(key.owner)
        if wait:
            raise ApiError(
                429,
                f"This key's quota is used up; the next request is allowed in {wait:.0f} s.",
                type="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        return key

    def _check_scope(self, key: Key | None, scope: Scope) -> None:
        wanted = needed(scope["method"], scope["path"])
        if key is None or wanted is None or wanted in key.scopes:
            return
        raise ApiError(
            403,
            f"This takes a key with the scope {wanted!r}; this one has {', '.join(sorted(key.scopes)) or 'none'}. "
            "Keys are given theirs in api_keys or api_key_file: KEY scopes=chat+memory+export+admin.",
            code="scope_missing",
        )

    async def _recorded(self, key: Key, scope: Scope, send: Send) -> Send:
        """Write the act down; what sends its answer writes down how it ended, before the client learns of it.

        Raises:
            ApiError: it cannot be written down, so it is not done.
        """
        try:
            answered = await run_in_threadpool(self._asked, key, f"{scope['method']} {scope['path']}")
        except Exception as error:
            raise api_error(error) from error

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                try:
                    await run_in_threadpool(answered, message["status"])
                except Exception:  # it is done, and its asking is on record
                    log.error("act_without_its_end", exc_info=True)
            await send(message)

        return recorded


def _is_checkpoint(scope: Scope) -> bool:
    """Whether a file is sent. A piece of one goes to an upload by PATCH; all else there is JSON, or nothing."""
    found = _OCTET_PATHS.fullmatch(scope["path"])
    if found is None or scope["method"] not in ("POST", "PATCH"):
        return False
    is_piece = (found[1] or "").startswith("/uploads")
    return is_piece if scope["method"] == "PATCH" else not is_piece


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that do not match
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return False


class _Incoming:
    """A request's body on its way, and whether there is more of it."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        length = headers.get("content-length", "")
        self._declared = int(length) if length.isdigit() else 0
        self._more = self._declared > 0 or "transfer-encoding" in headers

    async def read(self, most: int) -> bytes:
        """All of it.

        Raises:
            ApiError: it is longer than `most` bytes.
        """
        if self._declared > most:
            raise _too_large(most)
        body = bytearray()
        while self._more:
            body += await self._next()
            if len(body) > most:
                raise _too_large(most)
        return bytes(body)

    async def discard(self) -> None:
        """Read what is left and keep none of it."""
        thrown_away = 0
        while self._more and thrown_away < DISCARD_AT_MOST:
            thrown_away += len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        self._more = message["type"] != "http.disconnect" and message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is larger than {most} bytes, the most that is accepted.", code="body_too_large")


def _check_body(body: bytes, headers: Headers) -> None:
    """JSON, in UTF-8, of bounded depth, without NaN and lone surrogates: what every reader after this relies on."""
    if not body:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            415, f"The body is {kind or 'of no stated type'}; send JSON, as 'Content-Type: application/json'."
        )
    _check_utf8(body)
    try:
        from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="json_invalid") from None


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8: {error.reason} at byte {error.start}.", code="not_utf8") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
