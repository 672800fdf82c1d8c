"""`python -m mnist_sweep watch`: a page to follow and change running sweeps."""

from __future__ import annotations

import contextlib
import secrets
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mnist_sweep.common import ports, termination
from mnist_sweep.common.secrets import access_token
from mnist_sweep.journal.folders import SWEEPS, find, is_running, sweeps

HOST, PORT = "127.0.0.1", 8001


def watch(named: Sequence[str], host: str, port: int, token: str | None = None, *, open_browser: bool = False) -> int:
    """Serves the page until Ctrl-C.

    Args:
        named: The sweeps to show, each `NAME/TIME`, its folder, or NAME for the one that runs, or its last one; none
            for all of the project, also those that start later.
        host: The address to listen on.
        port: The port to listen on; 0 for any free one.
        token: As for `access_token`; a new one if there is none.
        open_browser: Whether to open the page in the user's browser.

    Returns:
        The exit code.

    Raises:
        UserError: A sweep does not exist, the port is taken, or the token is too short.
    """
    folders = [_find(name) for name in named] if named else None
    wanted, generated = access_token(token)
    if not wanted:
        wanted, generated = secrets.token_urlsafe(24), True
    termination.raise_on_signals()
    with contextlib.suppress(KeyboardInterrupt), ports.listen(host, port) as listening:
        # These imports take a second. An error about the port comes before.
        from mnist_sweep.cli.watch.app import make_app
        from mnist_sweep.cli.watch.sweeps import Sweeps, name_of
        from mnist_sweep.common.connections import StreamingProtocol
        from mnist_sweep.common.web import server_of

        everywhere = host in ports.EVERYWHERE
        own = socket.gethostname()
        app = make_app(
            Sweeps(folders),
            [own, f"{own}.local"] if everywhere else [host],
            wanted,
            open_to_all=ports.is_loopback(listening),
            ended=lambda: server.should_exit,
        )
        server = server_of(app, StreamingProtocol)
        only = f"?sweep={quote(name_of(folders[0]))}" if folders is not None and len(folders) == 1 else ""
        # Behind the #, a browser keeps it to itself. A token that the user gave is not printed, as the output may be
        # kept somewhere.
        address = f"http://{own if everywhere else ports.in_url(host)}:{listening.getsockname()[1]}/{only}#token="
        print(f"Watch at {address}{wanted if generated else '…'} (Ctrl-C stops it)", flush=True)
        if open_browser:
            webbrowser.open(f"{address}{wanted}")
        server.run(sockets=[listening])
    return 0


def _find(name: str) -> Path:
    last = find(name, "watch")
    below = SWEEPS / name
    alive = [folder for folder in sweeps(below) if is_running(folder)] if below.is_dir() else []
    return alive[-1] if alive else last
