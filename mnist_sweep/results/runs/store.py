"""A store, read on the quickest way there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.source import Source
from mnist_sweep.results.runs.sql import Database, UnknownTables
from mnist_sweep.tracking import store
from mnist_sweep.tracking.uri import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Store:
    """A store that is there: an SQLite file of a kind that is known is read by itself, all else through MLflow's API.

    Attributes:
        uri: Its tracking URI, as `mlflow_store.existing` gives it.
    """

    uri: str

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client for it. The first one in a process takes seconds, as it imports MLflow."""
        return store.connect(self.uri)

    def read(self, ask: Callable[[Source], _Result]) -> _Result:
        """Reads from it.

        Args:
            ask: What to read, to the end; it may be called again where the first answer breaks off.

        Raises:
            UserError: It is an SQLite store whose file is no database.
            MlflowException: The store cannot be read, or a query cannot be understood.
        """
        path = sqlite_path(self.uri)
        if path is not None:
            try:
                return ask(Database(path))
            except UnknownTables as error:
                _LOG.info("%s is read through MLflow's API: %s", path, error)
        return ask(Client(self.client))
