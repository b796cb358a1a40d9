"""JSON as callers get it: instants are RFC 3339 in UTC with a `Z`, durations are seconds."""

from datetime import datetime, timedelta
from http import HTTPStatus

import orjson
from fastapi import Response

from tq.clock import iso


def json_response(document: object, status: int = HTTPStatus.OK) -> Response:
    """The document as an answer."""
    body = orjson.dumps(document, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)
    return Response(body, status_code=status, media_type="application/json")


def _plain(value: object) -> object:
    match value:
        case datetime():
            return iso(value)
        case timedelta():
            return value.total_seconds()
        case _:
            raise TypeError(type(value).__name__)
