"""The sweeps whose folders are here: which store they were logged to, and what to do if it lacks them."""

from __future__ import annotations

import contextlib
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.journal import files, journal
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.folders import SWEEPS, elsewhere, is_running, sweeps
from mnist_sweep.tracking.uri import absolute, as_seen_from, given_now, with_password

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalSweep:
    """A sweep whose folder is here.

    Attributes:
        folder: Its folder.
        started: The first event in its journal.
    """

    folder: Path
    started: SweepStarted

    @property
    def name(self) -> str:
        """The sweep, `name/time`."""
        return self.started.sweep

    @property
    def uri(self) -> str:
        """The tracking URI of the store that it was logged to last.

        Raises:
            UserError: Its password is not known here, or the journal is damaged.
        """
        try:
            uri = str(journal.last_config(self.folder)["tracking"]["uri"])
        except (KeyError, TypeError):
            raise UserError(f"{self.folder / files.FILE}: the sweep's config names no store (tracking.uri)") from None
        return as_seen_from(with_password(uri), elsewhere(self.folder))

    def sync(self, tracking_uri: str | None) -> str:
        """The command that writes it to a store.

        Args:
            tracking_uri: The store; None for the one that the command uses by itself.
        """
        named = shlex.quote(self.name if self.folder == SWEEPS / self.name else str(self.folder))
        store = (
            "" if tracking_uri is None or self._is_default(tracking_uri) else f" --tracking-uri {masked(tracking_uri)}"
        )
        return invocation.command(f"sync {named}{store}")

    def _is_default(self, uri: str) -> bool:
        with contextlib.suppress(UserError):
            return absolute(uri) == absolute(given_now() or self.uri)
        return False

    def missing(self, uri: str, what: str, tracking_uri: str | None) -> UserError:
        """Returns the error that a store lacks it.

        Args:
            uri: The store.
            what: What is deleted there: `experiment` or `run`; "" if nothing is known of the sweep.
            tracking_uri: As for `sync`.
        """
        where, command = masked(uri), self.sync(tracking_uri)
        if is_running(self.folder) and not what:
            return UserError(f"{self.name}: has just started, and is not in {where} yet; try again in a moment")
        if what:
            return UserError(f"{self.name}: its {what} is deleted in {where}; to restore it: {command}")
        return UserError(f"{self.name}: is not in {where}, but its journal has everything; to log it there: {command}")

    def warn_if_passed_over(self, uri: str, instead: str, tracking_uri: str | None) -> None:
        """Warns that a store lacks it, so that an earlier sweep is the last one there.

        Args:
            uri: The store.
            instead: The sweep that is used.
            tracking_uri: As for `sync`.
        """
        if not is_running(self.folder) and (given_now(tracking_uri) or absolute(self.uri) == uri):
            command = self.sync(tracking_uri)
            _LOG.warning("%s is not in %s: this is %s. To log it there: %s", self.name, masked(uri), instead, command)


def last(sweep: str | None, *, warn: bool = False) -> LocalSweep | None:
    """The last local sweep that an argument stands for; None if there is none.

    Args:
        sweep: `name/time`, a folder, or a name; None for all.
        warn: Whether to name those whose journals are damaged, which are skipped.

    Raises:
        UserError: All of their journals are damaged.
    """
    folders = (sweeps(Path(sweep)) if sweep else []) or sweeps(SWEEPS / (sweep or ""))
    for folder in reversed(folders):
        try:
            return LocalSweep(folder, journal.started(folder))
        except UserError as error:
            if folder == folders[0]:
                raise
            if warn:
                _LOG.warning("%s is skipped: %s", folder, error)
    return None


def uri_of(sweep: str | None) -> str:
    """The tracking URI of a sweep's store.

    Args:
        sweep: As for `last`.

    Returns:
        MLFLOW_TRACKING_URI if it is set; else the store that the local sweep was logged to last, or the configured one.
    """
    if now := given_now():
        return now
    if here := last(sweep, warn=True):
        return here.uri
    from mnist_sweep.config.compose import defaults

    return str(defaults()["tracking"]["uri"])


def local_folder(given: str | None, sweep: str) -> Path | None:
    """The folder of a sweep; None if it is not on this machine.

    Args:
        given: What the user wrote, which may be the sweep's folder, or its experiment's, anywhere.
        sweep: The sweep, `name/time`.
    """
    for below in (*([] if given is None else [Path(given)]), SWEEPS / sweep):
        for folder in reversed(sweeps(below)):
            if journal.started(folder).sweep == sweep:
                return folder
    return None
