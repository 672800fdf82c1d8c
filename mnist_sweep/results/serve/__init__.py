"""`python -m mnist_sweep serve`: a page to draw digits on, and what a sweep's models make of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_sweep import ports

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_JUDGES = 5


def serve(what: str | None, tracking_uri: str | None, host: str, port: int) -> int:
    """Serves the page until Ctrl-C.

    Args:
        what: As for `find_model`.
        tracking_uri: As for `find_model`.
        host: The address to listen on.
        port: The port to listen on; 0 for any that is free.

    Returns:
        The exit code.

    Raises:
        UserError: There is no such model, or the port is taken.
    """
    # More threads would gain nothing on pictures this small, and cost three times the processor's time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    ended = threading.Event()

    def end(_number: int, _frame: object) -> NoReturn:
        # The exception alone is lost where it comes upon a callback of the garbage collector's.
        ended.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    with (
        contextlib.suppress(KeyboardInterrupt),
        ports.listen(host, port) as listening,
        tempfile.TemporaryDirectory() as folder,
    ):
        _serve(what, tracking_uri, host, listening, Path(folder), ended)
    return 0


def _serve(
    what: str | None,
    tracking_uri: str | None,
    host: str,
    listening: socket.socket,
    folder: Path,
    ended: threading.Event,
) -> None:
    # Seconds of imports, which a taken port need not wait for.
    from mnist_sweep.results.images import profile_of
    from mnist_sweep.results.models import find_model
    from mnist_sweep.results.serve.app import make_app
    from mnist_sweep.results.serve.panel import Panel, candidates, card, image_shape, load

    champion = find_model(what, tracking_uri)
    queue = candidates(champion)
    profile = profile_of(champion, folder)
    panel = Panel(card(champion), image_shape(champion), profile, expected=min(len(queue), _JUDGES))
    names = [socket.gethostname(), f"{socket.gethostname()}.local"] if host in ports.EVERYWHERE else [host]
    server = server_of(make_app(panel, names))
    failures: list[BaseException] = []

    def loading() -> None:
        try:
            load(panel, queue, _JUDGES, folder)
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    if ended.is_set():
        return
    # TensorFlow takes seconds to import: the page is there at once, and says so.
    threading.Thread(target=loading, daemon=True).start()
    print(f"Draw at http://{ports.shown(host)}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listening])
    if failures:
        raise failures[0]


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that prints nothing, and ends at once."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        server_header=False,
        limit_concurrency=100,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
