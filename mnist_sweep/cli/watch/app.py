"""The web application: the page, what it is told, and what it may ask of a running sweep."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import mnist_sweep
from mnist_sweep.cli.watch.sweeps import Sweeps
from mnist_sweep.common import web
from mnist_sweep.common.errors import UserError
from mnist_sweep.driver.steering import Answer, Steering

_HERE = Path(__file__).parent
# The report's colours and axes are the page's, too.
_REPORT = Path(mnist_sweep.__file__).parent / "results" / "report"
_CSS, _JS = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
_SCRIPTS = ("stream.js", "charts.js", "parallel.js", "table.js", "steer.js", "page.js")
_FILES = {
    "/": (_HERE / "page.html", "text/html; charset=utf-8"),
    "/icon.svg": (_HERE / "icon.svg", "image/svg+xml"),
    "/report.css": (_REPORT / "report.css", _CSS),
    "/watch.css": (_HERE / "watch.css", _CSS),
    "/axes.js": (_REPORT / "axes.js", _JS),
    **{f"/{name}": (_HERE / name, _JS) for name in _SCRIPTS},
}
# Seconds between two messages, and without one after which the page is told that the server is still there.
_PAUSE, _ALIVE = 0.5, 10.0
_MOST_BYTES, _SECONDS_TO_SEND = 2**16, 10.0


def make_app(
    sweeps: Sweeps, names: Sequence[str], token: str, *, open_to_all: bool, ended: Callable[[], bool] = lambda: False
) -> ASGIApp:
    """Makes the application.

    Args:
        sweeps: The sweeps to show.
        names: The host names that requests may use, besides `localhost` and any IP address.
        token: The token that a request must carry in `Authorization: Bearer TOKEN` to change anything.
        open_to_all: Whether requests without the token may read.
        ended: Whether the server ends, so that the streams must.

    Returns:
        The application. `GET /` is the page. `GET /sweeps`, and `GET /sweep?name=NAME` for one sweep, are streams of
        server-sent events. `POST /steer?name=NAME` takes what `steer` sends to a sweep, such as
        `{"do": "stop", "trial": 17}`, and returns `{"done": "…"}`, or `{"error": "…"}` if
        the sweep refuses it. What is wrong with a request is `{"error": "…"}`, too.
    """
    # FastAPI's documentation pages would load scripts from other servers.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _refused)
    for path, (file, kind) in _FILES.items():
        app.add_api_route(path, web.file(file, kind), methods=["GET"])

    @app.get("/sweeps")
    async def overview() -> Response:
        last: dict[str, Any] = {}

        def message() -> dict[str, Any]:
            nonlocal last
            found = sweeps.overview()
            if found == last:
                return {}
            last = found
            return {**found, "now": time.time()}

        return _stream(message, ended, pause=1.0)

    @app.get("/sweep")
    async def sweep(name: str, request: Request) -> Response:
        live = await anyio.to_thread.run_sync(sweeps.live, name)
        if live is None:
            raise HTTPException(404, f"{name}: there is no such sweep here")
        page = live.page()
        acts = request.scope["acts"]
        return _stream(lambda: _with_rights(page.next(), acts=acts), ended)

    @app.post("/steer")
    async def steer(name: str, request: Request) -> dict[str, Any]:
        live = await anyio.to_thread.run_sync(sweeps.live, name)
        if live is None:
            raise HTTPException(404, f"{name}: there is no such sweep here")
        wish = await _wish(request)
        try:
            answer = await anyio.to_thread.run_sync(_ask, Steering(live.folder), wish, abandon_on_cancel=True)
        except UserError as error:
            # An ordinary answer, which a browser must not report as a fault.
            return {"error": str(error)}
        return {"done": answer.text, "trial": answer.trial}

    return _Guard(app, names, token, open_to_all=open_to_all)


def _with_rights(message: dict[str, Any], *, acts: bool) -> dict[str, Any]:
    if "why" in message and not acts and not message["why"]:
        message["why"] = "to change the sweep, open the link that watch printed, with its token"
    return message


def _stream(message: Callable[[], Mapping[str, Any]], ended: Callable[[], bool], pause: float = _PAUSE) -> Response:
    """Answers with a message, and with another one as often as there is something new."""

    async def stream() -> AsyncIterator[str]:
        told = time.monotonic()
        while not ended():
            found = await anyio.to_thread.run_sync(message, abandon_on_cancel=True)
            if found:
                told = time.monotonic()
                yield f"data: {json.dumps(found, separators=(',', ':'), allow_nan=False)}\n\n"
            elif time.monotonic() - told > _ALIVE:
                told = time.monotonic()
                yield ":\n\n"
            await asyncio.sleep(pause)

    return StreamingResponse(stream(), media_type="text/event-stream")


def _ask(steering: Steering, wish: Mapping[str, Any]) -> Answer:
    match wish:
        case {"do": "stop", "trial": int(trial)}:
            return steering.stop(trial)
        case {"do": "add", "values": [str(), *_] as values} if all(isinstance(value, str) for value in values):
            return steering.add(*values)
        case {"do": "pause"}:
            return steering.pause()
        case {"do": "continue"}:
            return steering.unpause()
        case {"do": "set", "settings": [str(), *_] as settings} if all(isinstance(text, str) for text in settings):
            return steering.set(*settings)
        case {"do": "slots", "slots": int(count)}:
            return steering.slots(count)
    raise UserError("this page asks for something that this version of mnist_sweep does not know; reload it")


async def _wish(request: Request) -> Mapping[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Content-Type must be application/json")
    body = b""
    try:
        async with asyncio.timeout(_SECONDS_TO_SEND):
            async for part in request.stream():
                body += part
                if len(body) > _MOST_BYTES:
                    raise HTTPException(413, f"the body has more than {_MOST_BYTES} bytes")
        wish = json.loads(body)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {_SECONDS_TO_SEND:.0f} s") from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body must be JSON") from None
    if not isinstance(wish, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return wish


class _Guard:
    """Refuses foreign host names, requests without the token, and those that another site has sent.

    There is no cookie that a browser would add by itself: whoever changes something must know the token.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str], token: str, *, open_to_all: bool) -> None:
        self._app, self._names = app, {name.lower() for name in names}
        self._token, self._open = token.encode(), open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                web.with_headers(message)
            await send(message)

        refused = self._refusal(scope, Headers(scope=scope))
        await (refused or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if not web.is_known(host, self._names):
            return web.error(400, "this server does not accept that host name")
        scope["acts"] = acts = self._has_token(headers)
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                return web.error(403, "this request comes from another site")
            if headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return web.error(403, "this request comes from another site")
            return None if acts else self._unknown()
        # The page itself says nothing of any sweep.
        return None if acts or self._open or scope["path"] in _FILES else self._unknown()

    def _unknown(self) -> JSONResponse:
        hint = "open the link that watch printed, with its token, or send Authorization: Bearer TOKEN"
        return web.error(401, hint, {"WWW-Authenticate": "Bearer"})

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # In constant time, which does not reveal how much of it is right.
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return web.error(error.status_code, error.detail, dict(error.headers or {}))
