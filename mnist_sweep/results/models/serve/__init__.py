"""`python -m mnist_sweep serve`: a page to draw digits on, and what a sweep's models make of them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_sweep.common import ports, termination
from mnist_sweep.common.errors import UserError

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn
    from starlette.types import ASGIApp

    from mnist_sweep.results.models.image_decoder import PictureReader

TOKEN_VARIABLE = "MNIST_SWEEP_TOKEN"
# As a header can carry it; shorter ones can be guessed.
_TOKEN = re.compile(r"[\w.~+/=-]{16,}", re.ASCII)
_JUDGES = 5
# Pictures that are read at a time, so that many clients at once do not take the machine; and the seconds for each:
# a page's drawing takes 0.1, the largest picture 1.
_AT_A_TIME, _SECONDS_A_PICTURE = 2, 5.0


def serve(what: str | None, tracking_uri: str | None, host: str, port: int, token: str | None = None) -> int:
    """Serves the page until Ctrl-C.

    Args:
        what: As for `find_model`.
        tracking_uri: As for `find_model`.
        host: The address to listen on; others than this machine can reach it only with a token.
        port: The port to listen on; 0 for any that is free.
        token: What requests must carry; `auto` for one that is made up and printed. None for that of the variable
            MNIST_SWEEP_TOKEN, or none.

    Returns:
        The exit code.

    Raises:
        UserError: There is no such model, the port is taken, or a token is missing or too short.
    """
    # More threads would gain nothing on pictures this small, and cost three times the processor's time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Taken out: no process that is started from here needs it.
    by_variable = os.environ.pop(TOKEN_VARIABLE, "")
    given = by_variable if token is None else token
    made_up = given == "auto"
    wanted = secrets.token_urlsafe(24) if made_up else _checked(given)
    ended = termination.raise_on_signals()
    loading: threading.Thread | None = None
    with (
        contextlib.suppress(KeyboardInterrupt),
        ports.listen(host, port) as listening,
        # A thread that is loading may still be writing to it.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        if not wanted and not ports.is_loopback(listening):
            raise UserError(
                f"--host={host}: others than this machine can reach that, so a token is needed: set --token, or the "
                f"variable {TOKEN_VARIABLE}; auto makes one up"
            )
        loading = _serve(what, tracking_uri, host, listening, wanted, made_up, Path(folder), ended)
    if loading is not None and loading.is_alive():
        # Python would wait for the import that the thread is in, or crash in it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _checked(token: str) -> str:
    if token and not _TOKEN.fullmatch(token):
        # It is not repeated: what is printed may be kept somewhere.
        raise UserError(
            "a token must have at least 16 characters, of letters, digits and . _ ~ + / = -; auto generates one"
        )
    return token


def _serve(
    what: str | None,
    tracking_uri: str | None,
    host: str,
    listening: socket.socket,
    token: str,
    made_up: bool,
    folder: Path,
    ended: threading.Event,
) -> threading.Thread | None:
    # Seconds of imports, which a taken port need not wait for.
    from mnist_sweep.results.models.image_files import profile_of
    from mnist_sweep.results.models.serve.app import make_app
    from mnist_sweep.results.models.serve.panel import Panel, candidates, card, image_shape, load
    from mnist_sweep.results.models.model_run import find_model

    champion = find_model(what, tracking_uri)
    queue = candidates(champion)
    profile = profile_of(champion, folder)
    panel = Panel(card(champion), image_shape(champion), profile, expected=min(len(queue), _JUDGES))
    names = [socket.gethostname(), f"{socket.gethostname()}.local"] if host in ports.EVERYWHERE else [host]
    failures: list[BaseException] = []
    with picture_readers() as readers:
        server = server_of(make_app(panel, readers, names, token))

        def load_all() -> None:
            try:
                load(panel, queue, _JUDGES, folder)
            except BaseException as error:
                failures.append(error)
                server.should_exit = True

        if ended.is_set():
            return None
        # TensorFlow takes seconds to import: the page is there at once, and says so.
        loading = threading.Thread(target=load_all, daemon=True)
        loading.start()
        # One that the user has given is not repeated, as what is printed may be kept somewhere.
        carried = f"?token={token if made_up else '…'}" if token else ""
        link = f"http://{ports.in_url(host)}:{listening.getsockname()[1]}/{carried}"
        with contextlib.suppress(KeyboardInterrupt):
            print(f"Draw at {link} (Ctrl-C ends it)", flush=True)
            server.run(sockets=[listening])
    if failures and not ended.is_set():
        raise failures[0]
    return loading


@contextlib.contextmanager
def picture_readers(seconds: float = _SECONDS_A_PICTURE) -> Iterator[list[PictureReader]]:
    """As many readers as pictures may be read at a time, which are closed in the end.

    Args:
        seconds: What one picture may take.
    """
    from mnist_sweep.results.models.image_decoder import PictureReader

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(PictureReader(seconds)) for _ in range(_AT_A_TIME)]


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that prints nothing, waits for nobody, and ends at once."""
    import uvicorn

    from mnist_sweep.results.models.serve.connections import LimitedProtocol

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            termination.end_in_time()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return Server(config)
