"""Requests and headers that are known to be right, so that httpx need not go through each of them again.

It would do so several times a call: for the request, for its answer, and where either is copied.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

import httpx

# A name as it is sent, the same in lower case, and a value: as httpx keeps them.
Line = tuple[bytes, bytes, bytes]

_name_and_value = itemgetter(0, 2)


def ready_headers(lines: Iterable[Line]) -> httpx.Headers:
    """Headers as they are."""
    # Not of a class of their own: httpx asks what they are, and of a subclass it takes long to tell.
    headers = httpx.Headers.__new__(httpx.Headers)
    headers._list = list(lines)
    headers._encoding = None
    return headers


def ready_request(
    method: str, url: httpx.URL, lines: Iterable[Line], body: bytes, extensions: Mapping[str, Any]
) -> httpx.Request:
    """A request of all this as it is; httpx adds nothing, and its URL is the same object."""
    request = httpx.Request.__new__(httpx.Request)
    request.method = method
    request.url = url
    request.headers = ready_headers(lines)
    request.stream = httpx.ByteStream(body)
    request.extensions = {**extensions, "whole_body": body}
    return request


def put_line(headers: httpx.Headers, name: bytes, value: bytes) -> None:
    """Adds a header, in place of one that is there under that name, which is in lower case."""
    headers._list = [line for line in headers._list if line[1] != name]
    headers._list.append((name, name, value))


def lines_of(headers: httpx.Headers) -> list[bytes]:
    """Each as `name: value`."""
    return list(map(b": ".join, map(_name_and_value, headers._list)))
