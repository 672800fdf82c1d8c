"""The web application: a page, and JSON beside it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from mnist_sweep.results.serve.panel import Panel
from mnist_sweep.results.serve.reading import decode, read

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
# So that many clients at once do not take the machine's memory: a picture takes up to 100 MB while it is worked on.
_AT_A_TIME = 2


def make_app(panel: Panel, names: Sequence[str] = ()) -> ASGIApp:
    """Makes the application.

    Args:
        panel: Who answers; it may still be loading.
        names: The host names by which it may be called, beside `localhost` and any address in numbers.

    Returns:
        `GET /` is the page, `GET /about` says who answers and how far it is loaded, `GET /health` whether it can
        answer, `POST /predict` takes an image and gives what `Panel.answer` gives. An error is `{"error": "…"}`.
    """
    # Its documentation pages would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    turns = anyio.Semaphore(_AT_A_TIME)

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
        async with turns:
            return await anyio.to_thread.run_sync(lambda: panel.answer(decode(kind, body)))

    return _Guard(app, names)


class _Guard:
    """Refuses names that are not this server's, and adds headers to every answer.

    A page from elsewhere can have its own name resolve to this machine (DNS rebinding), and would then be let read
    what it asks; it cannot do that with an address in numbers.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http" or self._knows(Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, with_headers)
        else:
            await JSONResponse({"error": "this server is not called that"}, 400)(scope, receive, with_headers)

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


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Closed, as the rest of a body that was not read would have to be received first.
    return JSONResponse({"error": error.detail}, error.status_code, {"Connection": "close", **(error.headers or {})})


async def _failed(request: Request, error: Exception) -> Response:
    print(f"mnist_sweep: {request.url.path}: unexpected {type(error).__name__}: {error}", file=sys.stderr)
    return JSONResponse({"error": "something went wrong here; the terminal that runs the server says what"}, 500)
