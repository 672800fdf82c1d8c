"""The web application: a page, and JSON beside it."""

from __future__ import annotations

import asyncio
import hmac
import sys
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import kind_and_line, one_line
from mnist_sweep.results.models.image_decoder import PictureReader, RefusedError
from mnist_sweep.results.models.serve.panel import Panel
from mnist_sweep.results.models.serve.reading import read

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FOLDER = Path(__file__).parent
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/paper.js": ("paper.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
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
_COOKIE = "mnist_sweep"
# For those before it to be answered; else a client that would wait longer is told to come again.
_SECONDS_TO_WAIT = 15.0


def make_app(panel: Panel, readers: Sequence[PictureReader], names: Sequence[str] = (), token: str = "") -> ASGIApp:
    """Makes the application.

    Args:
        panel: Who answers; it may still be loading.
        readers: What reads pictures: as many are worked on at a time.
        names: The host names by which it may be called, beside `localhost` and any address in numbers.
        token: What requests must carry; empty where anyone who reaches it may ask.

    Returns:
        `GET /` is the page, `GET /about` says who answers and how far it is loaded, `GET /health` whether it can
        answer, `POST /predict` takes an image and gives what `Panel.answer` gives. An error is `{"error": "…"}`.
    """
    # Its documentation pages would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    turns, free = asyncio.Semaphore(len(readers)), list(readers)

    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _file(_FOLDER / name, kind), methods=["GET"])

    @app.get("/about")
    async def about() -> dict[str, Any]:
        return panel.about()

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ready": panel.ready}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        if not panel.ready:
            raise HTTPException(503, "the model is still being loaded", {"Retry-After": "2"})
        kind, body = await read(request)
        try:
            async with asyncio.timeout(_SECONDS_TO_WAIT):
                await turns.acquire()
        except TimeoutError:
            raise HTTPException(503, "too many pictures are waiting to be read", {"Retry-After": "5"}) from None
        reader = free.pop()
        try:
            # When the server ends, nobody waits for the thread: it ends as the readers are closed.
            return await anyio.to_thread.run_sync(
                lambda: panel.answer(reader.read_body(kind, body, panel.shape, panel.profile)), abandon_on_cancel=True
            )
        except RefusedError as error:
            raise HTTPException(error.status, str(error)) from None
        finally:
            free.append(reader)
            turns.release()

    return _Guard(app, names, token)


class _Guard:
    """Refuses names that are not this server's, and requests without its token, and adds headers to every answer.

    A page from elsewhere can have its own name resolve to this machine (DNS rebinding), and would then be let read
    what it asks; it cannot do that with an address in numbers.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str], token: str) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}
        self._token = token.encode()
        # Not the token itself, as a browser sends a host's cookies to whatever listens on its other ports, too.
        self._pass = hmac.new(self._token, b"mnist_sweep", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if by_link:
                    headers.append("Set-Cookie", f"{_COOKIE}={self._pass}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        headers, by_link = Headers(scope=scope), False
        if not self._knows(headers.get("host", "")):
            answer: ASGIApp = _error(400, "this server does not answer to that host name")
        elif self._token and not self._admits(headers):
            # Not `parse_qs`, to which a plus sign means a space.
            query = scope["query_string"].decode("latin-1").split("&")
            by_link = any(self._is_token(unquote(part[6:])) for part in query if part.startswith("token="))
            told = "open the link with ?token= that belongs to this server, or send Authorization: Bearer TOKEN"
            answer = self._app if by_link else _error(401, told, {"WWW-Authenticate": "Bearer"})
        else:
            answer = self._app
        await answer(scope, receive, with_headers)

    def _admits(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(
            name == _COOKIE and hmac.compare_digest(value.encode(), self._pass.encode()) for name, _, value in cookies
        )

    def _is_token(self, given: str) -> bool:
        # In a time that does not tell how much of it is right.
        return hmac.compare_digest(given.encode(), self._token)

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ip_address(name))
        except ValueError:
            return False


def _file(path: Path, kind: str) -> Callable[[], Awaitable[Response]]:
    content = path.read_bytes()

    async def file() -> Response:
        return Response(content, media_type=kind)

    return file


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    # Closed, as the rest of a body that was not read would have to be received first.
    return JSONResponse({"error": text}, status, {"Connection": "close", **(headers or {})})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    told = masked(f"{one_line(request.url.path, 200)}: unexpected {kind_and_line(error)}")
    print(f"mnist_sweep: {told}", file=sys.stderr)
    return _error(500, "something went wrong here; the terminal that runs the server says what")
