"""An MLflow tracking server in a thread of the test's process, which starts in no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from werkzeug.exceptions import NotFound
from werkzeug.serving import WSGIRequestHandler, make_server


@dataclass
class TrackingServer:
    """A server.

    Attributes:
        uri: Its address.
        asked: The last part of the path of each request that it got.
        missing: Such parts that it does not know, as servers of another version.
        before: Called with that part before a request is handled, in the thread that handles it.
    """

    uri: str = ""
    asked: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    before: Callable[[str], None] = lambda part: None

    def through(self, app: Any) -> Any:
        """Returns a WSGI application that looks at each request, and passes it on to another one."""

        def handle(environ: dict[str, Any], start: Any) -> Any:
            part = environ["PATH_INFO"].rpartition("/")[2]
            self.asked.append(part)
            self.before(part)
            return (NotFound() if part in self.missing else app)(environ, start)

        return handle


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@contextmanager
def serving(database: str, artifacts: Path) -> Iterator[TrackingServer]:
    """Serves a store that has its tables.

    Args:
        database: Its tracking URI.
        artifacts: The folder for the files of new experiments, to which clients write directly.
    """
    from mlflow.server import app, handlers

    server, store = TrackingServer(), SqlAlchemyStore(database, artifacts.as_uri())
    listening = make_server("127.0.0.1", 0, server.through(app), threaded=True, request_handler=_Quiet)
    server.uri = f"http://127.0.0.1:{listening.port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "_tracking_store", store)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            listening.server_close()
            thread.join()
            store._dispose_engine()
