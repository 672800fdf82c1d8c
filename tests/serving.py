"""The server of the page that follows sweeps, on a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mnist_sweep.cli.watch.app import make_app
from mnist_sweep.cli.watch.sweeps import Sweeps
from mnist_sweep.common import ports
from mnist_sweep.common.connections import StreamingProtocol
from mnist_sweep.common.web import server_of

TOKEN = "a-token-for-the-tests"


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        port: Where, on 127.0.0.1.
    """

    port: int

    @property
    def link(self) -> str:
        """The page's address, with the token."""
        return f"http://127.0.0.1:{self.port}/#token={TOKEN}"

    def page_of(self, sweep: str, token: str = TOKEN) -> str:
        """Returns the address of a sweep's page."""
        return f"http://127.0.0.1:{self.port}/?sweep={quote(sweep)}{f'#token={token}' if token else ''}"

    def get(self, path: str, token: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Returns the status, the headers and the body."""
        return self._ask("GET", path, None, token, headers)

    def post(self, path: str, body: Any, token: str = TOKEN, **headers: str) -> tuple[int, Any]:
        """Sends JSON; returns the status and the answer."""
        status, _, answer = self._ask(
            "POST", path, json.dumps(body), token, {"Content-Type": "application/json", **headers}
        )
        return status, json.loads(answer)

    def _ask(
        self, method: str, path: str, body: str | None, token: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        rights = {"Authorization": f"Bearer {token}"} if token else {}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {**rights, **given})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def messages(self, path: str, count: int, token: str = "", do: Callable[[int], None] = lambda n: None) -> list[Any]:
        """Returns the first messages of a stream; `do` is called with the number of each."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        found: list[Any] = []
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            while len(found) < count:
                line = answer.readline()
                assert line
                if line.startswith(b"data: "):
                    found.append(json.loads(line[6:]))
                    do(len(found))
        finally:
            connection.close()
        return found


@contextmanager
def serving(folders: list[Path] | None = None, *, open_to_all: bool = True) -> Iterator[Served]:
    """Serves the page.

    Args:
        folders: The sweeps to show; None for all in `experiments/`.
        open_to_all: Whether requests without the token may read.
    """
    with ports.listen("127.0.0.1", 0) as listening:
        app = make_app(
            Sweeps(folders), ["known.example"], TOKEN, open_to_all=open_to_all, ended=lambda: server.should_exit
        )
        server = server_of(app, StreamingProtocol)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield Served(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
