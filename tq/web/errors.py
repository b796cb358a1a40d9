"""What callers are told when it does not go as they wish: `{"error": {"code", "message", "details"}}`.

The status is that of RFC 9110. A message names what is wrong and what to do; it never holds a stack trace,
nor anything secret.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tq.errors import (
    InvalidDefinition,
    InvalidInput,
    InvalidSetting,
    NotFound,
    StoreError,
    TaskQueueError,
)
from tq.redaction import redact

CODES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.MISDIRECTED_REQUEST: "misdirected_request",
    HTTPStatus.UNPROCESSABLE_ENTITY: "invalid_input",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
# How /openapi.json describes what any path may answer when it does not go as its caller wishes.
ERRORS: Mapping[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error. Its code is for programs, its message for people",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["code", "message", "details"],
                            "properties": {
                                "code": {"type": "string", "examples": sorted(CODES.values())},
                                "message": {"type": "string"},
                                "details": {
                                    "description": "What programs may want to know beside; null if there is nothing."
                                },
                            },
                        }
                    },
                }
            }
        },
    }
}
LONGEST_PATH = 200  # characters of a path that is repeated to its caller


def error_response(
    status: int,
    message: str,
    *,
    code: str = "",
    details: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the one form that all have."""
    error = {"code": code or _code_of(status), "message": redact(message), "details": details}
    return Response(
        orjson.dumps({"error": error}),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def answer_errors(app: FastAPI) -> None:
    """Has the app answer errors so."""
    app.add_exception_handler(HTTPException, _answer_status)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(TaskQueueError, _answer_ours)


def _answer_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    path, headers = request.url.path[:LONGEST_PATH], dict(error.headers or {})
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            message = f"there is nothing at {path}; /openapi.json lists what there is"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = _with_head(headers.get("allow") or headers.get("Allow", ""))
            headers = {"Allow": allowed}
            message = f"{request.method} is not answered at {path}; use {allowed}"
        case _:
            message = str(error.detail)
    return error_response(error.status_code, message, headers=headers)


def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    # What was given is not repeated: it may be somebody's secret.
    faults = [
        {"where": ".".join(map(str, fault["loc"])), "message": redact(str(fault["msg"]))}
        for fault in error.errors()
    ]
    told = "; ".join(f"{fault['where']}: {fault['message']}" for fault in faults)
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, told, details=faults)


def _answer_ours(_request: Request, error: Exception) -> Response:
    match error:
        case InvalidDefinition() | InvalidSetting():
            # It stands on this machine, and not in the request.
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error), code="invalid_definitions")
        case InvalidInput():
            return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        case NotFound():
            return error_response(HTTPStatus.NOT_FOUND, str(error))
        case StoreError():
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        case _:
            raise error


def _code_of(status: int) -> str:
    return CODES.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_")


def _with_head(allowed: str) -> str:
    methods = {method.strip() for method in allowed.split(",") if method.strip()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
