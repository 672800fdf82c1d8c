"""Writes runs' files to an artifact store in threads of its own, and tries again those that cannot be written."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_sweep.common.files import remove, remove_folder, write_whole
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import counted, printable
from mnist_sweep.tracking import uri
from mnist_sweep.tracking.faults import fault_of_files

_LOG = logging.getLogger(__name__)
# Files that are written at once to a store elsewhere.
_THREADS = 4
# Seconds between attempts: for all files while the store takes none, and for one that is rejected again and again.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_REST = 1.0, 10.0, 300.0
# Failures in a row, each of another file, after which no other file would be taken either.
_MOST_FAILURES = 3
# Seconds that the end waits for a file, and bytes for which it waits another one.
_PATIENCE, _RATE = 10.0, 1_000_000
_LONGEST_TRACE = 20_000


@dataclass
class _File:
    """A file of a run that is to be written, or deleted."""

    run: str
    name: str
    root: str
    # None to delete it.
    source: Path | None
    # The source was written for this, and is removed afterwards.
    ours: bool = False
    tries: int = 0
    due: float = 0.0
    begun: float = 0.0
    patience: float = _PATIENCE

    @property
    def key(self) -> tuple[str, str]:
        return self.run, self.name


class Files:
    """The files that runs are to have.

    A file that goes to a folder of this machine is written at once, as a hard link if possible. Others are written
    in the background, some at a time. A file that cannot be written waits and is tried again; meanwhile, everything
    else of its run is logged. Of several contents for a file, the last one counts.

    Attributes:
        error: Why the last attempt failed; None if it did not.
        place: Where the file that failed last was to be, for messages.
        worked: Whether any file has been written.
        changed: Called, from any thread, after an attempt failed, and when one succeeds after that.
    """

    def __init__(self, tracking_uri: str) -> None:
        """Has none yet.

        Args:
            tracking_uri: The store, through which a server's artifacts are written.
        """
        self._tracking_uri = tracking_uri
        self.changed: Callable[[], None] = lambda: None
        self._waiting: dict[tuple[str, str], _File] = {}
        self._busy: dict[tuple[str, str], _File] = {}
        # How many files of each run are not written yet.
        self._left: Counter[str] = Counter()
        self._moved = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._spooled = 0
        # When to try again after a failure, the pause before that, and how many files in a row have failed.
        self._again, self._pause, self._failures = 0.0, 0.0, 0
        # The first one is sent alone, as libraries are not safe to be set up by several threads.
        self.worked, self._ending = False, False
        self.error: Exception | None = None
        self.place = ""

    def __len__(self) -> int:
        """How many files are not written yet."""
        with self._moved:
            return self._left.total()

    @property
    def missing(self) -> str:
        """How many files are not written yet, and why; empty if all are."""
        count = len(self)
        if not count:
            return ""
        reason = "they could not be kept" if self.error is None else fault_of_files(self.error)[0]
        return f"{counted(count, 'file')} could not be written to {self.place}: {reason}"

    def lacks(self, run: str) -> bool:
        """Returns whether a run has files that are not written yet."""
        with self._moved:
            return self._left[run] > 0

    def link(self, run: str, root: str, path: Path) -> None:
        """Writes a file that stays where it is.

        Args:
            run: The run's ID.
            root: Its artifact URI.
            path: The file.
        """
        self._put(_File(run, path.name, root, path))

    def write(self, run: str, root: str, content: bytes, name: str) -> None:
        """Writes a file with this content; the other arguments are those of `link`."""
        self._put(_File(run, name, root, None), content)

    def delete(self, run: str, root: str, name: str) -> None:
        """Deletes a file, or no longer writes it; the arguments are those of `link`."""
        self._put(_File(run, name, root, None))

    def settle(self, runs: Iterable[str], seconds: float) -> None:
        """Waits until some runs have their files, or one of all could not be written, or the time is up."""
        runs, until = list(runs), time.monotonic() + seconds
        with self._moved:
            while self.error is None and any(self._left[run] for run in runs) and time.monotonic() < until:
                self._moved.wait(max(0.0, until - time.monotonic()))

    def finish(self) -> None:
        """Waits until all files are written, or it is clear that the store does not take the rest.

        A store that does not answer is given up after ten seconds, a file after as long as a slow connection needs.
        """
        with self._moved:
            self._ending, self._failures = True, 0
            for file in self._waiting.values():
                file.tries = 0
            self._moved.notify_all()
            while self._busy or self._next(time.monotonic()) is not None:
                now = time.monotonic()
                if self._busy and all(now > file.begun + file.patience for file in self._busy.values()):
                    self.error = self.error or TimeoutError(f"it does not answer within {_PATIENCE:.0f} s")
                    self.place = self._place(next(iter(self._busy.values())))
                    break
                self._moved.wait(0.1)
            # Its threads end. They are started again if there are more files.
            self._ending, self._threads = False, []
            self._moved.notify_all()
            if self._spool is not None and not self._left.total():
                self._spool.cleanup()
                self._spool = None

    def listed(self, root: str) -> set[str] | None:
        """Returns the names of a run's files in the store; None if it cannot be asked.

        Args:
            root: The run's artifact URI.
        """
        try:
            return {file.path for file in self._repository(root).list_artifacts()}
        except Exception:
            _LOG.warning("the files in %s cannot be listed", masked(root), exc_info=True)
            return None

    # ---- the queue ----------------------------------------------------------------------------------------------

    def _put(self, file: _File, content: bytes | None = None) -> None:
        folder = uri.file_path(file.root)
        with self._moved:
            ahead = file.key in self._waiting or file.key in self._busy
        if folder is None or ahead:
            self._queue(file, content)
            return
        try:
            _write_here(folder, file, content)
        except Exception as error:
            self._failed(file, error)
            self._queue(file, content)
        else:
            self._succeeded()

    def _queue(self, file: _File, content: bytes | None) -> None:
        try:
            if content is not None:
                self._keep(file, content)
        except OSError:
            # The run lacks it until `sync` makes it from the journal.
            _LOG.exception("%s of run %s cannot be kept for later", file.name, file.run)
            with self._moved:
                self._left[file.run] += 1
            return
        with self._moved:
            before = self._waiting.pop(file.key, None)
            if before is not None:
                self._forget(before)
            self._left[file.run] += 1
            self._waiting[file.key] = file
            if not self._threads:
                names = [f"files {number}" for number in range(_THREADS)]
                self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
                for thread in self._threads:
                    thread.start()
            self._moved.notify_all()

    def _keep(self, file: _File, content: bytes) -> None:
        """Keeps a file's content on the disk, as thousands may wait while the store is down."""
        with self._moved:
            if self._spool is None:
                self._spool = tempfile.TemporaryDirectory(prefix="mnist_sweep-", ignore_cleanup_errors=True)
                # What the store never takes is removed with this object.
                weakref.finalize(self, self._spool.cleanup)
            self._spooled += 1
            folder = Path(self._spool.name, str(self._spooled))
        folder.mkdir()
        file.source, file.ours = folder / file.name, True
        write_whole(file.source, content, flush=False)

    def _forget(self, file: _File) -> None:
        """Forgets a file that is written, or no longer needs to be. The caller holds the lock."""
        self._left[file.run] -= 1
        if not self._left[file.run]:
            del self._left[file.run]
        if file.ours and file.source is not None:
            remove_folder(file.source.parent, [file.name])

    def _next(self, now: float) -> _File | None:
        """Returns the file to write next; None if there is none now. The caller holds the lock."""
        if not self._ending and now < self._again:
            return None
        if self._ending and self._failures >= _MOST_FAILURES:
            return None
        if self._busy and (self.error is not None or not self.worked):
            return None
        ready = (file for key, file in self._waiting.items() if key not in self._busy)
        # The end waits for one more attempt of each.
        return next((file for file in ready if (not file.tries if self._ending else file.due <= now)), None)

    def _work(self) -> None:
        me = threading.current_thread()
        while (file := self._take(me)) is not None:
            try:
                self._send(file)
            except Exception as error:
                with self._moved:
                    del self._busy[file.key]
                    superseded = file.key in self._waiting
                    gone = file.source is not None and not file.source.exists()
                    if gone and not superseded:
                        _LOG.warning("%s of run %s no longer exists, and is not logged", file.source, file.run)
                    if superseded or gone:
                        self._forget(file)
                    else:
                        self._waiting[file.key] = file
                if superseded or not gone:
                    self._failed(file, error)
            else:
                with self._moved:
                    del self._busy[file.key]
                    self._forget(file)
                self._succeeded()

    def _take(self, me: threading.Thread) -> _File | None:
        """Waits for a file to write; None if this thread is no longer needed."""
        with self._moved:
            while me in self._threads:
                now = time.monotonic()
                file = self._next(now)
                if file is not None:
                    del self._waiting[file.key]
                    self._busy[file.key] = file
                    size = 0
                    with contextlib.suppress(OSError):
                        size = 0 if file.source is None else file.source.stat().st_size
                    file.begun, file.patience = now, _PATIENCE + size / _RATE
                    return file
                due = [max(file.due, self._again) - now for file in self._waiting.values()]
                self._moved.wait(min((seconds for seconds in due if seconds > 0), default=None))
        return None

    def _failed(self, file: _File, error: Exception) -> None:
        trace = "".join(traceback.format_exception(error))
        _LOG.error("%s of run %s cannot be logged: %s", file.name, file.run, printable(masked(trace), _LONGEST_TRACE))
        with self._moved:
            now = time.monotonic()
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            self._again, self._failures = now + self._pause, self._failures + 1
            file.tries += 1
            file.due = now + min(_FIRST_PAUSE * 2.0 ** (file.tries - 1), _LONGEST_REST)
            self.error, self.place = error, self._place(file)
            self._moved.notify_all()
        self.changed()

    def _succeeded(self) -> None:
        with self._moved:
            recovered = self.error is not None
            self.worked, self.error = True, None
            self._again, self._pause, self._failures = 0.0, 0.0, 0
            self._moved.notify_all()
        if recovered:
            self.changed()

    # ---- the store ----------------------------------------------------------------------------------------------

    def _send(self, file: _File) -> None:
        folder = uri.file_path(file.root)
        if folder is not None:
            _write_here(folder, file)
        elif file.source is not None:
            self._repository(file.root).log_artifact(str(file.source))
        else:
            self._repository(file.root).delete_artifacts(file.name)

    def _place(self, file: _File) -> str:
        """Returns where the runs' files are, without the run: the server, if only that knows the place."""
        root = file.root.removesuffix("/artifacts").removesuffix(f"/{file.run}")
        return masked(self._tracking_uri if root.startswith("mlflow-artifacts:") else root)

    def _repository(self, root: str) -> Any:
        import mlflow.utils.uri
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        named: Any = mlflow.utils.uri
        root = named.add_databricks_profile_info_to_artifact_uri(root, self._tracking_uri)
        return get_artifact_repository(root, tracking_uri=self._tracking_uri)


def _write_here(folder: Path, file: _File, content: bytes | None = None) -> None:
    """Writes a file to a folder of this machine, as a hard link if both are on the same disk."""
    folder.mkdir(parents=True, exist_ok=True)
    path, source = folder / file.name, file.source
    if content is not None:
        write_whole(path, content, flush=False)
        return
    # Removed first: in a copy made of hard links, overwriting would change the original, too.
    remove(path)
    if source is not None:
        try:
            os.link(source, path)
        except OSError:
            _LOG.info("%s cannot be linked and is copied", source)
            write_whole(path, lambda new: shutil.copyfile(source, new), flush=False)
