"""What goes wrong, as OpenAI's clients expect to be told: a status, `{"error": {...}}`, and when to come back."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agent.errors import AgentError, CheckpointRefused, NothingUnfinished, SessionBusy, TurnInProgress, UnknownVariable
from consolidation.journal import NightFault, NightNotFound, NightUnderWay
from consolidation.registry import AdapterNotFound, AdapterStale
from memory.errors import (
    ImportRefused,
    MemoryFault,
    MemoryNotFound,
    SessionNotFound,
    StorageFull,
    StorageUnsure,
    TurnNotFound,
)
from models.errors import (
    EngineClosed,
    EngineFull,
    EngineLoading,
    ModelError,
    PromptTooLong,
    ReplyFailed,
    SteeringRefused,
)

log = logging.getLogger("slowwave.web")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RETRY_SOON, RETRY_LOADING = "1", "5"
"""Seconds for Retry-After."""


class ApiError(Exception):
    """An answer other than success. `type`, `param` and `code` as in OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def api_error(error: Exception) -> ApiError:
    """What the world is told of an error from below."""
    match error:
        case ApiError():
            return error
        case PromptTooLong():
            return ApiError(400, str(error), param="messages", code="context_length_exceeded")
        case EngineFull():
            return _unavailable(f"The service is full: {error}. Try again soon.", "queue_full", RETRY_SOON)
        case EngineLoading():
            return _unavailable("The model is still being loaded. Try again soon.", "loading", RETRY_LOADING)
        case EngineClosed():
            return _unavailable(f"The service cannot answer now: {error}.", "closed", RETRY_LOADING)
        case ReplyFailed():
            return ApiError(500, _sentence(error), type="server_error", code="reply_failed")
        case MemoryNotFound() | TurnNotFound():
            kind = "memory" if isinstance(error, MemoryNotFound) else "turn"
            return ApiError(404, _sentence(error), param=kind, code=f"{kind}_not_found")
        case NothingUnfinished():
            return ApiError(409, _sentence(error), code="nothing_unfinished")
        case CheckpointRefused():
            return ApiError(
                403 if error.param is None else 400, _sentence(error), param=error.param, code="checkpoint_refused"
            )
        case NightNotFound() | AdapterNotFound():
            kind = "night" if isinstance(error, NightNotFound) else "adapter"
            return ApiError(404, _sentence(error), param=kind, code=f"{kind}_not_found")
        case NightUnderWay() | AdapterStale():
            return ApiError(409, _sentence(error), type="conflict_error", code="night_under_way")
        case ImportRefused():
            return ApiError(400, f"Nothing was imported. {_sentence(error)}", code="import_refused")
        case SessionNotFound():
            return ApiError(404, f"{_sentence(error)}", param="session", code="session_not_found")
        case SessionBusy() | TurnInProgress():
            code = "session_busy" if isinstance(error, SessionBusy) else "turn_in_progress"
            return ApiError(
                409, _sentence(error), type="conflict_error", code=code, headers={"Retry-After": RETRY_SOON}
            )
        case UnknownVariable() | SteeringRefused():
            return ApiError(400, _sentence(error), param="slowwave.persona", code="no_variable")
        case AgentError() | ModelError():
            return ApiError(400, _sentence(error), param="messages")
        case StorageFull():
            return ApiError(507, f"Nothing was stored: {error}.", type="server_error", code="storage_full")
        case OSError() if error.errno in _NO_ROOM:
            return ApiError(507, "Nothing was stored: the disk is full.", type="server_error", code="storage_full")
        case StorageUnsure():
            message = f"The disk failed: {error}. It counts as not stored; look again after a restart."
            return ApiError(500, message, type="server_error", code="storage_unsure")
        case MemoryFault():
            return ApiError(500, f"Nothing was stored: {error}.", type="server_error", code="storage_failed")
    log.error("request_failed", exc_info=error)
    return ApiError(500, "Something went wrong on the server; its log says what.", type="server_error")


def install(app: FastAPI) -> None:
    """Give every failure of `app` the same shape."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    for family in (ApiError, AgentError, MemoryFault, ModelError, NightFault, OSError, Exception):
        app.add_exception_handler(family, _on_error)


def _unavailable(message: str, code: str, retry_after: str) -> ApiError:
    return ApiError(503, message, type="overloaded_error", code=code, headers={"Retry-After": retry_after})


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    return api_error(error).response()


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    said = {404: f"There is nothing at {request.url.path}.", 405: f"{request.method} is not possible here."}
    headers = dict(error.headers or {})
    return ApiError(error.status_code, said.get(error.status_code, str(error.detail)), headers=headers).response()


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    # The names of a union's branches stand in the path too; they mean nothing to who sent the request.
    param = ".".join(p for p in where if not any(c in p for c in "[(")) or None
    message = f"{param}: {first['msg']}." if param else f"The body is not valid: {first['msg']}."
    return ApiError(400, message, param=param, code=str(first["type"])).response()
