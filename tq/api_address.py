"""Where `tq web` listens, and whether it may listen there."""

import errno
import socket
from contextlib import ExitStack

from tq.errors import InvalidSetting, TaskQueueError
from tq.settings import HOW_TO_MAKE_ONE, Settings, is_loopback

BACKLOG = 512


def check_access(settings: Settings) -> None:
    """Returns if nobody can come whom nobody has let in.

    Raises:
        InvalidSetting: if others than this machine could reach it, and there is no token.
    """
    if not settings.api_token and not is_loopback(settings.api_host):
        raise InvalidSetting(
            f"TQ_API_TOKEN: is needed where TQ_API_HOST is {settings.api_host!r}, which others than this machine "
            f"can reach; set it to a long random text, {HOW_TO_MAKE_ONE}, or set TQ_API_HOST to 127.0.0.1"
        )


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        InvalidSetting: if this machine has no such address.
        TaskQueueError: if the port is taken, or not for us.
    """
    host, port = settings.api_host, settings.api_port
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)[0]
        with ExitStack() as stack:
            # asyncio sends what is short at once only where the socket names its protocol.
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
            stack.pop_all()
            return listener
    except (socket.gaierror, UnicodeError):
        raise InvalidSetting(
            f"TQ_API_HOST: {host!r} is not an address that is known here; write one such as 127.0.0.1 or 0.0.0.0"
        ) from None
    except OSError as error:
        raise _explained(error, host, port) from None


def url_of(host: str, port: int) -> str:
    """The address that people and programs call."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _explained(error: OSError, host: str, port: int) -> TaskQueueError:
    match error.errno:
        case errno.EADDRINUSE:
            return TaskQueueError(
                f"TQ_API_PORT: port {port} of {host} is taken; end what listens there, or set another port"
            )
        case errno.EADDRNOTAVAIL:
            return InvalidSetting(
                f"TQ_API_HOST: {host!r} is not an address of this machine; write one that is, or 0.0.0.0 for all"
            )
        case errno.EACCES | errno.EPERM:
            return TaskQueueError(f"TQ_API_PORT: port {port} is not for this user; set one from 1024 on")
        case _:
            return TaskQueueError(f"TQ_API_HOST, TQ_API_PORT: {host} port {port}: {error.strerror}")
