"""What the servers of this program's own pages have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response

from mnist_sweep.common import termination
from mnist_sweep.common.connections import LimitedProtocol

if TYPE_CHECKING:
    from types import FrameType

    from starlette.types import ASGIApp, Message

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""The headers of every answer: a page loads nothing from elsewhere, and no other site can show or read it."""


def with_headers(message: Message) -> MutableHeaders:
    """Adds `HEADERS` to the start of an answer, as far as it does not have them, and returns all its headers."""
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    return headers


class Server(uvicorn.Server):
    """A server that ends at once when a signal asks for it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the server, and the process in any case."""
        termination.end_in_time()
        super().handle_exit(sig, frame)


def server_of(app: ASGIApp, protocol: type[LimitedProtocol] = LimitedProtocol) -> Server:
    """Makes a server that prints nothing, and ends at once without waiting for clients.

    Args:
        app: The application.
        protocol: How long clients may hold a connection.
    """
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return Server(config)


def is_known(host: str, names: Collection[str]) -> bool:
    """Whether a request's `Host` is one of ours.

    A page from another site can let its host name resolve to this machine (DNS rebinding), and could then read the
    answers. It cannot do that with an IP address.

    Args:
        host: The header.
        names: The host names that requests may use, in lower case, besides `localhost` and any IP address.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name in names or bool(ip_address(name))
    except ValueError:
        return False


def file(path: Path, kind: str) -> Callable[[], Awaitable[Response]]:
    """Makes what answers with a file, which is read once.

    Args:
        path: The file.
        kind: Its media type.
    """
    content = path.read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


def error(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Returns an answer that says what is wrong, and closes the connection.

    The next request would come after the rest of a body that was not read.
    """
    return JSONResponse({"error": text}, status, {"Connection": "close", **(headers or {})})
