"""A store, read in the fastest way available."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.source import Source
from mnist_sweep.results.runs.sql import Database, UnknownSchema
from mnist_sweep.tracking import store
from mnist_sweep.tracking.uri import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Store:
    """An existing store. An SQLite file is read directly if its tables are known; any other through MLflow's API.

    Attributes:
        uri: Its tracking URI, as `tracking.uri.existing` returns it.
    """

    uri: str

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client for it. The first one in a process takes seconds, because it imports MLflow."""
        return store.connect(self.uri)

    def read(self, ask: Callable[[Source], _Result]) -> _Result:
        """Reads from it.

        Args:
            ask: Reads everything it needs from a source. It may be called again with another source.

        Raises:
            UserError: It is an SQLite store whose file is not a database.
            MlflowException: The store cannot be read, or a query is invalid.
        """
        path = sqlite_path(self.uri)
        if path is not None:
            try:
                return ask(Database(path))
            except UnknownSchema as error:
                _LOG.info("%s is read through MLflow's API: %s", path, error)
        return ask(Client(self.client))
