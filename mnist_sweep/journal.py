"""The append-only record of a sweep's events: the truth of which the search, MLflow and the screen are views."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mnist_sweep.errors import UserError
from mnist_sweep.trial import Event, event_from_json

FILE = "journal.jsonl"


class Journal:
    """Writes events, one JSON line each; a line is on the disk before `append` returns."""

    def __init__(self, folder: Path) -> None:
        """Opens a new journal.

        Args:
            folder: The sweep's folder, which exists.

        Raises:
            UserError: The folder already holds a journal, or cannot be written.
        """
        self.path = folder / FILE
        try:
            self._file = open(self.path, "x", encoding="utf-8")  # noqa: SIM115 - stays open as long as the sweep
        except FileExistsError:
            raise UserError(f"{folder}: already holds a sweep; choose another folder with hydra.run.dir") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None

    def append(self, event: Event) -> None:
        """Writes an event to the disk."""
        self._file.write(json.dumps(event.to_json()) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read(folder: Path) -> Iterator[Event]:
    """Reads a sweep's events back, in order.

    A last line that was cut off while it was written is left out: what it told had not been acted on.

    Args:
        folder: The sweep's folder.

    Raises:
        UserError: There is no journal, or a line before the last is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no {FILE}, so it is not a sweep's folder")
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines):
            return
        try:
            yield event_from_json(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: line {number} is damaged ({error})") from None
