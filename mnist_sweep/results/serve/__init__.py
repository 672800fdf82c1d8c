"""`python -m mnist_sweep serve`: a page to draw digits on, and what a sweep's models make of them."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
from pathlib import Path

from mnist_sweep import ports

_JUDGES = 5
_EVERYWHERE = ("0.0.0.0", "::")


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
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), ports.bind(host, port) as listening:
        with tempfile.TemporaryDirectory() as folder:
            _serve(what, tracking_uri, host, listening, Path(folder))
    return 0


def _serve(what: str | None, tracking_uri: str | None, host: str, listening: socket.socket, folder: Path) -> None:
    # A second of imports, which a taken port need not wait for.
    import uvicorn

    from mnist_sweep.results.models import find_model
    from mnist_sweep.results.serve.app import make_app
    from mnist_sweep.results.serve.panel import Panel, candidates, card, image_shape, load

    champion = find_model(what, tracking_uri)
    queue = candidates(champion)
    panel = Panel(card(champion), image_shape(champion), expected=min(len(queue), _JUDGES))
    names = [socket.gethostname(), f"{socket.gethostname()}.local"] if host in _EVERYWHERE else [host]
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(panel, names),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            server_header=False,
            limit_concurrency=100,
            timeout_graceful_shutdown=2,
        )
    )
    failures: list[BaseException] = []

    def loading() -> None:
        try:
            load(panel, queue, _JUDGES, folder)
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    # TensorFlow takes seconds to import: the page is there at once, and says so.
    threading.Thread(target=loading, daemon=True).start()
    listening.listen()
    shown = "localhost" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    print(f"Draw at http://{shown}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listening])
    if failures:
        raise failures[0]
