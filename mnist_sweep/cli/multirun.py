"""Several sweeps by one command, `-m`: checks all of them before the first begins, and continues an interrupted one."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from mnist_sweep.cli.sweep_config import checked
from mnist_sweep.common.errors import NOT_LOGGED, UserError
from mnist_sweep.common.invocation import command
from mnist_sweep.common.secrets import masked
from mnist_sweep.config import compose
from mnist_sweep.driver import resume, task_choice
from mnist_sweep.driver.plan import Plan
from mnist_sweep.driver.summary import Say
from mnist_sweep.journal import files
from mnist_sweep.journal.folders import SWEEPS, is_running, sweeps
from mnist_sweep.journal.state import SweepState

_INTERRUPTED = 130


@dataclass
class Job:
    """One of the sweeps.

    Attributes:
        number: Its number, from 0.
        given: The overrides that tell it from the others, such as `seed=2`.
        config: Its config.
        parent: The folder of all sweeps of the command, `hydra.sweep.dir`.
        folder: Its folder; if that is taken, another one beside it is used.
        digest: The digest of its data.
        past: How to continue what an earlier command has left of it.
        code: Its exit code; None before it has ended.
        reason: Why it failed.
    """

    number: int
    given: str
    config: dict[str, Any]
    parent: Path
    folder: Path
    digest: str = ""
    past: resume.Continued | None = None
    code: int | None = None
    reason: str = ""

    @property
    def state(self) -> str:
        """What has become of it."""
        if self.past is not None and self.past.complete:
            return "complete before"
        if self.code is None:
            return "not started"
        known = {0: "complete", NOT_LOGGED: "complete, but not in MLflow", _INTERRUPTED: "interrupted"}
        what = known.get(self.code, f"failed (exit code {self.code})")
        return f"{what}: {self.reason}" if self.reason else what


class Multirun:
    """The sweeps of a command.

    Attributes:
        jobs: The sweeps, by number; none if another sweeper than Hydra's own decides what runs.
    """

    def __init__(self, config: DictConfig, say: Say) -> None:
        """Composes and checks all sweeps, and finds those of an earlier command if `resume=auto` is given.

        Args:
            config: The config of the whole command. Its time becomes that of the earlier command.
            say: Prints what is continued.

        Raises:
            UserError: Something is wrong with one of them.
        """
        # Resolves the time in it first, so that all sweeps get the same.
        str(config.hydra.sweep.dir)
        self.jobs = {job.number: job for job in _composed(config)}
        _check(list(self.jobs.values()))
        if any(job.config["resume"] == "auto" for job in self.jobs.values()):
            self._find_earlier(config, say)

    def _find_earlier(self, config: DictConfig, say: Say) -> None:
        jobs = list(self.jobs.values())
        for name, folders in _earlier_commands(jobs).items():
            if any(map(is_running, folders)):
                say(f"The earlier command ({name}) is not continued: another process runs its sweeps")
                continue
            states = list(resume.readable(folders, say))
            found = {job.number: past for job in jobs if (past := _past(job, states)) is not None}
            if not found:
                continue
            if len(found) == len(jobs) and all(past.complete for past in found.values()):
                say(f"All sweeps of the earlier command ({name}) are complete, so new ones are started")
                return
            _date(config, jobs, name)
            for job in jobs:
                job.folder, job.parent = job.parent.with_name(name) / job.folder.name, job.parent.with_name(name)
                job.past = found.get(job.number)
            return

    def lines(self, given: Sequence[str]) -> Iterator[str]:
        """Yields what has become of the sweeps, and how to continue.

        Args:
            given: The arguments of the command.
        """
        jobs = list(self.jobs.values())
        if len(jobs) < 2:
            return
        width = max(len(job.given) for job in jobs)
        yield f"{len(jobs)} sweeps:"
        for job in jobs:
            folder = (job.folder if job.past is None else job.past.folder).absolute()
            inside = SWEEPS if folder.is_relative_to(SWEEPS.absolute()) else Path()
            shown = folder.relative_to(inside.absolute()) if folder.is_relative_to(inside.absolute()) else folder
            yield f"  {job.given:{width}}  {shown}  {job.state}"
        if any(job.code not in (0, NOT_LOGGED) for job in jobs):
            arguments = [argument for argument in given if not argument.startswith("resume=")]
            again = masked(shlex.join([*arguments, "resume=auto"]))
            yield f"To continue with those that are not complete: {command(again)}"


def _composed(config: DictConfig) -> Iterator[Job]:
    """Yields the sweeps that Hydra's own sweeper runs."""
    if not str(config.hydra.sweeper.get("_target_")).endswith(f".{BasicSweeper.__name__}"):
        return
    loader = GlobalHydra.instance().config_loader()
    typed = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*typed, *config.hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    several = [i for i in range(len(batch[0])) if len({job[i] for job in batch}) > 1] if batch else []
    for number, given in enumerate(batch):
        label = " ".join(given[i] for i in several)
        with _of_job(number, len(batch), label):
            job = loader.load_sweep_config(config, list(given))
            with open_dict(job):
                job.hydra.job.num, job.hydra.job.id = number, str(number)
                # The name depends on Hydra's part of the config.
                job.name = job.name
                parent = Path(str(job.hydra.sweep.dir))
                folder = parent / str(job.hydra.sweep.subdir)
                del job["hydra"]
            yield Job(number, label, compose.plain(job), parent, folder)


@contextlib.contextmanager
def _of_job(number: int, count: int, given: str) -> Iterator[None]:
    """Says which sweep has an error."""
    prefix = f"sweep {number + 1} of {count} ({given}): " if count > 1 else ""
    try:
        yield
    except compose.COMPOSITION_ERRORS as error:
        raise UserError(f"{prefix}{compose.explain(error)}") from error
    except UserError as error:
        raise type(error)(f"{prefix}{error}") from error


def _check(jobs: Sequence[Job]) -> None:
    """Checks everything that can be checked without a worker.

    Raises:
        UserError: Something is wrong with one of them.
    """
    for job in jobs:
        with _of_job(job.number, len(jobs), job.given):
            job.config = checked(job.config)
            plan = Plan.of(job.config, None)
            data = task_choice.load(job.config)
            job.digest = data.digest()
            plan.check(data.schema, job.digest)


def _earlier_commands(jobs: Sequence[Job]) -> dict[str, list[Path]]:
    """Returns the sweeps of earlier commands by the name of the folder that they are in, the last command first."""
    found: dict[str, list[tuple[float, Path]]] = {}
    for base in {job.parent.parent for job in jobs}:
        for folder in sweeps(base):
            name, *rest = folder.relative_to(base).parts
            if rest:
                found.setdefault(name, []).append(((folder / files.FILE).stat().st_mtime, folder))
    latest = sorted(found, key=lambda name: max(found[name]), reverse=True)
    return {name: [folder for _, folder in sorted(found[name])] for name in latest}


def _past(job: Job, states: Sequence[tuple[Path, SweepState]]) -> resume.Continued | None:
    """Returns how to continue what an earlier command has left of a sweep; None if it has left nothing."""
    for folder, state in states:
        with contextlib.suppress(resume.NotContinuedError):
            return resume.continued(job.config, folder, state, lambda: job.digest)
    return None


def _date(config: DictConfig, jobs: Sequence[Job], name: str) -> None:
    """Makes the folder of a command that of an earlier one, by the time that its config gives."""
    times = OmegaConf.get_cache(config)["now"]
    for pattern, time in times.items():
        if time in {job.parent.name for job in jobs}:
            times[pattern] = name
