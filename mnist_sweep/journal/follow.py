"""Reads the events of a sweep as they are written, perhaps by another process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from mnist_sweep.journal.events import Event, event_from_json
from mnist_sweep.journal.files import FILE


class Follower:
    """Reads a journal from its start, each event once."""

    def __init__(self, folder: Path) -> None:
        """Takes the sweep's folder, which need not exist yet."""
        self._path, self._read = folder / FILE, 0

    def new(self) -> Iterator[Event]:
        """Yields the events that were written since the last call; none while there is no journal.

        Raises:
            OSError: The journal cannot be read.
            ValueError: An event is damaged.
        """
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            file.seek(self._read)
            # A line that has no end yet is being written.
            while (line := file.readline()).endswith(b"\n"):
                self._read += len(line)
                yield event_from_json(json.loads(line))
