"""`python -m mnist_sweep ui`: MLflow's pages on the sweeps' store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mnist_sweep import mlflow_view, ports
from mnist_sweep.compose import defaults
from mnist_sweep.errors import UserError
from mnist_sweep.mlflow_store import absolute, sqlite_path

if TYPE_CHECKING:
    from mnist_sweep.results.runs import SweepRuns

HOST, PORT = "127.0.0.1", 5000
_READY_WITHIN = 60.0


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
        UserError: The store or the sweep is not there, or the port is taken.
    """
    tracking = defaults()["tracking"]
    found = _find(sweep, tracking_uri) if sweep else None
    uri = found.client.tracking_uri if found else absolute(tracking_uri or _configured())
    if uri.startswith(("http:", "https:")):
        print(f"The runs are on a tracking server: {mlflow_view.home(uri)}")
        _tell(found or _last(uri), uri, open_browser)
        return 0
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(
            f"tracking.uri={uri}: there are no runs yet; start with python -m mnist_sweep +experiment=quick"
        )
    ports.listen(host, port).close()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
    server = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", host, "--port", str(port),
            "--artifacts-destination", str(Path(tracking["artifacts"]).absolute()), "--workers", "1",
        ],
        env={
            **os.environ,
            # MLflow starts uvicorn by its name, which is on the PATH only in an activated environment.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        stdout=subprocess.DEVNULL,
        stderr=errors,
        # The server has children of its own, which only its group's end reaches.
        start_new_session=True,
    )  # fmt: skip
    try:
        address = f"http://{ports.shown(host)}:{port}"
        # While the server starts, which takes longer.
        found = found or _last(uri)
        _wait_until_ready(server, errors, address)
        print(f"MLflow shows the runs at {mlflow_view.home(address)} (Ctrl-C ends it)", flush=True)
        _tell(found, address, open_browser)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)


def _find(sweep: str | None, uri: str | None) -> SweepRuns:
    from mnist_sweep.results.runs import find_sweep

    return find_sweep(sweep, uri)


def _configured() -> str:
    """The store that the last sweep was logged to, as for the other commands."""
    from mnist_sweep.results.runs import uri_of

    return uri_of(None)


def _last(uri: str) -> SweepRuns | None:
    """The last sweep of a store; None where it holds none, and may hold other runs."""
    with contextlib.suppress(UserError):
        return _find(None, uri)
    return None


def _tell(found: SweepRuns | None, address: str, open_browser: bool) -> None:
    link = mlflow_view.home(address) if found is None else mlflow_view.link_to(address, found.client, found.parent)
    if found is not None:
        print(f"{found.sweep}: {link}", flush=True)
    if open_browser:
        webbrowser.open(link)


def _wait_until_ready(server: subprocess.Popen[bytes], errors: IO[bytes], address: str) -> None:
    until = time.monotonic() + _READY_WITHIN
    while time.monotonic() < until:
        if server.poll() is not None:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"MLflow's server ended at once ({lines[-1] if lines else server.returncode})")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"MLflow's server did not answer at {address} within {_READY_WITHIN:.0f} s")
