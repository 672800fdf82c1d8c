"""Starting MLflow's server, which is faked here."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mnist_sweep.cli import ui
from mnist_sweep.common import ports
from mnist_sweep.common.errors import UserError


def ended(code: int = 1) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    return process


def test_an_error_of_the_server_is_reported_in_one_line_without_passwords() -> None:
    output = b"\x1b[31mtrace\n" * 50_000 + b"OperationalError: postgresql://alice:hunter2@db/runs \xff\x1b[31m failed\n"
    with pytest.raises(UserError) as caught:
        ui._wait_until_ready(ended(), io.BytesIO(output), "http://127.0.0.1:9")
    assert str(caught.value).startswith("MLflow's server ended at once (OperationalError: postgresql://***@db/runs")
    assert str(caught.value).isprintable()
    with pytest.raises(UserError, match=r"ended at once \(7\)"):
        ui._wait_until_ready(ended(7), io.BytesIO(), "http://127.0.0.1:9")


def test_the_server_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(ui, "_READY_WITHIN", 10.0)
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
            ui._wait_until_ready(running, io.BytesIO(), f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("localhost", True), ("127.8.8.8", True), ("0.0.0.0", False)]
)
def test_addresses_that_other_machines_can_reach_are_recognized(host: str, alone: bool) -> None:
    with ports.listen(host, 0) as listening:
        assert ports.is_loopback(listening) == alone


@pytest.mark.skipif(not socket.has_ipv6, reason="without IPv6")
@pytest.mark.parametrize(("host", "alone"), [("::1", True), ("::", False)])
def test_ipv6_addresses_are_recognized(host: str, alone: bool) -> None:
    try:
        listening = ports.listen(host, 0)
    except UserError:
        pytest.skip("without IPv6")
    with listening:
        assert ports.is_loopback(listening) == alone


def test_it_says_at_once_that_it_starts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def find(*_: object) -> None:
        assert capsys.readouterr().out.startswith(
            "Opening MLflow's pages; their server takes about 10 seconds to start"
        )
        raise UserError("no such sweep")

    monkeypatch.setattr(ui, "_find", find)
    with pytest.raises(UserError, match="no such sweep"):
        ui.serve("mlp", None, "127.0.0.1", 0)
