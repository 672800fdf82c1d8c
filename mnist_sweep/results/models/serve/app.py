"""The web application: the page and its JSON API."""

from __future__ import annotations

import asyncio
import hmac
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnist_sweep.common import web
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import kind_and_line, one_line
from mnist_sweep.results.models.image_decoder import DecodingError, ImageDecoder
from mnist_sweep.results.models.serve import questions
from mnist_sweep.results.models.serve.body_decoder import IMAGES, JSON
from mnist_sweep.results.models.serve.served_models import ServedModels

_FOLDER = Path(__file__).parent
_MODULES = ("page", "dom", "answer", "drawing", "canvas", "picture", "form", "arrays")
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in _MODULES},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_COOKIE = "mnist_sweep"
# A client that would wait longer for a free decoder is told to retry.
_SECONDS_TO_WAIT = 15.0
# 512 × 512 numbers of three digits fit.
MOST_BYTES = 2 * 1024 * 1024
SECONDS_TO_SEND = 15.0


def make_app(
    models: ServedModels, decoders: Sequence[ImageDecoder], names: Sequence[str] = (), token: str = ""
) -> ASGIApp:
    """Makes the application.

    Args:
        models: The models that answer, which may still be loading.
        decoders: Read the images. As many requests are answered at a time.
        names: The host names that requests may use, besides `localhost` and any IP address.
        token: The token that requests must carry; empty to answer everyone.

    Returns:
        The application. `GET /` is the page, `GET /about` reports which models answer and how many are loaded, `GET
        /inputs` what they take (`questions.inputs`), `GET /health` whether it can answer, and `POST /predict` takes an
        image or rows and returns what `ServedModels.answer` does. An error is `{"error": "…"}`.
    """
    # FastAPI's documentation pages would load scripts from other servers.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    kinds = [JSON] if models.purpose.schema.image is None else [JSON, *IMAGES]
    fields = questions.inputs(models.purpose)
    turns, free = asyncio.Semaphore(len(decoders)), list(decoders)

    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, web.file(_FOLDER / name, kind), methods=["GET"])

    @app.get("/about")
    async def about() -> dict[str, Any]:
        return models.about()

    @app.get("/inputs")
    async def inputs() -> dict[str, Any]:
        return fields

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ready": models.ready}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        if not models.ready:
            raise HTTPException(503, "the model is still being loaded", {"Retry-After": "2"})
        kind, body = await _read(request, kinds)
        try:
            async with asyncio.timeout(_SECONDS_TO_WAIT):
                await turns.acquire()
        except TimeoutError:
            raise HTTPException(503, "too many requests are waiting to be answered", {"Retry-After": "5"}) from None
        decoder = free.pop()
        try:
            # When the server ends, nothing waits for the thread. Closing the decoders ends it.
            return await anyio.to_thread.run_sync(lambda: models.answer(kind, body, decoder), abandon_on_cancel=True)
        except DecodingError as error:
            raise HTTPException(error.status, str(error)) from None
        finally:
            free.append(decoder)
            turns.release()

    return _Guard(app, names, token)


class _Guard:
    """Refuses foreign host names and requests without the token, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, names: Sequence[str], token: str) -> None:
        self._app = app
        self._names = {name.lower() for name in names}
        self._token = token.encode()
        # The cookie is not the token itself, as a browser sends it to the host's other ports, too.
        self._pass = hmac.new(self._token, b"mnist_sweep", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = web.with_headers(message)
                if by_link:
                    headers.append("Set-Cookie", f"{_COOKIE}={self._pass}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        headers, by_link = Headers(scope=scope), False
        if not web.is_known(headers.get("host", ""), self._names):
            answer: ASGIApp = web.error(400, "this server does not accept that host name")
        elif self._token and not self._admits(headers):
            # Not `parse_qs`, which reads a plus sign as a space.
            query = scope["query_string"].decode("latin-1").split("&")
            by_link = any(self._is_token(unquote(part[6:])) for part in query if part.startswith("token="))
            hint = "open the link with ?token= that belongs to this server, or send Authorization: Bearer TOKEN"
            answer = self._app if by_link else web.error(401, hint, {"WWW-Authenticate": "Bearer"})
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
        # In constant time, which does not reveal how much of it is right.
        return hmac.compare_digest(given.encode(), self._token)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return web.error(error.status_code, error.detail, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    message = masked(f"{one_line(request.url.path, 200)}: unexpected {kind_and_line(error)}")
    print(f"mnist_sweep: {message}", file=sys.stderr)
    return web.error(500, "something went wrong; the server's terminal shows what")


# ---- the body of a request --------------------------------------------------------------------------------------


async def _read(request: Request, kinds: Sequence[str]) -> tuple[str, bytes]:
    """Reads a request's body.

    Args:
        request: The request.
        kinds: The content types that are taken.

    Returns:
        The content type, and the body.

    Raises:
        HTTPException: 400 the client went away; 408 the body took too long; 413 it is too large; 415 it is of another
            type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        *most, last = kinds
        raise HTTPException(415, f"Content-Type must be {', '.join(most)}{' or ' if most else ''}{last}")
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            return kind, await _body(request)
    except ClientDisconnect:
        # The client does not see this answer, but no error is logged either.
        raise HTTPException(400, "the body did not arrive") from None
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {SECONDS_TO_SEND:.0f} s") from None


async def _body(request: Request) -> bytes:
    # The declared length may be missing or wrong, so the bytes are counted as they arrive.
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not declared.isdigit() or int(declared) <= MOST_BYTES:
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"the body has more than {MOST_BYTES} bytes")
