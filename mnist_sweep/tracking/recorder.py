"""Writes a sweep's events as MLflow runs."""

from __future__ import annotations

import contextlib
import getpass
import heapq
import json
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import remove
from mnist_sweep.common.reading import read_npz
from mnist_sweep.common.text import counted, flat
from mnist_sweep.config import backend
from mnist_sweep.config.augment import used
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import Settings
from mnist_sweep.data import schema
from mnist_sweep.journal import steering
from mnist_sweep.journal.events import (
    NO_SLOT,
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SettingsChanged,
    SlotClosed,
    SlotLost,
    SlotOpened,
    Steered,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
    WinnerTested,
)
from mnist_sweep.journal.files import CODE, DETAILS_FILE, MODEL_FILE, PROFILE_FILE, SAMPLE_FILE, trial_folder
from mnist_sweep.journal.last_run import last_run
from mnist_sweep.journal.leaderboard import leaderboard
from mnist_sweep.journal.ranking import marked
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Execution, Outcome, Status, Trial
from mnist_sweep.tracking import descriptions, identity, saved_view
from mnist_sweep.tracking.curves_plot import learning_curves
from mnist_sweep.tracking.files import Files
from mnist_sweep.tracking.names import SYSTEM, tagged
from mnist_sweep.tracking.tags import (
    EXECUTION,
    NESTED,
    NODE,
    PARENT_TAG,
    RETRAINING,
    SWEEP,
    TAG_ADDED_BY,
    TAG_BACKEND,
    TAG_BEGUN,
    TAG_CONFIRMS,
    TAG_DONE,
    TAG_EXECUTION,
    TAG_GOES_ON_FROM,
    TAG_ID,
    TAG_KIND,
    TAG_MODEL_SHA256,
    TAG_NOTE,
    TAG_OBJECTIVE,
    TAG_RANK,
    TAG_REASON,
    TAG_RETRAINS,
    TAG_RETRAINS_RUN,
    TAG_RETRAINS_TRIAL,
    TAG_RETRIED,
    TAG_SLOT,
    TAG_SPACE,
    TAG_STATUS,
    TAG_STEERED,
    TAG_STOPPED_BY,
    TAG_SWEEP,
    TAG_TRIAL,
    TAG_WINNER,
    TRIAL,
)
from mnist_sweep.tracking.writer import PATIENCE, Writer, is_refusal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run


_LOG = logging.getLogger(__name__)
CURVES_FILE = "learning_curves.png"


@dataclass(frozen=True)
class Measured(Event):
    """What the slot of a trial uses, by MLflow's names. Not in the journal, as no result depends on it."""

    kind = "measured"
    trial: int
    metrics: Mapping[str, float]


# MLflow silently cuts longer tags.
_LONGEST_TAG = 8000


class Plots(Protocol):
    """Draws the plots of a sweep's own run, as `mnist_sweep.results.plots` does."""

    def pareto_front(
        self, scores: Mapping[int, Sequence[float]], objectives: Sequence[Objective], title: str
    ) -> Figure:
        """Draws the trials by their objectives."""

    def confusion_matrix(self, counts: Sequence[Sequence[int]], title: str, names: Sequence[str] = ()) -> Figure:
        """Draws how often each class was predicted as each other."""

    def of_test(
        self, details: Mapping[str, Any], kind: schema.TargetKind, title: str = ""
    ) -> Iterator[tuple[str, Figure, str]]:
        """Draws what else fits the predictions of a tested model: names of plots, the plots, and texts about them."""


@dataclass
class Mended:
    """What MLflow had lost of a sweep.

    Attributes:
        experiment: The name of the experiment if it was deleted, and is restored; else "".
        runs: How many deleted runs were restored.
        files: How many files were written again to runs that were complete before.
    """

    experiment: str = ""
    runs: int = 0
    files: int = 0

    def __str__(self) -> str:
        """Returns what was brought back; empty if nothing was."""
        parts = [f"the deleted experiment {self.experiment}"] if self.experiment else []
        for count, what in ((self.runs, "deleted run"), (self.files, "lost file")):
            if count:
                parts.append(counted(count, what))
        return " and ".join(parts)


class Recorder:
    """Writes one event after another.

    An event may be written again, whether it was written completely or in part: runs are found by their tags, and
    MLflow drops a metric that it has with the same time and value. So a journal can be replayed into any store.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        plots: Callable[[], Plots],
        *,
        repair: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        """Opens nothing yet.

        Args:
            settings: The config of the sweep.
            folder: The sweep's folder, from which models are logged.
            plots: Loads what draws the plots. Called when there is something to draw, as matplotlib takes a second to
                import.
            repair: Whether to look for files that MLflow has lost, and to write them again.
            patience: Seconds that each call of `handle` waits for files that are being written.
        """
        self._settings, self._folder, self._plots, self._repair = settings, folder, plots, repair
        self._objective: Objective = settings.objective
        self._best_name = f"best_{settings.objective.name}"
        self._write = Writer(settings.tracking, settings.name, patience)
        self._state = SweepState(settings.objectives)
        self._results, self._trials = self._state.results, self._state.results.trials
        # The ids of the runs: of the sweep, of each trial, of each execution of a trial.
        self._parent, self._kind = "", SWEEP
        self._runs: dict[int, str] = {}
        self._executions: dict[tuple[int, int], str] = {}
        # The scores of the search's trials, in the order in which they ended; those whose model may be kept; and for
        # each trial that has ended, its place in this order and the best score so far.
        self._scored: dict[int, float] = {}
        self._candidates: dict[int, float] = {}
        self._ends: dict[int, tuple[int, float | None]] = {}
        # The trials that have a rank.
        self._ranked: set[int] = set()
        # A trial that is retried by the user's wish gets another run. When each was retried, how often before the event
        # that is handled, and the runs of the trial and of its executions at other times.
        self._retried: dict[int, list[float]] = {}
        self._retries: dict[int, int] = {}
        self._other_runs: dict[tuple[int, int], tuple[str, dict[int, str]]] = {}
        # The runs that MLflow had before, and those that have their parameters, config and data.
        self._found: dict[str, Run] = {}
        self._complete: set[str] = set()
        self._completed_now: set[str] = set()
        # Those whose config was written, or found to be there, by this process.
        self._written: set[str] = set()
        # The events that are handled together, and by their keys the runs that were created ahead for them.
        self._batch: Sequence[Event] = ()
        self._ahead: dict[str, str] = {}
        # What `listed` returned for runs of the batch.
        self._listed: dict[str, set[str] | None] = {}
        # Versions that have changed since the start, whether the description of the sweep is out of date, and how many
        # events a server that failed may have written or not.
        self._changed: dict[str, str] = {}
        # What MLflow had lost, and the trials whose model is not in the sweep's folder.
        self.mended = Mended()
        self._without_model: set[int] = set()
        self._outdated = False
        self._unsure = 0

    @property
    def has_started(self) -> bool:
        """Whether the sweep has its own run, which is the parent of all others."""
        return bool(self._parent)

    @property
    def waiting_since(self) -> float | None:
        """When the store was asked for what it has not answered yet, by `time.monotonic`; None if it has answered."""
        return self._write.waiting_since

    @property
    def files(self) -> Files:
        """The files that are written, or wait for that."""
        return self._write.files

    @property
    def notes(self) -> list[str]:
        """What the user should know about where MLflow keeps the files, a line each."""
        return self._write.notes

    @property
    def unmarked(self) -> bool:
        """Whether runs that lacked only files have to be marked as complete."""
        return self._write.unmarked

    def mark(self) -> None:
        """Marks the runs that have got their files since."""
        self._write.mark()

    def finish(self) -> None:
        """Waits until the runs have their files, as `Files.finish` does, and marks them as complete."""
        self.files.finish()
        self.mark()

    def handle(self, *events: Event) -> None:
        """Writes events, with few calls for all of them.

        If that fails, they may be handled again, all at once or one after another.
        """
        if self.has_started:
            self._write.check_store()
        try:
            for place, event in enumerate(events):
                self._batch = events[place:]
                self._handle(event)
            if self._outdated:
                self._write.tag(self._parent, TAG_NOTE, descriptions.progress_note(self._settings, self._state))
            self._write.flush()
            self._complete |= self._completed_now
            self._outdated, self._unsure = False, max(0, self._unsure - len(events))
        except Exception as error:
            if not is_refusal(error):
                # A server that failed while it answered may have written any of these.
                self._unsure = max(self._unsure, len(events))
            raise
        finally:
            self._completed_now.clear()
            self._listed.clear()
            self._write.discard()

    def _handle(self, event: Event) -> None:
        if isinstance(event, Measured):
            self._measured(event)
            return
        versions, tested = self._state.versions, self._state.tested
        self._state.handle(event)
        number = event.trial.number if isinstance(event, TrialStarted) else getattr(event, "trial", None)
        if number in self._retried:
            self._switch(number, event.time)
        match event:
            case SweepStarted():
                self._sweep_started(event)
            case SweepResumed():
                self._sweep_resumed(event, versions)
            case TrialStarted():
                self._trial_started(event)
            case EpochEnded():
                self._epoch_ended(event)
            case ExecutionEnded():
                self._execution_ended(event)
            case TrialsRetried():
                self._trials_retried(event)
            case AttemptFailed():
                self._write.tag(self._runs[event.trial], f"mnist_sweep.attempt_{event.attempt}", event.reason)
                self._write.text(self._runs[event.trial], event.log, f"attempt_{event.attempt}.log")
            case TrialEnded() if event.trial in self._runs:
                self._trial_ended(event)
            case Confirmed():
                self._confirmed(event)
            case SlotLost() | SlotOpened() | SlotClosed():
                # MLflow takes no @ in a name.
                slot = event.slot.replace("@", ":")
                self._write.tag(self._parent, f"{event.kind.replace('slot_', 'mnist_sweep.')}_{slot}", event.reason)
            case WinnerTested():
                self._winner_tested(event, tested)
            case Steered():
                self._steered(event)
            case SweepEnded():
                self._sweep_ended(event)

    # ---- the sweep ----------------------------------------------------------------------------------------------

    def _sweep_started(self, event: SweepStarted) -> None:
        self._changed = {}
        found = self._write.open(event.sweep, self._common_tags(event), event.data, repair=self._repair)
        # Runs of early versions have no id. Of several equal runs, one that is not deleted is used.
        mine = [run for run in found if run.data.tags.get(TAG_ID, event.id) == event.id]
        mine.sort(key=lambda run: identity.is_deleted(run.info), reverse=True)
        self._found = {_key(run.data.tags): run for run in mine}
        self._restore_deleted()
        self._complete |= {run.info.run_id for run in self._found.values() if TAG_BEGUN in run.data.tags}
        self._kind = SWEEP if event.retrains is None else RETRAINING
        tags = {TAG_KIND: self._kind, TAG_NOTE: descriptions.opening(self._settings, single=not event.space)}
        self._parent = self._run(descriptions.run_name(event), tags, event)
        self._tag_nodes(event.nodes)
        self._save_view()
        code = list((self._folder / CODE).glob("*.py"))
        wanted = ("config.yaml", "space.yaml", *(path.name for path in code))
        if self._parent not in self._complete or self._has_lost(self._parent, *wanted):
            for path in code:
                self._write.bytes(self._parent, path.read_bytes(), path.name)
            shared = self._write_sweep_config(event)
            self._write.params(self._parent, {**flat(shared), **{f"space.{k}": v for k, v in event.space.items()}})
            self._mark_complete(self._parent)

    def _write_sweep_config(self, event: SweepStarted | SweepResumed) -> dict[str, Any]:
        """Writes the config and the space of the sweep, and returns the config without the store."""
        shared = _shared(event.config)
        self._write.yaml(self._parent, shared, "config.yaml")
        self._write.yaml(self._parent, event.space, "space.yaml")
        return shared

    def _save_view(self, ranked: int = 0) -> None:
        started = self._state.started
        assert started is not None
        view = saved_view.tags(
            started.sweep,
            self._state.space,
            self._settings.objectives,
            started.time,
            confirmed=self._settings.confirm is not None,
            kind=NESTED[self._kind],
            ranked=ranked > 0,
        )
        self._write.view(view)
        self._write.tag(self._parent, TAG_RANK, str(ranked))

    def _rank(self, event: SweepEnded) -> None:
        """Numbers the best trials, and shows them in this order."""
        first = "best so far" if event.status is Status.STOPPED else "winner"
        for row in leaderboard(self._results).rows:
            if row.trial in self._runs and row.rank is not None and (row.rank <= _RANKED or row.trial in self._ranked):
                self._ranked.add(row.trial)
                mark = f" ({first})" if row.rank == 1 and self._state.space else ""
                self._write.tag(self._runs[row.trial], TAG_RANK, f"{row.rank:04d}{mark}")
        self._save_view(len(self._ranked))

    def _restore_deleted(self) -> None:
        self.mended.experiment = self._write.restored_experiment
        for run in self._found.values():
            if identity.is_deleted(run.info):
                self._write.restore(run.info.run_id)
                self.mended.runs += 1

    def _sweep_resumed(self, event: SweepResumed, before: Mapping[str, str]) -> None:
        self._write.reopen(self._parent)
        self._write.tag_new_runs(_version_tags(event.versions))
        self._tag_nodes(event.nodes)
        # Runs that were started with other versions name both.
        other = {name: now for name, now in event.versions.items() if before.get(name, now) != now}
        self._changed |= _version_tags({name: f"{before[name]}, then {now}" for name, now in other.items()})
        for key, value in self._changed.items():
            self._write.tag(self._parent, key, value)
        if event.space:
            self._space_grown(event)
        else:
            # Its budget may be larger.
            self._write.yaml(self._parent, _shared(event.config), "config.yaml")
        if event.space or self._ranked:
            self._save_view()
        self._outdated = True

    def _steered(self, event: Steered) -> None:
        if isinstance(event, TrialStopped) and event.trial in self._runs:
            self._write.tag(self._runs[event.trial], TAG_STOPPED_BY, event.by)
        if isinstance(event, SettingsChanged):
            # MLflow's parameters cannot change.
            self._write.yaml(self._parent, _shared(self._state.config), "config.yaml")
        changes = steering.story(self._state.steered)
        while len(text := json.dumps(changes)) > _LONGEST_TAG:
            del changes[0]
        self._write.tag(self._parent, TAG_STEERED, text)
        self._outdated = True

    def _tag_nodes(self, nodes: Mapping[str, str]) -> None:
        for name, about in nodes.items():
            self._write.tag(self._parent, f"{NODE}{name}", about)

    def _space_grown(self, event: SweepResumed) -> None:
        started = self._state.started
        assert started is not None
        # MLflow's parameters cannot change.
        grown = {name: domain for name, domain in event.space.items() if started.space.get(name) != domain}
        self._write.tag(self._parent, TAG_SPACE, json.dumps(grown))
        self._write_sweep_config(event)

    def _common_tags(self, event: SweepStarted) -> dict[str, str]:
        tags = {
            TAG_SWEEP: event.sweep,
            **({TAG_ID: event.id} if event.id else {}),
            TAG_OBJECTIVE: ", ".join(f"{o.name} {o.direction}" for o in self._settings.objectives),
            TAG_BACKEND: backend.of(event.config),
            **{f"data.{key}": _tag(value) for key, value in event.data.items() if value is not None},
            **_version_tags(event.versions),
        }
        if (retrains := event.retrains) is not None:
            tags[TAG_RETRAINS], tags[TAG_RETRAINS_TRIAL] = retrains.sweep, str(retrains.trial)
            tags[TAG_RETRAINS_RUN] = retrains.run
        tags["mlflow.source.name"] = "mnist_sweep"
        with contextlib.suppress(OSError, KeyError):
            # In a container, a user may have no name.
            tags["mlflow.user"] = getpass.getuser()
        return tags

    def _sweep_ended(self, event: SweepEnded) -> None:
        objectives = self._settings.objectives
        points = self._points(self._scored)
        if len(objectives) > 1 and points:
            title = f"{counted(len(points), 'trial')} of {self._settings.name}"
            self._write.figure(
                [self._parent], self._plots().pareto_front(points, objectives, title), "pareto_front.png"
            )
        # Not those that have ended since, if this is an earlier interruption.
        resting = {n: run for n, run in self._runs.items() if n not in self._results.outcomes and not self._done(n)}
        executions = [run for (number, _), run in self._executions.items() if number in resting]
        for run in [*resting.values(), *executions]:
            # It continues when the sweep is resumed.
            self._close(run, Status.STOPPED, event.reason, event.time)
        assert self._state.started is not None
        started = replace(self._state.started, space=self._state.space)
        last = last_run(self._folder, self._state, objectives)
        tested = self._state.tested
        steered = self._state.steered
        note = descriptions.sweep_note(self._settings, started, self._results, tested, event, last, steered)
        self._write.tag(self._parent, TAG_NOTE, note)
        self._outdated = False
        self._rank(event)
        self._close(self._parent, event.status, event.reason, event.time)

    # ---- runs ---------------------------------------------------------------------------------------------------

    def _run(self, name: str, tags: Mapping[str, str], event: Event) -> str:
        """Reopens or creates the run that has these tags, and returns its id."""
        if (created := self._ahead.pop(_key(tags), None)) is not None:
            return created
        known = self._found.get(_key(tags))
        if known is None and self._unsure > 0:
            mine = " and ".join(tagged(key, tags[key]) for key in (PARENT_TAG, *_KEYS) if key in tags)
            known = next(self._write.find(mine), None) if PARENT_TAG in tags else None
        if known is None:
            return self._write.create_run(name, tags, event.time)
        self._write.reopen(known.info.run_id)
        for key, value in tags.items():
            if known.data.tags.get(key) != value:
                self._write.tag(known.info.run_id, key, value)
        return str(known.info.run_id)

    def _has_lost(self, run: str, *files: str) -> bool:
        """Whether MLflow lacks files of a run that was logged before, as far as it says."""
        there = self._write.listed(run) if self._repair else None
        return there is not None and not there.issuperset(files)

    def _mark_complete(self, run: str) -> None:
        """Notes that a run has its parameters, config and data; without this, they are written again."""
        self._write.input(run)
        self._write.tag(run, TAG_BEGUN, "true")
        self._completed_now.add(run)

    def _close(self, run: str, status: Status, reason: str, time: float, *, has_result: bool = False) -> None:
        self._write.tag(run, TAG_STATUS, str(status))
        self._write.tag(run, TAG_REASON, reason)
        # MLflow shows a killed run like a failed one, but a trial that was stopped early has a result.
        self._write.end_run(run, Status.COMPLETED if has_result else status, time)

    # ---- trials -------------------------------------------------------------------------------------------------

    def _trial_started(self, event: TrialStarted) -> None:
        trial, number = event.trial, event.trial.number
        self._start_run(event, trial, number)
        failed, _ = self._other_runs.get((number, self._retries.get(number, 0) - 1), ("", {}))
        if failed:
            # Not in the sweep's own run, whose nested runs are its trials.
            self._write.tag(failed, PARENT_TAG, self._runs[number])

    def _start_run(self, event: TrialStarted, trial: Trial, number: int) -> None:
        if self._done(number):
            known = self._found[self._trial_key(number)]
            self._runs[number] = known.info.run_id
            if known.data.tags.get(PARENT_TAG) != self._parent:
                # The sweep's own run was deleted for good, and is a new one now.
                self._write.tag(known.info.run_id, PARENT_TAG, self._parent)
            return
        if number in self._runs:
            self._write.reopen(self._runs[number])
            self._write.tag(self._runs[number], TAG_SLOT, event.slot)
            for key, value in self._changed.items():
                self._write.tag(self._runs[number], key, value)
        else:
            if self._write.several and self._unsure == 0 and self._trial_key(number) not in self._ahead:
                self._create_ahead()
            self._runs[number] = self._run(*self._about(event), event)
        run = self._runs[number]
        if run not in self._complete or (run not in self._written and self._has_lost(run, "config.yaml")):
            self._written.add(run)
            self._write.params(run, hyperparameters(trial))
            self._write_config(trial)
            self._mark_complete(run)

    def _about(self, event: TrialStarted) -> tuple[str, dict[str, str]]:
        """Returns the name and the tags of a trial's run."""
        trial, number = event.trial, event.trial.number
        tags = {
            TAG_KIND: NESTED[self._kind],
            TAG_TRIAL: str(number),
            PARENT_TAG: self._parent,
            **self._retry_tags(number),
        }
        if event.slot != NO_SLOT:
            tags[TAG_SLOT] = event.slot
        if trial.parent is not None:
            tags[TAG_GOES_ON_FROM] = f"trial {trial.parent}"
        if trial.confirms is not None:
            tags[TAG_CONFIRMS] = str(trial.confirms)
        if trial.added_by:
            tags[TAG_ADDED_BY] = trial.added_by
        return self._named(descriptions.trial_name(trial), number), tags

    def _create_ahead(self) -> None:
        """Creates the runs of all trials that start in the rest of the batch, several at once, then those in them."""
        # A resumed sweep tags new runs differently.
        coming = list(takewhile(lambda event: not isinstance(event, SweepResumed | TrialsRetried), self._batch))
        trials, abouts = dict[int, Trial](), dict[str, tuple[str, dict[str, str], float]]()
        for event in coming:
            number = event.trial.number if isinstance(event, TrialStarted) else -1
            known = number in trials or number in self._runs or number in self._retried
            if isinstance(event, TrialStarted) and not known and self._trial_key(number) not in self._found:
                trials[number] = event.trial
                abouts[self._trial_key(number)] = (*self._about(event), event.time)

        def create(key: str) -> None:
            self._ahead[key] = self._write.create_run(*abouts[key])

        self._write.each(create, [key for key in abouts if key not in self._ahead])
        nested = list[str]()
        for event in coming:
            if isinstance(event, EpochEnded | ExecutionEnded) and event.trial in trials:
                trial, parent = trials[event.trial], self._ahead[self._trial_key(event.trial)]
                if trial.executions:
                    name, tags = self._about_execution(trial, event.execution, parent)
                    key = _key(tags)
                    if not (key in abouts or key in self._found or key in self._ahead):
                        abouts[key] = name, tags, event.time
                        nested.append(key)
        self._write.each(create, nested)

    def _write_config(self, trial: Trial) -> None:
        assert self._state.started is not None
        shared = {key: self._state.started.config[key] for key in ("name", "seed", "objective", "data")}
        self._write.yaml(self._runs[trial.number], {**shared, **trial.config}, "config.yaml")

    def _trials_retried(self, event: TrialsRetried) -> None:
        """Keeps the runs of the failed attempts, but no longer as those of trials."""
        for number in event.trials:
            for known in (self._scored, self._candidates, self._ends):
                known.pop(number, None)
            times = self._retried.setdefault(number, [])
            if event.time in times:
                times.remove(event.time)
            self._switch(number, event.time)
            mine = {TAG_TRIAL: str(number), **self._retry_tags(number)}
            runs = [self._runs.get(number), *(run for (n, _), run in self._executions.items() if n == number)]
            for found in self._found.values():
                # Those of its executions were not looked at if the trial was logged completely.
                if {key: v for key in (TAG_TRIAL, TAG_RETRIED) if (v := found.data.tags.get(key))} == mine:
                    runs.append(found.info.run_id)
            for run in set(filter(None, runs)):
                self._write.tag(run, TAG_KIND, _ATTEMPT)
            times.append(event.time)
            self._switch(number, event.time)

    def _switch(self, number: int, time: float) -> None:
        """Makes the runs of a trial those that it had at some time, as events may be handled again."""
        before, now = self._retries.get(number, 0), sum(retried <= time for retried in self._retried[number])
        if now != before:
            executions = {i: self._executions.pop((n, i)) for n, i in list(self._executions) if n == number}
            self._other_runs[number, before] = self._runs.pop(number, ""), executions
            run, executions = self._other_runs.pop((number, now), ("", {}))
            if run:
                self._runs[number] = run
            self._executions |= {(number, i): nested for i, nested in executions.items()}
            self._retries[number] = now

    def _named(self, name: str, number: int) -> str:
        retries = self._retries.get(number, 0)
        return f"{name}, retry {retries}" if retries else name

    def _retry_tags(self, number: int) -> dict[str, str]:
        retries = self._retries.get(number, 0)
        return {TAG_RETRIED: str(retries)} if retries else {}

    def _measured(self, event: Measured) -> None:
        if event.trial in self._runs and not self._done(event.trial):
            metrics = {f"{SYSTEM}{name}": value for name, value in event.metrics.items()}
            # MLflow draws them over the time; a step must only be another one each time.
            step = max(0, int(event.time - self._state.started.time)) if self._state.started is not None else 0
            self._write.metrics(self._runs[event.trial], metrics, step, event.time)

    def _epoch_ended(self, event: EpochEnded) -> None:
        if not self._done(event.trial):
            run = self._runs[event.trial]
            if self._trials[event.trial].executions:
                run = self._execution(event.trial, event.execution, event)
            self._write.metrics(run, event.metrics, event.epoch, event.time)

    def _execution(self, number: int, execution: int, event: Event) -> str:
        """Returns the run of one of a trial's executions, which is nested in the trial's."""
        trial = self._trials[number]
        if (number, execution) not in self._executions:
            about = self._about_execution(trial, execution, self._runs[number])
            self._executions[number, execution] = self._run(*about, event)
        run = self._executions[number, execution]
        if run not in self._complete:
            self._write.params(run, _params(trial.executions[execution - 1]))
            self._mark_complete(run)
        return run

    def _about_execution(self, trial: Trial, execution: int, parent: str) -> tuple[str, dict[str, str]]:
        """Returns the name and the tags of the run of one of a trial's executions."""
        tags = {
            TAG_KIND: EXECUTION,
            TAG_TRIAL: str(trial.number),
            TAG_EXECUTION: str(execution),
            PARENT_TAG: parent,
            **self._retry_tags(trial.number),
        }
        values = _params(trial.executions[execution - 1])
        name = ", ".join(f"{key} {value}" for key, value in values.items() if key != "folds")
        return self._named(f"trial {trial.number}, {name}", trial.number), tags

    def _execution_ended(self, event: ExecutionEnded) -> None:
        if self._done(event.trial):
            return
        run, outcome = self._execution(event.trial, event.execution, event), event.outcome
        self._write.summary(run, self._summary(outcome), 0, event.time)
        self._close(run, outcome.status, outcome.reason, event.time)

    def _summary(self, outcome: Outcome) -> dict[str, float]:
        """Returns what has one value: logged at step 0, MLflow draws it as bars, not as curves."""
        final: dict[str, float] = {"seconds": round(outcome.seconds, 3)}
        if outcome.score is not None and outcome.best_epoch is not None:
            final |= {self._best_name: outcome.score, "best_epoch": outcome.best_epoch}
        if len(outcome.scores) > 1:
            final[f"{self._best_name}_std"] = statistics.stdev(outcome.scores)
        if outcome.parameters is not None:
            final["parameters"] = outcome.parameters
        others = [objective.name for objective in self._settings.objectives[1:]]
        # In addition to the curves of the epochs, the value that the search got.
        return final | {f"best_{name}": outcome.metrics[name] for name in others if name in outcome.metrics}

    def _count_end(self, event: TrialEnded) -> tuple[int, float | None]:
        """Returns a trial's place in the order in which they ended, and the best score so far."""
        number, score = event.trial, event.outcome.score
        # An event that is handled again has the same step and value as before.
        if number not in self._ends:
            best = next(reversed(self._ends.values()))[1] if self._ends else None
            if score is not None and self._trials[number].confirms is None:
                self._scored[number] = self._candidates[number] = score
                if not math.isnan(score) and self._objective.better(score, best):
                    best = score
            self._ends[number] = len(self._ends) + 1, best
        return self._ends[number]

    def _trial_ended(self, event: TrialEnded) -> None:
        number, outcome = event.trial, event.outcome
        run, trial = self._runs[number], self._trials[number]
        step, best = self._count_end(event)
        if best is not None and trial.confirms is None:
            self._write.summary(self._parent, {self._best_name: best}, step, event.time)
        if self._done(number):
            self._bring_back(event)
            return
        self._outdated = True
        for execution in range(1, len(trial.executions) + 1):
            if (number, execution) in self._executions and execution > len(outcome.scores):
                self._close(self._executions[number, execution], Status.STOPPED, outcome.reason, event.time)
        self._write.summary(run, self._summary(outcome), 0, event.time)
        self._write.text(run, event.log, "worker.log")
        if trial.executions:
            for epoch, metrics in self._curve(event).items():
                self._write.metrics(run, metrics, epoch, event.time)
        self._write_curves(event)
        if outcome.score is not None:
            self._keep_model(number)
            self._check_model(number)
        if outcome.digest:
            self._write.tag(run, TAG_MODEL_SHA256, outcome.digest)
        if note := self._note(number):
            self._write.tag(run, TAG_NOTE, note)
        self._close(run, outcome.status, outcome.reason, event.time, has_result=outcome.score is not None)
        self._write.tag(run, TAG_DONE, "true")

    def _curve(self, event: TrialEnded) -> dict[int, Mapping[str, float]]:
        """Returns the mean of the executions that have ended; if none has, the first one as far as it got."""
        count = max(1, len(event.outcome.scores))
        return _mean_curve([self._state.epochs.get((event.trial, i), {}) for i in range(1, count + 1)])

    def _write_curves(self, event: TrialEnded) -> None:
        epochs, executions = self._curve(event), self._trials[event.trial].executions
        if len(epochs) > 1:
            parts = max(1, len(event.outcome.scores))
            title = f"Trial {event.trial}" + (f", mean of {parts}" if parts > 1 else "")
            best = None if executions else event.outcome.best_epoch
            image = learning_curves(epochs, best, title, self._objective.name)
            self._write.bytes(self._runs[event.trial], image, CURVES_FILE)

    def _bring_back(self, event: TrialEnded) -> None:
        """Writes the files that MLflow has lost of a trial that was logged completely."""
        if not self._repair:
            return
        run, trial = self._runs[event.trial], self._trials[event.trial]
        if run not in self._listed:
            ended = {event.trial for event in self._batch if isinstance(event, TrialEnded)}
            self._write.each(self._list, [self._found[self._trial_key(n)].info.run_id for n in ended if self._done(n)])
        there, folder = self._listed[run], trial_folder(self._folder, event.trial)
        if there is None:
            return
        lacking: dict[str, Callable[[], None]] = {"config.yaml": lambda: self._write_config(trial)}
        if event.log:
            lacking["worker.log"] = lambda: self._write.text(run, event.log, "worker.log")
        if len(self._curve(event)) > 1:
            lacking[CURVES_FILE] = lambda: self._write_curves(event)
        for path in (folder / SAMPLE_FILE, folder / MODEL_FILE):
            if path.exists():
                lacking[path.name] = partial(self._write.file, run, path)
        for name in lacking.keys() - there:
            lacking[name]()
            self.mended.files += 1
        if event.outcome.score is not None and MODEL_FILE not in there:
            self._check_model(event.trial)

    def _list(self, run: str) -> None:
        self._listed[run] = self._write.listed(run)

    def _check_model(self, number: int) -> None:
        """Notes whether the folder of a trial has no model."""
        if not (trial_folder(self._folder, number) / MODEL_FILE).exists():
            self._without_model.add(number)

    @property
    def lost(self) -> list[int]:
        """The trials whose model should be in MLflow, but is neither there nor in the sweep's folder."""
        kept, confirmed = self._kept(), self._results.confirmed
        if self._settings.tracking.keep_models == "all" or confirmed is None:
            kept |= {n for n, trial in self._trials.items() if trial.confirms is not None}
        else:
            kept |= {confirmed.model}
        return sorted(self._without_model & kept)

    def _note(self, number: int) -> str:
        tested = self._state.tested
        tested = tested if tested is not None and tested.trial == number else None
        return descriptions.trial_note(self._trials[number], self._results.outcomes[number], tested)

    def _done(self, number: int) -> bool:
        """Whether a trial was logged completely before the events were replayed."""
        known = self._found.get(self._trial_key(number))
        return known is not None and TAG_DONE in known.data.tags

    def _trial_key(self, number: int) -> str:
        return _key({TAG_TRIAL: str(number), **self._retry_tags(number)})

    def _kept(self) -> set[int]:
        """Returns the trials of the search whose models are to be kept."""
        keep, scores = self._settings.tracking.keep_models, self._candidates
        if keep == "all":
            return set(scores)
        sign = -self._objective.sign
        # Of equal trials the earlier one is better, as in `Ranking.ranked`, in whatever order they ended.
        ranked = heapq.nsmallest(1 if keep == "best" else keep, ((sign * s, n) for n, s in scores.items()))
        # Which member of the Pareto front is the best is the user's choice.
        return {n for _, n in ranked} | self._front(scores)

    def _keep_model(self, number: int) -> None:
        """Logs a trial's model if it is among those to keep, and deletes the one that no longer is."""
        every = self._settings.tracking.keep_models == "all"
        kept = set() if every else self._kept()
        folder = trial_folder(self._folder, number)
        keeps = every or number in kept or number not in self._scored
        files = [SAMPLE_FILE, *([MODEL_FILE] if keeps else [])]
        for path in [folder / name for name in files]:
            # When a journal is replayed into another store, earlier models may be gone, or all files of a trial.
            if path.exists():
                self._write.file(self._runs[number], path)
        if not every:
            self._drop_models(sorted(self._candidates.keys() - kept), just_ended=number)

    def _front(self, scores: Mapping[int, float]) -> set[int]:
        """Returns those of the scored trials that are on the Pareto front; none if there is only one objective."""
        return marked(self._points(scores), self._settings.objectives)

    def _points(self, trials: Iterable[int]) -> dict[int, tuple[float, ...]]:
        """Returns the scores by all objectives of those trials that have them."""
        return {n: point for n in trials if (point := self._results.scores(n)) is not None}

    def _drop_models(self, numbers: Sequence[int], just_ended: int | None = None) -> None:
        for number in numbers:
            model = trial_folder(self._folder, number) / MODEL_FILE
            if number != just_ended and model.exists():
                self._write.delete_artifact(self._runs[number], MODEL_FILE)
            remove(model)
            # A trial that is not among the best now will never be.
            self._candidates.pop(number, None)

    # ---- the winner ---------------------------------------------------------------------------------------------

    def _confirmed(self, event: Confirmed) -> None:
        for row in event.candidates:
            name = f"confirmed_{self._objective.name}"
            metrics = {name: row["mean"], f"{name}_std": row["std"]}
            self._write.summary(self._runs[row["trial"]], metrics, 0, event.time)
        about = {"candidates": event.candidates, "winner": event.winner, "p_value": event.p_value}
        self._write.json(self._parent, about, "confirmed.json")
        if self._settings.tracking.keep_models != "all":
            retrained = [n for n in self._results.outcomes if self._trials[n].confirms is not None]
            self._drop_models([n for n in sorted(retrained) if n != event.model])

    def _plot_test(self, runs: Sequence[str], event: WinnerTested) -> None:
        wanted = f"test_{self._objective.name.removeprefix('val_')}"
        shown = (wanted, "test_accuracy", *event.metrics)
        score = next((f": {name[5:]} {event.metrics[name]:.4f}" for name in shown if name in event.metrics), "")
        title = f"Trial {event.trial} on the test data{score}"
        data = {} if self._state.started is None else self._state.started.data
        if event.confusion:
            matrix = self._plots().confusion_matrix(event.confusion, title, data.get("names", ()))
            self._write.figure(runs, matrix, "confusion_matrix.png")
        path = trial_folder(self._folder, event.trial) / DETAILS_FILE
        if (kind := schema.kind_of_target(data)) is None or not path.exists():
            return
        try:
            details = read_npz(path, str(path))
        except UserError as error:
            _LOG.warning("%s", error)
            return
        for name, figure, _ in self._plots().of_test(details, kind, title):
            self._write.figure(runs, figure, f"{name}.png")

    def _winners(self, tested: int) -> list[int]:
        """Returns the trial that was tested, and the one that it retrains."""
        confirms = self._trials[tested].confirms
        return [tested] if confirms is None else [tested, confirms]

    def _winner_tested(self, event: WinnerTested, before: WinnerTested | None) -> None:
        runs = [] if event.error else [*(self._runs[n] for n in self._winners(event.trial)), self._parent]
        if runs:
            self._plot_test(runs, event)
        for run in runs:
            self._write.summary(run, event.metrics, 0, event.time)
            if event.confusion:
                self._write.json(run, {"rows are true classes": event.confusion}, "confusion_matrix.json")
            for name in (DETAILS_FILE, PROFILE_FILE):
                path = trial_folder(self._folder, event.trial) / name
                if path.exists():
                    self._write.file(run, path)
        if before is not None:
            # A resumed sweep may have found a better one.
            for number in self._winners(before.trial):
                self._write.tag(self._runs[number], TAG_WINNER, "false")
            self._write.tag(self._runs[before.trial], TAG_NOTE, self._note(before.trial))
        for number in self._winners(event.trial):
            self._write.tag(self._runs[number], TAG_WINNER, "true")
        self._write.tag(self._runs[event.trial], TAG_NOTE, self._note(event.trial))
        self._write.tag(self._parent, TAG_WINNER, str(event.trial))


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sweep's config without the store, and without the services that get its messages."""
    return {key: value for key, value in config.items() if key not in ("tracking", "notify")}


def _params(execution: Execution) -> dict[str, int | None]:
    """Returns the parameters of an execution's run."""
    fold = {} if execution.fold is None else {"fold": execution.fold, "folds": execution.folds}
    return {"seed": execution.seed, **fold}


def _tag(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _version_tags(versions: Mapping[str, str]) -> dict[str, str]:
    names = {"commit": "mlflow.source.git.commit"}
    return {names.get(package, f"version.{package}"): version for package, version in versions.items()}


# The tags that tell a sweep's runs apart.
_KEYS = (TAG_KIND, TAG_TRIAL, TAG_EXECUTION, TAG_RETRIED)
# The kind of the runs of attempts that failed before their trial was retried by the user's wish.
_ATTEMPT = "attempt"
# As many trials get a rank as MLflow's charts show; for a thousand, writing it would take seconds.
_RANKED = 100


def _key(tags: Mapping[str, str]) -> str:
    """Returns `sweep`, `trial 3` or `execution 3 2`; with a colon and how often it was retried, if it was."""
    kind = EXECUTION if TAG_EXECUTION in tags else TRIAL if TAG_TRIAL in tags else SWEEP
    retried = [f":{tags[TAG_RETRIED]}"] if TAG_RETRIED in tags else []
    return " ".join([kind, *(tags[key] for key in (TAG_TRIAL, TAG_EXECUTION) if key in tags), *retried])


def _mean_curve(parts: Sequence[Mapping[int, Mapping[str, float]]]) -> dict[int, Mapping[str, float]]:
    """Returns the mean of each metric over the executions, for the epochs that all of them have."""
    common = sorted(set.intersection(*(set(part) for part in parts))) if parts else []
    return {
        epoch: {name: statistics.fmean(part[epoch][name] for part in parts) for name in parts[0][epoch]}
        for epoch in common
    }


def hyperparameters(trial: Trial) -> dict[str, Any]:
    """Returns a trial's config as flat parameters, without hyperparameters that are inactive or unused.

    Args:
        trial: The trial.

    Returns:
        Plain values by dotted names: `model.units`, or `model.units.1` if each layer was searched separately.
    """
    idle = () if used(trial.config.get("augment", {})) else ("augment",)
    config = {group: values for group, values in trial.config.items() if group not in idle}
    values = {key: value for key, value in flat(config).items() if value not in (None, [], {})}
    by_layer = {name.rpartition(".")[0] for name in trial.values if name.rpartition(".")[2].isdigit()}
    unused = by_layer | set(trial.inactive)
    return {key: value for key, value in values.items() if key not in unused} | trial.values
