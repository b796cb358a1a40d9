"""Who may ask: whoever has the token; without one, whoever is on this machine.

A page in a browser on this machine is not meant: by a name of its own that leads to 127.0.0.1 it could read
what is told here. So without a token the name under which we are called must be one that no stranger can have.
"""

import hmac
import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from tq.api_address import check_access
from tq.redaction import register_secret
from tq.settings import Settings


class Access:
    """Knows the token."""

    def __init__(self, settings: Settings) -> None:
        """Raises:
        InvalidSetting: if strangers could reach what listens there, and there is no token.
        """
        check_access(settings)
        register_secret(settings.api_token)
        self._token = settings.api_token.encode()

    def is_granted(self, request: Request) -> bool:
        """Whether the caller may see what is not for everybody."""
        if not self._token:
            return _is_our_name(request.headers.get("host", ""))
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
        return scheme.lower() == "bearer" and is_right

    def check(self, request: Request) -> None:
        """Has a route be for those who may; a dependency of it.

        Raises:
            HTTPException: if the caller may not.
        """
        if self.is_granted(request):
            return
        if not self._token:
            raise HTTPException(
                HTTPStatus.MISDIRECTED_REQUEST,
                "without a token only an address, localhost or a name without a dot is answered to; "
                "call http://127.0.0.1, or set TQ_API_TOKEN",
            )
        was_wrong = ', error="invalid_token"' if "authorization" in request.headers else ""
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "send the value of TQ_API_TOKEN, as the header `Authorization: Bearer …`",
            headers={"WWW-Authenticate": f'Bearer realm="taskqueue"{was_wrong}'},
        )


def _is_our_name(host: str) -> bool:
    """Whether a `Host` is an address, or a name that nobody could have registered."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name.endswith(".localhost"))
    return True
