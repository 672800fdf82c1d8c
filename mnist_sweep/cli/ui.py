"""`python -m mnist_sweep ui`: serves MLflow's pages on the sweeps' store."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console

from mnist_sweep.cli import supervisor
from mnist_sweep.common import ports, termination
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import one_line
from mnist_sweep.config.compose import defaults
from mnist_sweep.tracking import saved_view
from mnist_sweep.tracking.store import check_database
from mnist_sweep.tracking.uri import files_of, is_database, is_server, sqlite_path

if TYPE_CHECKING:
    from mnist_sweep.results.runs.find import SweepRuns

_READY_WITHIN = 60.0
# The supervisor takes half of this time if the server ignores SIGTERM.
_END_WITHIN = 3.0
# How many bytes of the server's error output are read.
_TAIL = 65536


def serve(sweep: str | None, tracking_uri: str | None, host: str, port: int, *, open_browser: bool = False) -> int:
    """Runs MLflow's server until Ctrl-C.

    Args:
        sweep: The sweep to link to, as for `find_sweep`; None for the last one in the store.
        tracking_uri: The store; None for the one that the sweep was logged to, or the configured one.
        host: The address to listen on.
        port: The port to listen on.
        open_browser: Whether to open the sweep in the user's browser.

    Returns:
        The exit code.

    Raises:
        UserError: The store or the sweep does not exist, or the port is taken.
    """
    # At once: it imports MLflow and starts its server.
    print("Opening MLflow's pages; their server takes about 10 seconds to start …", flush=True)
    tracking = defaults()["tracking"]
    found = _find(sweep, tracking_uri) if sweep else None
    uri = found.client.tracking_uri if found else _store(tracking_uri)
    if not (is_server(uri) or is_database(uri)):
        print(f"The runs are in {masked(uri)}, which has pages of its own.")
        return 0
    if is_server(uri):
        print(f"The runs are on a tracking server: {saved_view.home(uri)}")
        _show(found or _last(uri), uri, open_browser)
        return 0
    path = sqlite_path(uri)
    if path is not None:
        check_database(path)
    with ports.listen(host, port) as taken:
        open_to_others, port = not ports.is_loopback(taken), taken.getsockname()[1]
    termination.raise_on_signals()
    # A URI, as MLflow would decode a percent sign in a path.
    artifacts = files_of(tracking["artifacts"], "")
    try:
        with tempfile.TemporaryFile() as errors, _server(uri, host, port, artifacts, errors) as server:
            address = f"http://{ports.in_url(host)}:{port}"
            # The slowest part of finding the sweep, done while the server starts. The store itself may not answer.
            importlib.import_module("mlflow")
            _wait_until_ready(server, errors, address)
            found = found or _last(uri)
            if open_to_others:
                _warn(host)
            print(f"MLflow shows the runs at {saved_view.home(address)} (Ctrl-C stops it)", flush=True)
            _show(found, address, open_browser)
            server.wait()
            raise UserError(f"MLflow's server has ended ({_last_line(errors) or server.returncode})")
    except KeyboardInterrupt:
        return 0


@contextlib.contextmanager
def _server(uri: str, host: str, port: int, artifacts: str, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs MLflow's server, which ends with the block, or with this process, however that ends."""
    server = subprocess.Popen(
        [
            sys.executable, "-I", supervisor.__file__,
            sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port),
            "--artifacts-destination", artifacts, "--workers", "1",
        ],
        env={
            **os.environ,
            # Not an argument, as every user of the machine can see those, and it may contain a password.
            "MLFLOW_BACKEND_STORE_URI": uri,
            # MLflow runs `uvicorn`, which is on the PATH only in an activated environment.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        # Ctrl-C is for this process, which then ends the server.
        start_new_session=True,
    )  # fmt: skip
    try:
        yield server
    finally:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.close()
        try:
            server.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            server.kill()
        if server.wait() < 0:
            # The supervisor was killed, so it has not ended the server.
            with contextlib.suppress(ValueError, ProcessLookupError):
                os.killpg(int(server.stdout.readline()), signal.SIGKILL)


def _warn(host: str) -> None:
    Console(stderr=True).print(
        f"--host={host}: everyone who can reach it can read, change and delete all runs and models; MLflow does not "
        "ask for a password.",
        style="bold red",
        soft_wrap=True,
        highlight=False,
    )


def _find(sweep: str | None, uri: str | None) -> SweepRuns:
    from mnist_sweep.results.runs.find import find_sweep

    return find_sweep(sweep, uri)


def _store(uri: str | None) -> str:
    """The store that is given, or that the last sweep was logged to, as for the other commands."""
    from mnist_sweep.results.runs.find import store_of

    return store_of(uri, None).uri


def _last(uri: str) -> SweepRuns | None:
    """The last sweep of a store; None if it has none. It may have other runs."""
    with contextlib.suppress(UserError):
        return _find(None, uri)
    return None


def _show(found: SweepRuns | None, address: str, open_browser: bool) -> None:
    link = saved_view.home(address) if found is None else saved_view.link_to(address, found.client, found.parent)
    if found is not None:
        print(f"{found.sweep}: {link}", flush=True)
    if open_browser:
        webbrowser.open(link)


def _wait_until_ready(server: subprocess.Popen[bytes], errors: IO[bytes], address: str) -> None:
    # Not through a proxy, which cannot reach this machine's ports.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _READY_WITHIN
    while time.monotonic() < until:
        if server.poll() is not None:
            raise UserError(f"MLflow's server ended at once ({_last_line(errors) or server.returncode})")
        try:
            with direct.open(f"{address}/health", timeout=1):
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    reason = _last_line(errors)
    raise UserError(
        f"MLflow's server did not answer at {address} within {_READY_WITHIN:.0f} s{f' ({reason})' if reason else ''}"
    )


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    # SQLAlchemy's last line is a link to its documentation.
    messages = [line for line in lines if "Background on this error" not in line]
    return masked(one_line(messages[-1], 500)) if messages else ""
