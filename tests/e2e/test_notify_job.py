"""A sweep that sends messages, and what it keeps of their addresses; and the figures of its slots."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from programs import Run

from mnist_sweep.results.runs import load_runs

SECRETS = ("HUSHPASSWORD", "HUSHTOKEN", "HUSHVARIABLE", "HUSHLATER")
Got = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def server() -> Iterator[tuple[int, Got]]:
    """A server for messages: its port, and the paths and contents that it gets."""
    got: Got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made.server_port, got
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.slow
def test_a_sweep_sends_messages_and_keeps_no_address(work: Path, run: Run, digits: Path, server) -> None:
    port, got = server
    hook = f"json://127.0.0.1:{port}/HUSHVARIABLE"
    (work / "conf" / "experiment").mkdir(parents=True)
    (work / "conf" / "experiment" / "told.yaml").write_text(
        f"# @package _global_\nnotify: ['json://me:HUSHPASSWORD@127.0.0.1:{port}/HUSHTOKEN', '${{oc.env:HOOK}}']\n"
    )
    sweep = ("+experiment=told", "data=npz", f"data.path={digits}", "model.units=choice(4,8,16,32)", "workers.count=1")
    done = run(work, *sweep, "search.max_trials=2", "training.epochs=1", published=True, HOOK=hook)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path for path, _ in got} == {"/HUSHTOKEN", "/HUSHVARIABLE"}
    ended = [message for _, message in got if message["title"].endswith(": done")]
    assert [message["message"].startswith("2 trials in ") for message in ended] == [True, True]
    got.clear()
    # The variable is read again; the other address is not known any more.
    later = f"json://127.0.0.1:{port}/HUSHLATER"
    again = run(work, "resume", "told", "search.max_trials=3", HOOK=hook)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "notify: json://*** gets no messages, as its address is not kept with the sweep" in again.stdout
    assert {path for path, _ in got} == {"/HUSHVARIABLE"}
    got.clear()
    last = run(work, "resume", "told", "search.max_trials=4", f"notify=[{later}]")
    assert last.returncode == 0, last.stdout + last.stderr
    assert {path for path, _ in got} == {"/HUSHLATER"}
    wrong = run(work, *sweep, "notify=[slack://HUSHTOKEN]", HOOK=hook)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(
        "mnist_sweep: notify=slack://***: is not the address of a service that Apprise knows"
    )
    (work / "conf" / "experiment" / "told.yaml").unlink()
    kept = {str(path): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    kept |= {
        name: text.encode() for d in (done, again, last, wrong) for name, text in (("out", d.stdout), ("err", d.stderr))
    }
    assert [(name, secret) for name, text in kept.items() for secret in SECRETS if secret.encode() in text] == []
    # Each trial has figures of its slot, and no table has them.
    with sqlite3.connect(work / "mlruns" / "mlflow.db") as database:
        query = "SELECT count(DISTINCT run_uuid) FROM metrics WHERE key = 'system/cpu_utilization_percentage'"
        assert database.execute(query).fetchone() == (4,)
    frame = load_runs("told", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    assert not [column for column in frame.columns if "system/" in column]
    assert not list(work.rglob("slots.json"))
