"""Measures how many trials to train in parallel on each GPU (`workers.trials_per_gpu=auto`).

A GPU starts with one trial. Another share is opened as long as the last one has raised the GPU's throughput and there
is enough memory. For that, the time of an epoch with n parallel trials is compared with that of the same work with
n - 1 trials: an epoch of the same trial, or of another one with the same model, batch size and optimizer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from mnist_sweep.config.augment import used
from mnist_sweep.config.settings import WorkersConfig
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.journal import events
from mnist_sweep.journal.trial import Status, Trial
from mnist_sweep.workers.devices import Slot, device, memory, most_shares

# The factor by which a share must raise the throughput.
_GAIN = 1.05
# How much of the same work must be measured with n trials and with n - 1.
_EPOCHS, _SECONDS = 3, 3.0
# Trials after which mean epochs are compared, if no work is seen twice: trials of few epochs with different models.
_TRIALS = 6
# If trials end before a new share starts to train, so many are measured alone first, as their mean is more reliable.
_LONG, _TRIALS_ALONE = 15.0, 3
# How far the mean number of trials during an epoch may be from a whole number: relative to it, and at most.
_IDLE, _MOST_IDLE = 0.05, 0.3
# A trial with fewer epochs is measured from its start, others without the first epoch, in which the model is compiled.
_SHORT = 3
# The part of the GPU's memory to keep free for trials larger than those that were measured.
_RESERVE = 0.1
# Seconds between two readings of a GPU's memory.
_MEMORY_INTERVAL = 1.0

# Without memory for them, CUDA's libraries cannot start.
_OUT_OF_MEMORY = re.compile(
    "out.of.memory|resource.?exhausted|alloc_failed|DNN library initialization failed|create cublas handle",
    re.IGNORECASE,
)

Memory = Callable[[str], tuple[int, int] | None]


class Sharing:
    """Takes a sweep's events, and decides which shares of its GPUs to open and to close."""

    def __init__(
        self, places: Sequence[Slot] = (), *, shares: int = 1, most: int | None = None, memory: Memory = memory
    ) -> None:
        """Starts with one share of each GPU.

        Args:
            places: The first share of each GPU; none to open and close nothing.
            shares: The most shares of a GPU.
            most: The most trials that can run at once; None if unknown.
            memory: Returns the bytes in use and in total of a GPU, as CUDA_VISIBLE_DEVICES names it; None if unknown.
        """
        self._gpus = {device(place.name): _Gpu(place, shares, memory) for place in places}
        self._most = most
        self._running: dict[int, tuple[_Gpu, _Run]] = {}

    def handle(self, event: events.Event) -> None:
        """Takes an event of the running session. Those of earlier sessions say nothing about this machine."""
        if isinstance(event, events.TrialStarted) and device(event.slot) in self._gpus:
            gpu = self._gpus[device(event.slot)]
            self._running[event.trial.number] = (gpu, gpu.start(event))
        elif isinstance(event, events.EpochEnded) and event.trial in self._running:
            gpu, run = self._running[event.trial]
            gpu.epoch(run, event)
        elif isinstance(event, events.AttemptFailed | events.TrialEnded) and event.trial in self._running:
            gpu, run = self._running.pop(event.trial)
            gpu.end(run, event.time)
            if run.shared and _is_out_of_memory(event):
                gpu.lower("a trial ran out of memory while it shared the GPU")
        elif isinstance(event, events.SlotOpened | events.SlotClosed | events.SlotLost):
            name = device(event.slot)
            if name in self._gpus:
                self._gpus[name].change(event)
                if not self._gpus[name].shares:
                    del self._gpus[name]

    def wanted(self) -> list[tuple[Slot, str]]:
        """Returns the shares to open now, each with the reason."""
        found: list[tuple[Slot, str]] = []
        for gpu in self._gpus.values():
            slots = sum(len(one.shares) for one in self._gpus.values()) + len(found)
            if (self._most is None or slots < self._most) and gpu.wants_another():
                found.append((gpu.another(), gpu.why))
        return found

    def surplus(self, idle: Collection[str]) -> list[tuple[str, str]]:
        """Returns the shares to close now, each with the reason.

        Args:
            idle: The slots that are not training.
        """
        found: list[tuple[str, str]] = []
        for gpu in self._gpus.values():
            number = len(gpu.shares) - gpu.most
            found += [(share, gpu.why) for share in reversed(gpu.shares) if share in idle][: max(0, number)]
        return found

    def excuses(self, trial: int, reason: str) -> bool:
        """Returns whether a trial failed because it shared its GPU, so that the attempt must not count.

        Args:
            trial: Its number.
            reason: Why its attempt failed.
        """
        return trial in self._running and self._running[trial][1].shared and bool(_OUT_OF_MEMORY.search(reason))


def create(config: WorkersConfig, places: Sequence[Slot], most: int | None) -> Sharing:
    """Creates what decides on the shares of this machine's GPUs.

    Args:
        config: The group `workers`.
        places: The first slots.
        most: The most trials that can run at once; None if unknown.
    """
    on_gpus = [place for place in places if place.gpu is not None]
    if config.trials_per_gpu != "auto" or not on_gpus:
        return Sharing()
    return Sharing(on_gpus, shares=most_shares(len(on_gpus)), most=most)


def _is_out_of_memory(event: events.AttemptFailed | events.TrialEnded) -> bool:
    if isinstance(event, events.AttemptFailed):
        return bool(_OUT_OF_MEMORY.search(event.reason))
    return event.outcome.status is Status.FAILED and bool(_OUT_OF_MEMORY.search(event.outcome.reason))


@dataclass
class _Run:
    """A trial that runs on a GPU.

    Attributes:
        slot: Its slot.
        work: What its epochs have in common with those of other trials.
        epochs: The last epoch that it will train.
        short: Whether its first epoch counts.
        since: When its current epoch started.
        trial_seconds: The GPU's `trial_seconds` at that time.
        execution: The execution of its last epoch; 0 before the first.
        shared: Whether the GPU has had more than one share in this time, each of which holds memory.
    """

    slot: str
    work: str
    epochs: int
    short: bool
    since: float
    trial_seconds: float
    execution: int = 0
    shared: bool = False


@dataclass
class _Pace:
    seconds: float = 0.0
    epochs: int = 0

    @property
    def enough(self) -> bool:
        return self.epochs >= _EPOCHS and self.seconds >= _SECONDS

    @property
    def log(self) -> float:
        return math.log(self.seconds / self.epochs)


class _Gpu:
    """A GPU, its shares, and what was measured on it.

    Attributes:
        shares: The open slots, in the order in which they were opened.
        most: The most shares.
        why: The reason for the last change of `most`, or the last measured gain.
    """

    def __init__(self, place: Slot, most: int, memory: Memory) -> None:
        self._place, self._memory = place, memory
        self.shares, self.most, self.why = [place.name], most, ""
        self._runs: list[_Run] = []
        # The number of running trials, integrated over time, so that differences of it give means.
        self._trial_seconds = self._now = 0.0
        # Shares that have reported an epoch. While another one starts, the epochs of the others do not count.
        self._reported: set[str] = set()
        self._steady_since = 0.0
        self._paces: dict[int, dict[str, _Pace]] = {}
        self._trials: dict[int, set[int]] = {}
        self._worthwhile = 0
        self._memory_read = -math.inf
        self._used = self._per_share = self._total = 0.0

    # ---- events -------------------------------------------------------------------------------------------------

    def start(self, event: events.TrialStarted) -> _Run:
        self._advance(event.time)
        trial = event.trial
        short = trial.epochs - trial.initial_epoch < _SHORT
        run = _Run(
            event.slot, _work(trial), trial.epochs, short, event.time, self._trial_seconds, shared=len(self.shares) > 1
        )
        self._runs.append(run)
        return run

    def epoch(self, run: _Run, event: events.EpochEnded) -> None:
        self._advance(event.time)
        steady = self._steady_since <= run.since and all(one.slot in self._reported for one in self._runs)
        first = run.execution != event.execution
        if steady and event.time > run.since and (run.short or not first):
            # Counted apart: it includes what a trial needs to start.
            self._count(run, f"{run.work} first" if first else run.work, event)
        run.since, run.trial_seconds, run.execution = event.time, self._trial_seconds, event.execution
        if run.slot not in self._reported:
            self._reported.add(run.slot)
            self._steady_since = event.time
        if len(self.shares) < self.most and event.time - self._memory_read >= _MEMORY_INTERVAL:
            self._memory_read = event.time
            self._read_memory()
        if self._worthwhile < len(self.shares) <= self.most:
            if len(self.shares) > 1:
                self._decide(len(self.shares))
            elif self._is_measured_alone(run, event):
                self._worthwhile, self.why = 1, f"{device(self._place.name)} has trained one trial at a time so far"

    def end(self, run: _Run, time: float) -> None:
        self._advance(time)
        self._runs.remove(run)

    def change(self, event: events.SlotOpened | events.SlotClosed | events.SlotLost) -> None:
        if isinstance(event, events.SlotOpened):
            self.shares.append(event.slot)
            for run in self._runs:
                run.shared = True
            return
        self.shares.remove(event.slot)
        if isinstance(event, events.SlotLost):
            # It would be lost again.
            self.most = min(self.most, max(1, len(self.shares)))

    def lower(self, why: str) -> None:
        self.most, self.why = max(1, min(self.most, len(self.shares)) - 1), why

    # ---- decisions ----------------------------------------------------------------------------------------------

    def wants_another(self) -> bool:
        if self._worthwhile != len(self.shares) or len(self.shares) >= self.most:
            return False
        if self._used + self._per_share > self._total * (1 - _RESERVE) or not self._total:
            self.most = len(self.shares)
        return len(self.shares) < self.most

    def another(self) -> Slot:
        # No share was closed or lost before; otherwise none would be opened.
        return replace(self._place, name=f"{device(self._place.name)}.{len(self.shares)}")

    def _advance(self, time: float) -> None:
        self._trial_seconds += len(self._runs) * (time - self._now)
        self._now = time

    def _count(self, run: _Run, work: str, event: events.EpochEnded) -> None:
        seconds = event.time - run.since
        trials = (self._trial_seconds - run.trial_seconds) / seconds
        if abs(trials - round(trials)) <= min(_IDLE * trials, _MOST_IDLE):
            pace = self._paces.setdefault(round(trials), {}).setdefault(work, _Pace())
            pace.seconds, pace.epochs = pace.seconds + seconds, pace.epochs + 1
            self._trials.setdefault(round(trials), set()).add(event.trial)

    def _read_memory(self) -> None:
        found = self._memory(self._place.gpu or "")
        if found is not None:
            used, self._total = found
            # Memory of other programs counts as that of the shares, which leaves room for them as well. The mean is too
            # small while a share starts, but not larger than before.
            self._used, self._per_share = max(self._used, used), max(self._per_share, used / len(self.shares))

    def _is_measured_alone(self, run: _Run, event: events.EpochEnded) -> bool:
        alone = self._paces.get(1, {})
        same = alone.get(run.work, _Pace())
        if same.enough and (run.epochs - event.epoch) * same.seconds / same.epochs >= _LONG:
            return True
        all_work = _Pace(sum(p.seconds for p in alone.values()), sum(p.epochs for p in alone.values()))
        return all_work.enough and len(self._trials[1]) >= _TRIALS_ALONE

    def _decide(self, shares: int) -> None:
        gain = self._gain(shares)
        if gain is None:
            return
        self.why = (
            f"{device(self._place.name)} trains {gain:.2f} times as fast with {shares} trials in parallel as with "
            f"{shares - 1}"
        )
        if gain >= _GAIN:
            self._worthwhile = shares
        else:
            self.most = shares - 1

    def _gain(self, shares: int) -> float | None:
        """Returns the GPU's throughput with `shares` shares, relative to one fewer; None if not known yet."""
        fewer, more = self._paces.get(shares - 1, {}), self._paces.get(shares, {})
        both = [work for work in more if work in fewer]
        epochs = [min(fewer[work].epochs, more[work].epochs) for work in both]
        seen = _Pace(sum(min(fewer[work].seconds, more[work].seconds) for work in both), sum(epochs))
        many = len(self._trials.get(shares, ())) >= _TRIALS
        if seen.enough or (both and many):
            slower = [more[work].log - fewer[work].log for work in both]
            slowdown = sum(w * s for w, s in zip(epochs, slower, strict=True)) / sum(epochs)
        elif fewer and many:
            slowdown = fmean(p.log for p in more.values()) - fmean(p.log for p in fewer.values())
        else:
            return None
        return shares / (shares - 1) / math.exp(slowdown)


def _work(trial: Trial) -> str:
    """Returns what an epoch's time depends on; of rates and penalties only whether they are 0, which drops a layer."""
    model, training = trial.config["model"], trial.config["training"]
    if made_by(model) is None:
        model = _without_rates(model)
    optimizer = (trial.config.get("optimizer") or {}).get("name")
    changes = sorted(used(trial.config.get("augment", {})))
    return json.dumps([model, optimizer, training["batch_size"], training["precision"], *changes], sort_keys=True)


def _without_rates(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_rates(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_rates(inner) for inner in value]
    return value != 0 if isinstance(value, float) else value
