"""How many trials train side by side on each GPU, found by measuring the first of them (`workers.trials_per_gpu=auto`).

A GPU begins with one trial. While it trains, another share is opened as long as the last one raised the GPU's
throughput and its memory has room. What is compared is the time of an epoch among n trials with that of the same work
among n - 1: of the same trial, or of another of the same model, batch size and optimizer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from mnist_sweep.config.settings import WorkersConfig
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SlotClosed,
    SlotLost,
    SlotOpened,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.trial import Status, Trial
from mnist_sweep.workers.devices import Slot, device, memory, most_shares

# The throughput that a share has to add.
_GAIN = 1.05
# How much of the same work has to be seen among n trials and among n - 1.
_EPOCHS, _SECONDS = 3, 3.0
# Trials after which the mean epoch tells, where no work is seen twice: trials of few epochs and ever other models.
_TRIALS = 6
# Where a trial ends sooner than a new share begins to train, so many are seen alone first, that their mean tells more.
_LONG, _TRIALS_ALONE = 15.0, 3
# How far the mean number of trials that ran during an epoch may be from a whole one: relative to it, and in all.
_IDLE, _MOST_IDLE = 0.05, 0.3
# A trial of fewer epochs is measured from its start, of more without its first epoch, in which it is compiled.
_SHORT = 3
# Of the GPU's memory, what stays free for trials larger than those that were measured.
_RESERVE = 0.1
_LOOK = 1.0

_OUT_OF_MEMORY = re.compile(r"out.of.memory|resource.?exhausted|alloc_failed", re.IGNORECASE)

Memory = Callable[[str], tuple[int, int] | None]


class Sharing:
    """Takes a sweep's events, and says which shares of its GPUs to open and to close."""

    def __init__(
        self,
        places: Sequence[Slot] = (),
        *,
        shares: int = 1,
        most: int | None = None,
        memory: Memory = memory,
    ) -> None:
        """Begins with one share of each GPU.

        Args:
            places: The first share of each; none where nothing is to be opened or closed.
            shares: The most that a GPU may have.
            most: No more trials than this will ever run at once; None if unknown.
            memory: From a GPU, as CUDA_VISIBLE_DEVICES names it, to its bytes in use and in all; None if unknown.
        """
        self._gpus = {device(place.name): _Gpu(place, shares, memory) for place in places}
        self._most = most
        self._running: dict[int, tuple[_Gpu, _Run]] = {}

    def handle(self, event: Event) -> None:
        """Takes an event of the running session; those of earlier ones tell nothing of this machine."""
        if isinstance(event, TrialStarted) and device(event.slot) in self._gpus:
            gpu = self._gpus[device(event.slot)]
            self._running[event.trial.number] = (gpu, gpu.start(event))
        elif isinstance(event, EpochEnded) and event.trial in self._running:
            gpu, run = self._running[event.trial]
            gpu.epoch(run, event)
        elif isinstance(event, AttemptFailed | TrialEnded) and event.trial in self._running:
            gpu, run = self._running.pop(event.trial)
            gpu.end(run, event.time)
            if run.beside and _is_out_of_memory(event):
                gpu.lower("a trial ran out of memory beside others")
        elif isinstance(event, SlotOpened | SlotClosed | SlotLost) and device(event.slot) in self._gpus:
            gpu = self._gpus[device(event.slot)]
            gpu.change(event)
            if not gpu.shares:
                del self._gpus[device(event.slot)]

    def wanted(self) -> list[tuple[Slot, str]]:
        """The shares to open now, each with the reason."""
        found: list[tuple[Slot, str]] = []
        for gpu in self._gpus.values():
            slots = sum(len(one.shares) for one in self._gpus.values()) + len(found)
            if (self._most is None or slots < self._most) and gpu.wants_another():
                found.append((gpu.another(), gpu.why))
        return found

    def surplus(self, idle: Collection[str]) -> list[tuple[str, str]]:
        """The shares to close now, each with the reason.

        Args:
            idle: The slots that train nothing.
        """
        found: list[tuple[str, str]] = []
        for gpu in self._gpus.values():
            number = len(gpu.shares) - gpu.most
            found += [(share, gpu.why) for share in reversed(gpu.shares) if share in idle][: max(0, number)]
        return found

    def excuses(self, trial: int, reason: str) -> bool:
        """Whether a trial failed because it was not alone: that must not decide whether the sweep has a result for it.

        Args:
            trial: Its number.
            reason: Why its attempt failed.
        """
        return trial in self._running and self._running[trial][1].beside and bool(_OUT_OF_MEMORY.search(reason))


def create(config: WorkersConfig, places: Sequence[Slot], most: int | None) -> Sharing:
    """What decides on the shares of this machine's GPUs.

    Args:
        config: The group `workers`.
        places: The slots that there are at first.
        most: No more trials than this will ever run at once; None if unknown.
    """
    on_gpus = [place for place in places if place.gpu is not None]
    if config.trials_per_gpu != "auto" or not on_gpus:
        return Sharing()
    return Sharing(on_gpus, shares=most_shares(len(on_gpus)), most=most)


def _is_out_of_memory(event: AttemptFailed | TrialEnded) -> bool:
    if isinstance(event, AttemptFailed):
        return bool(_OUT_OF_MEMORY.search(event.reason))
    return event.outcome.status is Status.FAILED and bool(_OUT_OF_MEMORY.search(event.outcome.reason))


@dataclass
class _Run:
    """A trial that runs on a GPU.

    Attributes:
        slot: Where.
        work: What its epochs have in common with those of other trials.
        epochs: The last that it is to train.
        short: Whether its first epoch counts.
        since: When the epoch that it is in began.
        area: The GPU's then.
        execution: That of its last epoch; 0 before the first.
        beside: Whether the GPU has had more than one share in this time, each of which holds memory.
    """

    slot: str
    work: str
    epochs: int
    short: bool
    since: float
    area: float
    execution: int = 0
    beside: bool = False


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
        shares: The open slots, in the order of their opening.
        most: How many there may be.
        why: What the last change of `most`, or the last gain, came from.
    """

    def __init__(self, place: Slot, most: int, memory: Memory) -> None:
        self._place, self._memory = place, memory
        self.shares, self.most, self.why = [place.name], most, ""
        self._runs: list[_Run] = []
        # The sum over time of the trials that run, so that a mean over any span of time is a difference.
        self._area = self._now = 0.0
        # Shares that have told an epoch; while another starts, the epochs of its neighbours tell nothing.
        self._heard: set[str] = set()
        self._calm = 0.0
        self._paces: dict[int, dict[str, _Pace]] = {}
        self._trials: dict[int, set[int]] = {}
        self._worth = 0
        self._looked = -math.inf
        self._used = self._each = self._total = 0.0

    # ---- what happens -------------------------------------------------------------------------------------------

    def start(self, event: TrialStarted) -> _Run:
        self._advance(event.time)
        trial = event.trial
        short = trial.epochs - trial.initial_epoch < _SHORT
        run = _Run(event.slot, _work(trial), trial.epochs, short, event.time, self._area, beside=len(self.shares) > 1)
        self._runs.append(run)
        return run

    def epoch(self, run: _Run, event: EpochEnded) -> None:
        self._advance(event.time)
        calm = self._calm <= run.since and all(one.slot in self._heard for one in self._runs)
        first = run.execution != event.execution
        if calm and event.time > run.since and (run.short or not first):
            # Of its own sort: it holds what a trial needs to begin.
            self._count(run, f"{run.work} first" if first else run.work, event)
        run.since, run.area, run.execution = event.time, self._area, event.execution
        if run.slot not in self._heard:
            self._heard.add(run.slot)
            self._calm = event.time
        if len(self.shares) < self.most and event.time - self._looked >= _LOOK:
            self._looked = event.time
            self._look()
        if self._worth < len(self.shares) <= self.most:
            if len(self.shares) > 1:
                self._judge(len(self.shares))
            elif self._is_known_alone(run, event):
                self._worth, self.why = 1, f"{device(self._place.name)} has trained one trial at a time so far"

    def end(self, run: _Run, time: float) -> None:
        self._advance(time)
        self._runs.remove(run)

    def change(self, event: SlotOpened | SlotClosed | SlotLost) -> None:
        if isinstance(event, SlotOpened):
            self.shares.append(event.slot)
            for run in self._runs:
                run.beside = True
            return
        self.shares.remove(event.slot)
        if isinstance(event, SlotLost):
            # Opening it again would end alike.
            self.most = min(self.most, max(1, len(self.shares)))

    def lower(self, why: str) -> None:
        self.most, self.why = max(1, min(self.most, len(self.shares)) - 1), why

    # ---- what follows -------------------------------------------------------------------------------------------

    def wants_another(self) -> bool:
        if self._worth != len(self.shares) or len(self.shares) >= self.most:
            return False
        if self._used + self._each > self._total * (1 - _RESERVE) or not self._total:
            self.most = len(self.shares)
        return len(self.shares) < self.most

    def another(self) -> Slot:
        # No share was closed or lost before: none is opened after that.
        return replace(self._place, name=f"{device(self._place.name)}.{len(self.shares)}")

    def _advance(self, time: float) -> None:
        self._area += len(self._runs) * (time - self._now)
        self._now = time

    def _count(self, run: _Run, work: str, event: EpochEnded) -> None:
        seconds = event.time - run.since
        trials = (self._area - run.area) / seconds
        if abs(trials - round(trials)) <= min(_IDLE * trials, _MOST_IDLE):
            pace = self._paces.setdefault(round(trials), {}).setdefault(work, _Pace())
            pace.seconds, pace.epochs = pace.seconds + seconds, pace.epochs + 1
            self._trials.setdefault(round(trials), set()).add(event.trial)

    def _look(self) -> None:
        found = self._memory(self._place.gpu or "")
        if found is not None:
            used, self._total = found
            # All that is in use counts as the shares', so that another program's needs are met as well. The mean is
            # too small while a share starts, but not above what it was before.
            self._used, self._each = max(self._used, used), max(self._each, used / len(self.shares))

    def _is_known_alone(self, run: _Run, event: EpochEnded) -> bool:
        alone = self._paces.get(1, {})
        own = alone.get(run.work, _Pace())
        if own.enough and (run.epochs - event.epoch) * own.seconds / own.epochs >= _LONG:
            return True
        all_of_them = _Pace(sum(p.seconds for p in alone.values()), sum(p.epochs for p in alone.values()))
        return all_of_them.enough and len(self._trials[1]) >= _TRIALS_ALONE

    def _judge(self, shares: int) -> None:
        gain = self._gain(shares)
        if gain is None:
            return
        self.why = (
            f"{device(self._place.name)} trains {gain:.2f} times as much with {shares} trials side by side as with "
            f"{shares - 1}"
        )
        if gain >= _GAIN:
            self._worth = shares
        else:
            self.most = shares - 1

    def _gain(self, shares: int) -> float | None:
        """The GPU's throughput with so many shares, relative to that with one less; None if not known yet."""
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
    """What an epoch's time depends on; of rates and penalties only whether they are 0, as layers are left out then."""
    model, training = trial.config["model"], trial.config["training"]
    if not (model.get("builder") or model.get("hypermodel")):
        model = _without_rates(model)
    optimizer = (trial.config.get("optimizer") or {}).get("name")
    return json.dumps([model, optimizer, training["batch_size"], training["precision"]], sort_keys=True)


def _without_rates(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_rates(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_rates(inner) for inner in value]
    return value != 0 if isinstance(value, float) else value
