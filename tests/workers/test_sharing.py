"""How many trials share a GPU: the loop on fake workers, whose GPUs train a number of trials at full speed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import Calls, FakeClock, FakeWorkers, History, InlineExecutor

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.driver.loop import Sweep
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
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.workers.devices import Slot, device
from mnist_sweep.workers.sharing import Sharing

GB = 10**9
SPACE = ("search=random", "search.max_trials=12", "training.epochs=20", "model.dropout=interval(0.1,0.5)")
NO_MEMORY = Outcome(Status.FAILED, "out of memory: OOM when allocating tensor with shape[512,512]")


@dataclass
class Story:
    sweep: Sweep
    workers: FakeWorkers
    events: list[Event] = field(default_factory=list)

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(event.kind.removeprefix("slot_"), event.slot) for event in self.of(SlotOpened, SlotClosed, SlotLost)]

    def shares(self) -> list[str]:
        return sorted(self.workers.slots())


Tell = Callable[..., Story]


def rooms(**fits: int) -> Callable[[dict[str, Any], str, int], float]:
    """This many trials on a GPU do not slow each other down; more of them share its throughput."""
    return lambda values, gpu, trials: max(1.0, trials / fits[gpu])


@pytest.fixture
def tell(compose_config, tmp_path: Path) -> Tell:
    def told(
        *overrides: str,
        gpus: int = 1,
        shares: int = 16,
        most: int | None = None,
        memory: Any = lambda gpu: (GB, 80 * GB),
        history: History | None = None,
        sharing: Sharing | None = None,
        on_event: Callable[[Story, Event], None] = lambda story, event: None,
        **fakes: Any,
    ) -> Story:
        settings = check_settings(compose_config(*SPACE, *overrides))
        space, clock, events = Space(settings.trial), FakeClock(), []
        places = [Slot(f"gpu{i}.0", 1, str(i)) for i in range(gpus)]

        def curve(values: dict[str, Any], epoch: int) -> float:
            return round(sum(float(v) for v in values.values()) / 1000 + epoch / 100, 6)

        fakes.setdefault("pace", rooms(gpu0=3, gpu1=1))
        workers = FakeWorkers(gpus, curve, clock, names=[place.name for place in places], history=history, **fakes)
        threaded = ThreadedSearch(lambda: choose.create_search(settings, space, [], []), InlineExecutor())

        def emit(event: Event) -> None:
            events.append(event)
            on_event(story, event)

        sharing = sharing or Sharing(places, shares=shares, most=most, memory=memory)
        listeners = [Calls(emit)]
        sweep = Sweep(
            settings, space, threaded, None, workers, folder=tmp_path, listeners=listeners, clock=clock,
            image=(28, 28, 1), sharing=sharing,
        )  # fmt: skip
        story = Story(sweep, workers, events)
        return story

    return told


def test_shares_are_opened_while_they_raise_the_throughput_and_the_last_one_is_closed(tell: Tell) -> None:
    story = tell()
    results = story.sweep.run()
    assert {o.status for o in results.outcomes.values()} == {Status.COMPLETED}
    opened, closed = story.of(SlotOpened), story.of(SlotClosed)
    assert [e.slot for e in opened] == ["gpu0.1", "gpu0.2", "gpu0.3"]
    assert [e.reason for e in opened] == [
        "gpu0 has trained one trial at a time so far",
        "gpu0 trains 2.00 times as fast with 2 trials in parallel as with 1",
        "gpu0 trains 1.50 times as fast with 3 trials in parallel as with 2",
    ]
    assert [e.reason for e in closed] == ["gpu0 trains 1.00 times as fast with 4 trials in parallel as with 3"]
    # It was not cut off, and the next shares continue for the rest of the sweep.
    assert len(story.shares()) == 3
    assert not story.of(AttemptFailed)
    late = [e.slot for e in story.of(TrialStarted) if e.time > closed[0].time]
    assert set(late) == set(story.shares())


def test_a_gpu_that_one_trial_fills_keeps_one_share(tell: Tell) -> None:
    story = tell(pace=rooms(gpu0=1))
    story.sweep.run()
    assert [kind for kind, _ in story.changes] == ["opened", "closed"]
    assert len(story.shares()) == 1


def test_each_gpu_is_judged_separately(tell: Tell) -> None:
    story = tell(gpus=2)
    story.sweep.run()
    assert [device(slot) for slot in story.shares()] == ["gpu0", "gpu0", "gpu0", "gpu1"]


def test_trials_of_different_sizes_do_not_distort_the_measurement(tell: Tell) -> None:
    def pace(values: dict[str, Any], gpu: str, trials: int) -> float:
        return values["model.units"] / 10 * max(1.0, trials / 3)

    story = tell("model.units=int(interval(5,100))", "search.max_trials=20", pace=pace)
    story.sweep.run()
    assert len(story.shares()) == 3


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_trials_of_few_epochs_are_measured(tell: Tell, epochs: int) -> None:
    def pace(values: dict[str, Any], gpu: str, trials: int) -> float:
        # Not all trials end at the same moment.
        return (1 + values["model.dropout"] / 10) * max(1.0, trials / 3)

    story = tell(f"training.epochs={epochs}", "search.max_trials=80", pace=pace)
    story.sweep.run()
    assert len(story.shares()) == 3


def test_different_short_trials_are_compared_by_their_mean(tell: Tell) -> None:
    story = tell("model.units=int(interval(1,500))", "training.epochs=3", "search.max_trials=60")
    story.sweep.run()
    assert len(story.shares()) == 3
    assert len(story.of(SlotClosed)) == 1


def test_a_share_that_is_closed_while_it_is_idle_gets_no_trial(tell: Tell) -> None:
    class Closes(Sharing):
        def surplus(self, idle: Collection[str]) -> list[tuple[str, str]]:
            ready = {"gpu0.0", "gpu1.0"} == set(story.sweep._attempts.idle)
            return [("gpu0.0", "it is not needed")] if ready else []

    story = tell(gpus=2, sharing=Closes())
    assert len(story.sweep.run().outcomes) == 12
    assert story.shares() == ["gpu1.0"]
    assert {e.slot for e in story.of(TrialStarted)} == {"gpu1.0"}


def test_the_metrics_do_not_depend_on_the_number_of_shares(tell: Tell) -> None:
    def told(story: Story) -> Any:
        return sorted((e.trial, e.epoch, *e.metrics.items()) for e in story.of(EpochEnded))

    shared, alone = tell(), tell(shares=1)
    outcomes = [story.sweep.run().outcomes for story in (shared, alone)]
    assert not alone.changes
    assert told(shared) == told(alone)
    scores = [{number: outcome.score for number, outcome in found.items()} for found in outcomes]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("total", "shares"), [(6, 1), (7, 2), (9, 2), (10, 3), (13, 3), (14, 4)])
def test_no_share_is_opened_that_may_not_fit_into_the_memory(tell: Tell, total: int, shares: int) -> None:
    story: Story

    def memory(gpu: str) -> tuple[int, int]:
        assert gpu == "0"
        return 3 * GB * len(story.workers.slots()), total * GB

    story = tell("search.max_trials=20", memory=memory, pace=rooms(gpu0=16))
    story.sweep.run()
    assert len(story.shares()) == shares


def test_no_share_is_opened_if_the_memory_is_unknown(tell: Tell) -> None:
    story = tell(memory=lambda gpu: None)
    story.sweep.run()
    assert not story.changes


@pytest.mark.parametrize(("trials", "most"), [(1, 1), (2, 2), (3, 2), (4, 3), (6, 4)])
def test_no_share_is_opened_without_a_trial_for_it(tell: Tell, trials: int, most: int) -> None:
    story = tell(f"search.max_trials={trials}", pace=rooms(gpu0=16))
    story.sweep.run()
    assert len(story.shares()) == most
    assert {e.slot for e in story.of(TrialStarted)} == set(story.shares())


@pytest.mark.parametrize(("bounds", "most"), [({"shares": 2}, 4), ({"most": 3}, 3), ({"most": 2}, 2)])
def test_the_number_of_shares_stays_within_its_limits(tell: Tell, bounds: dict[str, int], most: int) -> None:
    story = tell("search.max_trials=40", gpus=2, pace=rooms(gpu0=16, gpu1=16), **bounds)
    story.sweep.run()
    assert len(story.shares()) == most


class TestOutOfMemory:
    def test_of_a_trial_on_a_shared_gpu_closes_a_share_and_does_not_count_as_an_attempt(self, tell: Tell) -> None:
        story = tell("workers.retries=0", faults={(4, 1): NO_MEMORY, (4, 2): NO_MEMORY})
        results = story.sweep.run()
        assert results.outcomes[4].status is Status.COMPLETED
        assert [(e.trial, e.attempt) for e in story.of(AttemptFailed)] == [(4, 1), (4, 2)]
        assert [e.reason for e in story.of(SlotClosed)] == ["a trial ran out of memory while it shared the GPU"] * 2
        assert len(story.shares()) == len(story.of(SlotOpened)) - 1
        assert max(e.time for e in story.of(SlotOpened)) < story.of(SlotClosed)[0].time

    def test_of_a_trial_alone_on_its_gpu_counts_like_any_failure(self, tell: Tell) -> None:
        story = tell("workers.retries=0", faults={(0, 1): NO_MEMORY})
        assert story.sweep.run().outcomes[0] == NO_MEMORY
        assert len(story.shares()) == 3

    def test_fails_a_trial_that_also_runs_out_of_memory_alone(self, tell: Tell) -> None:
        story = tell(faults={(4, attempt): NO_MEMORY for attempt in range(1, 9)})
        results = story.sweep.run()
        assert results.outcomes[4] == NO_MEMORY
        assert len(story.shares()) == 1
        assert sum(o.status is Status.COMPLETED for o in results.outcomes.values()) == 11

    def test_another_kind_of_failure_closes_no_share(self, tell: Tell) -> None:
        bad = Outcome(Status.FAILED, "ValueError: out of range")
        story = tell("workers.retries=0", shares=3, faults={(4, 1): bad})
        assert story.sweep.run().outcomes[4] == bad
        assert [kind for kind, _ in story.changes] == ["opened", "opened"]


class TestALostSlot:
    def test_that_was_a_new_share_is_not_opened_again_and_the_others_continue(self, tell: Tell) -> None:
        story = tell(lost="gpu0.1")
        assert len(story.sweep.run().outcomes) == 12
        assert story.changes == [("opened", "gpu0.1"), ("lost", "gpu0.1")]

    def test_that_was_a_gpus_only_slot_does_not_affect_the_other_gpu(self, tell: Tell) -> None:
        story = tell(gpus=2, lost="gpu1.0")
        assert len(story.sweep.run().outcomes) == 12
        assert story.changes[0] == ("lost", "gpu1.0")
        assert [device(slot) for slot in story.sweep._attempts.slots] == ["gpu0"] * 3

    def test_that_was_the_last_one_ends_the_sweep(self, tell: Tell) -> None:
        story = tell(lost="gpu0.0")
        with pytest.raises(UserError, match=r"^workers: gpu0\.0 cannot start$"):
            story.sweep.run()


def test_a_share_whose_worker_died_is_measured_when_it_is_ready_again(tell: Tell) -> None:
    story = tell(faults={(1, 1): 0})
    results = story.sweep.run()
    assert results.outcomes[1].status is Status.COMPLETED
    assert len(story.shares()) == 3


def test_an_interruption_while_a_share_starts_ends_the_sweep(tell: Tell) -> None:
    def stop(story: Story, event: Event) -> None:
        if isinstance(event, SlotOpened):
            story.sweep.stop("stopped by Ctrl-C")

    story = tell(on_event=stop)
    assert story.sweep.run().outcomes == {}
    assert story.events[-1].status is Status.STOPPED  # type: ignore[attr-defined]


def test_a_killed_sweep_measures_again_and_ends_with_the_same_metrics(tell: Tell) -> None:
    def told(results: Any, events: list[Event]) -> Any:
        epochs = [(e.trial, e.epoch, *e.metrics.items()) for e in events if isinstance(e, EpochEnded)]
        assert len(epochs) == len(set(epochs)), "an epoch was reported twice"
        scores = {number: outcome.score for number, outcome in results.outcomes.items()}
        return sorted(epochs), results.trials, scores, sum(isinstance(e, TrialEnded) for e in events)

    whole = tell()
    expected = told(whole.sweep.run(), whole.events)
    changed = [i + 1 for i, e in enumerate(whole.events) if isinstance(e, SlotOpened | SlotClosed)]
    for cut in [*range(0, len(whole.events), 40), *changed]:
        past, history = whole.events[:cut], {}
        for event in past:
            if isinstance(event, EpochEnded):
                history.setdefault((event.trial, event.execution), {})[event.epoch] = event.metrics
        story = tell(history=history)
        story.sweep.replay(past)
        assert told(story.sweep.run(), past + story.events) == expected, f"cut after {cut} events"
        assert len(story.shares()) <= 4


class TestMeasured:
    """Event by event, on one GPU."""

    @pytest.fixture
    def sharing(self) -> Sharing:
        return Sharing([Slot("gpu0.0", 1, "0")], shares=8, memory=lambda gpu: (GB, 80 * GB))

    @staticmethod
    def start(sharing: Sharing, time: float, number: int, slot: str, batch_size: int = 32, **model: Any) -> None:
        training = {"batch_size": batch_size, "precision": "float32"}
        config = {"model": {"units": 16, **model}, "optimizer": {"name": "adam"}, "training": training}
        sharing.handle(TrialStarted(time, Trial(number, {}, config, 100), 1, slot))

    @staticmethod
    def epochs(sharing: Sharing, number: int, times: list[float]) -> None:
        for epoch, time in enumerate(times, start=1):
            sharing.handle(EpochEnded(time, number, 1, epoch, {}))

    def opened(self, sharing: Sharing, time: float) -> None:
        ((place, reason),) = sharing.wanted()
        sharing.handle(SlotOpened(time, place.name, reason))

    def test_the_first_epoch_is_ignored_as_the_trial_is_compiled(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [10, 11, 12])
        assert not sharing.wanted()
        self.epochs(sharing, 0, [13])
        ((place, _),) = sharing.wanted()
        assert place == Slot("gpu0.1", 1, "0")

    def test_the_first_epoch_of_a_later_trial_is_ignored(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [10])
        sharing.handle(TrialEnded(10, 0, Outcome(Status.COMPLETED)))
        self.start(sharing, 10, 1, "gpu0.0")
        self.epochs(sharing, 1, [20, 21, 22])
        assert not sharing.wanted()
        self.epochs(sharing, 1, [23])
        assert sharing.wanted()

    def test_a_share_is_opened_next_to_a_trial_that_was_measured(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [1, 2, 3])
        sharing.handle(TrialEnded(3, 0, Outcome(Status.COMPLETED)))
        self.start(sharing, 3, 1, "gpu0.0", units=512)
        self.epochs(sharing, 1, [10, 15])
        assert not sharing.wanted()
        self.epochs(sharing, 1, [20, 25])
        assert sharing.wanted()

    def test_short_epochs_are_measured_for_some_seconds(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
        assert not sharing.wanted()
        self.epochs(sharing, 0, [3.5])
        assert sharing.wanted()

    def test_no_share_is_opened_next_to_a_trial_that_is_about_to_end(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        sharing.handle(EpochEnded(1, 0, 1, 90, {}))
        for epoch in range(91, 100):
            sharing.handle(EpochEnded(epoch - 89, 0, 1, epoch, {}))
            assert not sharing.wanted()

    def test_a_little_of_the_same_work_outweighs_much_of_other_work(self, sharing: Sharing) -> None:
        for number in range(3):
            self.start(sharing, 10 * number, number, "gpu0.0", units=number)
            self.epochs(sharing, number, [10 * number + 5, 10 * number + 7, 10 * number + 9])
            sharing.handle(TrialEnded(10 * number + 10, number, Outcome(Status.COMPLETED)))
        self.opened(sharing, 30)
        for number in range(3, 9, 2):
            begin = 100 * number
            for trial, slot in ((number, "gpu0.0"), (number + 1, "gpu0.1")):
                self.start(sharing, begin, trial, slot, units=2 if trial == 7 else 100 + trial)
            for time in (1, 3, 5) if number == 7 else (10, 50, 90):
                self.epochs(sharing, number, [begin + time])
                self.epochs(sharing, number + 1, [begin + time])
            for trial in (number, number + 1):
                sharing.handle(TrialEnded(begin + 91, trial, Outcome(Status.COMPLETED)))
        ((_, reason),) = sharing.wanted()
        assert reason == "gpu0 trains 2.00 times as fast with 2 trials in parallel as with 1"

    def test_a_trial_that_ran_when_a_share_was_opened_may_lack_memory(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [1, 2, 3, 4])
        assert not sharing.excuses(0, NO_MEMORY.reason)
        self.opened(sharing, 5)
        assert sharing.excuses(0, NO_MEMORY.reason)
        assert sharing.excuses(0, "its worker was killed by SIGKILL (out of memory?)")
        assert sharing.excuses(0, "JaxRuntimeError: FAILED_PRECONDITION: DNN library initialization failed.")
        assert not sharing.excuses(0, "ValueError: out of range")

    def test_a_lost_gpu_gets_no_share(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [1, 2])
        sharing.handle(SlotLost(3, "gpu0.0", "cannot start"))
        sharing.handle(AttemptFailed(3, 0, 1, "its worker cannot start"))
        assert not sharing.wanted()

    def test_epochs_next_to_a_starting_share_are_ignored(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [1, 2, 3, 4])
        self.opened(sharing, 4)
        self.start(sharing, 4.5, 1, "gpu0.1")
        # As slow as can be, until the other has its first epoch behind it.
        self.epochs(sharing, 0, [9, 14, 19])
        self.epochs(sharing, 1, [20])
        self.epochs(sharing, 0, [21, 22, 23])
        assert not sharing.surplus({"gpu0.0"})
        assert not sharing.wanted()
        self.epochs(sharing, 0, [24, 25])
        ((_, reason),) = sharing.wanted()
        assert reason == "gpu0 trains 2.00 times as fast with 2 trials in parallel as with 1"

    def test_epochs_during_which_a_slot_was_idle_are_ignored(self, sharing: Sharing) -> None:
        self.start(sharing, 0, 0, "gpu0.0")
        self.epochs(sharing, 0, [1, 2, 3, 4])
        self.opened(sharing, 4)
        self.start(sharing, 4.5, 1, "gpu0.1")
        self.epochs(sharing, 1, [5])
        for number, time in zip(itertools.count(2), range(5, 60, 10), strict=False):
            # Half of the time the other slot has nothing to do.
            sharing.handle(TrialEnded(time + 5, number - 1, Outcome(Status.COMPLETED)))
            self.start(sharing, time + 10, number, "gpu0.1")
            self.epochs(sharing, 0, [time + 10])
        assert not sharing.surplus({"gpu0.1"})
        assert not sharing.wanted()

    @pytest.mark.parametrize(
        ("before", "after", "same"),
        [
            ({"dropout": 0.5}, {"dropout": 0.3}, True),
            ({"dropout": [0.5, 0.2]}, {"dropout": [0.3, 0.1]}, True),
            ({"dropout": 0.5}, {"dropout": 0.0}, False),
            ({"units": 16}, {"units": 512}, False),
            ({"batch_size": 32}, {"batch_size": 64}, False),
            ({"builder": "own:build", "width": 0.5}, {"builder": "own:build", "width": 1.5}, False),
        ],
    )
    def test_only_the_same_work_is_compared(
        self, sharing: Sharing, before: dict[str, Any], after: dict[str, Any], same: bool
    ) -> None:
        self.start(sharing, 0, 0, "gpu0.0", **before)
        self.epochs(sharing, 0, [1, 2, 3, 4])
        self.opened(sharing, 4)
        sharing.handle(TrialEnded(4, 0, Outcome(Status.COMPLETED)))
        for number, slot in ((1, "gpu0.0"), (2, "gpu0.1")):
            self.start(sharing, 5, number, slot, **after)
        for time in range(6, 14):
            for number in (1, 2):
                self.epochs(sharing, number, [time])
        assert bool(sharing.wanted()) is same
