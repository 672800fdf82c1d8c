"""The loop, on fake workers and a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes import Calls, FakeClock, FakeWorkers, InlineExecutor

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.packaging import Packaging
from mnist_sweep.journal.events import (
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotLost,
    SlotOpened,
    SweepEnded,
    SweepResumed,
    TrialAsked,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.search import choose
from mnist_sweep.search.base import Answer, Result, Search, Suggestion
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.search.stopping import Stopping
from mnist_sweep.workers.base import (
    Died,
    Done,
    Evaluate,
    Executed,
    MachineFailed,
    Package,
    Packaged,
    Ready,
    Reported,
    Train,
)

SPACE = ("model.units=choice(1,2,3,4,5,6,7,8)", "training.epochs=3")


def curve(values: dict[str, Any], epoch: int) -> float:
    return round(values.get("model.units", 5) / 10 + epoch / 100, 6)


def states(events: Sequence[Event]) -> dict[tuple[int, int], dict[int, dict[str, float]]]:
    """Returns what the states of the trials on the disk hold after these events."""
    found: dict[tuple[int, int], dict[int, dict[str, float]]] = {}
    for event in events:
        if isinstance(event, EpochEnded):
            found.setdefault((event.trial, event.execution), {})[event.epoch] = event.metrics
    return found


@dataclass
class Story:
    sweep: Sweep
    workers: FakeWorkers
    clock: FakeClock
    events: list[Event] = field(default_factory=list)
    packaging: Packaging | None = None

    def run(self) -> Ranking:
        return self.sweep.run()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def end(self) -> SweepEnded:
        assert isinstance(self.events[-1], SweepEnded)
        return self.events[-1]


Tell = Callable[..., Story]


@pytest.fixture
def tell(compose_config, tmp_path: Path) -> Tell:
    def told(
        *overrides: str,
        slots: int = 2,
        own: Search | None = None,
        stop: Stopping | None = None,
        enqueued: Sequence[Values] = (),
        on_event: Any = None,
        image: tuple[int, int, int] = (28, 28, 1),
        tests: bool = True,
        **fakes: Any,
    ) -> Story:
        # A CNN has no key model.units.
        own_space = SPACE[1:] if "model=cnn" in overrides else SPACE
        settings = check_settings(compose_config(*own_space, *overrides))
        space, clock, events = Space(settings.trial), FakeClock(), []
        workers = FakeWorkers(slots, curve, clock, objective=settings.objective.name, **fakes)
        given = {"enqueued": enqueued, "earlier": []}
        threaded = ThreadedSearch(lambda: own or choose.create_search(settings, space, **given), InlineExecutor())

        def emit(event: Event) -> None:
            events.append(event)
            if on_event:
                on_event(story, event)

        rule = stop or choose.create_stopping(settings)
        packaging = Packaging(workers, tmp_path / "package", clock)
        sweep = Sweep(
            settings, space, threaded, rule, workers, folder=tmp_path, listeners=[Calls(emit)], clock=clock,
            image=image, tests=tests,
            packaging=packaging if settings.tracking.register_winner else None,
        )  # fmt: skip
        story = Story(sweep, workers, clock, events, packaging)
        return story

    return told


def test_each_trial_is_asked_for_started_reported_and_ended_in_this_order(tell: Tell) -> None:
    story = tell("search=grid")
    results = story.run()
    assert len(results.outcomes) == 8
    for number in range(8):
        own = [
            type(e).__name__
            for e in story.events
            if (e.trial.number if isinstance(e, TrialStarted) else getattr(e, "trial", None)) == number
            and not isinstance(e, WinnerTested)
        ]
        assert own == ["TrialAsked", "TrialStarted", *["EpochEnded"] * 3, "TrialEnded"]
    assert [e.epoch for e in story.of(EpochEnded) if e.trial == 3] == [1, 2, 3]


def test_the_best_trial_wins_and_is_tested_once_at_the_end(tell: Tell) -> None:
    story = tell("search=grid")
    results = story.run()
    assert results.ranked() == [7, 6, 5, 4, 3, 2, 1, 0]
    tests = [task for _, task in story.workers.tasks if isinstance(task, Evaluate)]
    assert [Path(task.model).parent.name for task in tests] == ["0007"]
    assert isinstance(story.events[-2], WinnerTested)
    assert story.end == SweepEnded(story.clock(), Status.COMPLETED, "", 7)


@pytest.mark.parametrize("slots", [1, 2])
def test_the_winner_is_packaged_during_its_test_or_after_it(tell: Tell, slots: int) -> None:
    story = tell("search=grid", slots=slots)
    story.run()
    (one, test), (other, package) = story.workers.tasks[-2:]
    assert isinstance(test, Evaluate)
    assert isinstance(package, Package)
    assert (one == other) == (slots == 1)
    assert (package.trial, Path(package.to).name) == (str(Path(test.model).parent), "package")
    # Nobody has waited for it yet.
    before = story.clock()
    assert story.packaging.result() == Path(package.to)
    assert story.clock() > before


def test_a_model_that_is_not_to_be_tested_is_packaged(tell: Tell) -> None:
    story = tell("search=grid", tests=False)
    story.run()
    _, package = story.workers.tasks[-1]
    assert isinstance(package, Package)
    assert story.of(WinnerTested) == []
    assert story.end == SweepEnded(story.clock(), Status.COMPLETED, "", 7)
    assert story.packaging.result() == Path(package.to)


def test_a_package_that_is_ready_at_the_same_time_as_the_test_is_not_lost(tell: Tell) -> None:
    story = tell("search=grid", package_seconds=1.0)
    story.run()
    ended = story.clock()
    assert story.packaging.result() is not None
    assert story.clock() == ended


@pytest.mark.parametrize(
    "said",
    [lambda slot: Packaged(slot, "OSError: full"), lambda slot: Died(slot, "was killed by SIGKILL"), Ready],
    ids=["fails", "dies", "no answer"],
)
def test_a_winner_that_no_worker_can_package_is_left_to_another_process(tell: Tell, said) -> None:
    story = tell("search=grid", packaged=said)
    assert story.run().winner() == 7
    assert story.end.status is Status.COMPLETED
    assert story.packaging.result() is None


def test_a_winner_that_is_not_registered_or_cannot_be_tested_is_not_packaged(tell: Tell) -> None:
    for story in (tell("search=grid", "tracking.register=false"), tell("search=grid", slots=1, test_error="OSError")):
        story.run()
        assert not [task for _, task in story.workers.tasks if isinstance(task, Package)]
        assert story.packaging.result() is None


def test_the_earlier_of_two_equal_trials_wins(tell: Tell) -> None:
    story = tell("search=grid", "model.units=1", "model.dropout=choice(0,0.1,0.2)")
    assert story.run().winner() == 0


def test_a_smaller_loss_is_better(tell: Tell) -> None:
    story = tell("search=grid", "objective=val_loss min")
    assert story.run().ranked()[0] == 0


def test_all_slots_are_kept_busy(tell: Tell) -> None:
    story = tell("search=grid", slots=4)
    started = story.clock()
    story.run()
    assert story.workers.most_busy == 4
    # Five seconds to start, two rounds of three epochs, a second for the test, and the loop's own polling.
    assert story.clock() - started < 5 + 2 * 3 + 1 + 3


def test_max_trials_counts_suggestions(tell: Tell) -> None:
    story = tell("search.max_trials=3")
    assert len(story.run().outcomes) == 3
    assert len(story.of(TrialAsked)) == 3


def test_a_config_without_sweeps_is_one_trial(tell: Tell) -> None:
    story = tell("model.units=5")
    results = story.run()
    assert [t.values for t in results.trials.values()] == [{}]


def test_the_time_budget_ends_running_trials_at_their_next_epoch_and_keeps_their_scores(tell: Tell) -> None:
    story = tell("search.time_budget=10s", "search.max_trials=null", "training.epochs=100")
    results = story.run()
    assert {o.status for o in results.outcomes.values()} == {Status.STOPPED}
    assert all(o.score is not None and "time budget of 10s" in o.reason for o in results.outcomes.values())
    assert len(results.outcomes) == 2
    assert story.end.status is Status.COMPLETED
    assert story.end.reason == "the time budget of 10s is used up"
    assert story.clock() - story.events[0].time < 15


def test_a_time_budget_too_short_for_an_epoch_fails_the_sweep(tell: Tell) -> None:
    story = tell("search.time_budget=1s")
    assert story.run().winner() is None
    assert story.end == SweepEnded(story.clock(), Status.FAILED, "the time budget of 1s is used up", None)


def test_reaching_the_target_ends_the_sweep(tell: Tell) -> None:
    story = tell("search=grid", "search.target=0.42", slots=1)
    results = story.run()
    assert len(results.outcomes) == 4
    assert story.end.reason == "val_accuracy reached the target 0.42"
    assert story.end.winner == 3


def test_the_mean_of_several_executions_counts_for_the_target(tell: Tell) -> None:
    # Trial 1 reaches 0.24 in its second execution, trial 2 on the mean of both.
    story = tell(
        "search=grid", "repeats=2", "search.target=0.24", slots=1, spread=lambda execution: 0.01 * (execution.seed - 1)
    )
    results = story.run()
    assert [len(outcome.scores) for outcome in results.outcomes.values()] == [2, 2, 2]
    assert results.outcomes[1].scores == pytest.approx([0.23, 0.24])
    assert story.end.reason == "val_accuracy reached the target 0.24"


class TestWhenAWorkerDies:
    def test_its_trial_is_retried_and_the_sweep_continues(self, tell: Tell) -> None:
        story = tell("search=grid", faults={(2, 1): 1})
        results = story.run()
        assert len(results.outcomes) == 8
        assert results.outcomes[2].status is Status.COMPLETED
        (failed,) = story.of(AttemptFailed)
        assert (failed.trial, failed.attempt, failed.reason) == (2, 1, "its worker was killed by SIGKILL")
        assert [e.attempt for e in story.of(TrialStarted) if e.trial.number == 2] == [1, 2]

    def test_twice_in_one_trial_the_trial_fails_with_the_reason(self, tell: Tell) -> None:
        story = tell("search=grid", faults={(2, 1): 1, (2, 2): 0})
        results = story.run()
        assert results.outcomes[2] == Outcome(Status.FAILED, "its worker was killed by SIGKILL")
        assert sum(o.status is Status.COMPLETED for o in results.outcomes.values()) == 7

    def test_its_trial_fails_at_once_without_retries(self, tell: Tell) -> None:
        story = tell("search=grid", "workers.retries=0", faults={(2, 1): 1})
        assert story.run().outcomes[2].status is Status.FAILED
        assert story.workers.attempts[2] == 1

    def test_during_the_test_of_the_winner_the_test_is_retried(self, tell: Tell) -> None:
        story = tell("search=grid", test_deaths=1)
        story.run()
        assert len(story.of(WinnerTested)) == 1

    def test_during_every_test_of_the_winner_that_is_reported(self, tell: Tell) -> None:
        story = tell("search=grid", test_deaths=2)
        story.run()
        (tested,) = story.of(WinnerTested)
        assert (tested.trial, tested.error) == (7, "its worker was killed by SIGKILL")
        assert story.end.status is Status.COMPLETED

    def test_and_cannot_be_replaced_the_other_slots_train_its_trials(self, tell: Tell) -> None:
        story = tell("search=grid", lost="cpu1")
        assert len(story.run().outcomes) == 8
        assert [(e.slot, e.reason) for e in story.of(SlotLost)] == [("cpu1", "cannot start")]

    def test_and_no_slot_is_left_the_sweep_ends_with_the_cause(self, tell: Tell) -> None:
        story = tell("search=grid", slots=1, lost="cpu0")
        with pytest.raises(UserError, match=r"^workers: cpu0 cannot start$"):
            story.run()
        assert story.end.reason == "workers: cpu0 cannot start"


class TestNodes:
    def test_the_trials_of_a_lost_node_continue_elsewhere_which_is_not_their_failure(self, tell: Tell) -> None:
        def lose(story: Story, event: Event) -> None:
            if isinstance(event, EpochEnded) and "cpu0@b" in story.workers.names:
                story.workers.lose("b")

        story = tell("search=grid", "workers.retries=0", names=["cpu0@a", "cpu0@b"], on_event=lose)
        results = story.run()
        assert [outcome.status for outcome in results.outcomes.values()] == 8 * [Status.COMPLETED]
        assert [(e.slot, e.reason) for e in story.of(SlotLost)] == [("cpu0@b", "was lost")]
        assert [e.reason for e in story.of(AttemptFailed)] == ["its worker was lost"]

    def test_a_trial_that_loses_node_after_node_before_its_first_epoch_fails(self, tell: Tell) -> None:
        names, faults = [f"cpu0@{name}" for name in "abcdefg"], {(0, attempt): "lose" for attempt in range(1, 6)}
        results = tell("search=grid", "workers.retries=0", names=names, faults=faults).run()
        assert results.outcomes[0].status is Status.FAILED
        assert sum(outcome.status is Status.COMPLETED for outcome in results.outcomes.values()) == 7

    def test_without_a_slot_the_sweep_stops_and_can_be_resumed(self, tell: Tell) -> None:
        story = self.story_of_a_lost_node(tell)
        with pytest.raises(MachineError, match=r"^workers: cpu0@a was lost; no slot is left$"):
            story.run()
        assert story.end.status is Status.STOPPED

    def test_a_node_that_joins_in_time_continues_the_sweep(self, tell: Tell) -> None:
        story = self.story_of_a_lost_node(tell, "workers.wait=10m", joins=500.0)
        assert len(story.run().outcomes) == 8
        assert [e.slot for e in story.of(SlotOpened)] == ["cpu0@b"]

    def test_a_node_that_joins_too_late_is_not_waited_for(self, tell: Tell) -> None:
        story = self.story_of_a_lost_node(tell, "workers.wait=10m", joins=700.0)
        with pytest.raises(MachineError, match=r"no node has joined within 10m \(workers.wait\)$"):
            story.run()

    def story_of_a_lost_node(self, tell: Tell, *overrides: str, joins: float | None = None) -> Story:
        def lose(story: Story, event: Event) -> None:
            if isinstance(event, EpochEnded) and "cpu0@a" in story.workers.names:
                story.workers.lose("a")
                if joins is not None:
                    story.workers.join("cpu0@b", joins)

        return tell("search=grid", "workers=ray", *overrides, names=["cpu0@a"], on_event=lose)

    def test_a_node_on_which_trials_fail_at_once_rests(self, tell: Tell) -> None:
        names = ["cpu0@a", "cpu0@b", "cpu1@b"]
        story = tell("search=grid", names=names, broken="b", epoch_seconds=5.0)
        assert all(outcome.status is Status.COMPLETED for outcome in story.run().outcomes.values())
        # It is tried again from time to time.
        assert 2 <= sum(e.slot.endswith("@b") for e in story.of(TrialStarted)) <= 4


def test_a_failed_trial_is_reported_and_never_wins(tell: Tell) -> None:
    nan = Outcome(Status.FAILED, "the loss became nan in epoch 1")
    story = tell("search=grid", faults={(7, 1): nan, (7, 2): nan})
    results = story.run()
    assert results.winner() == 6
    assert results.outcomes[7] == nan
    assert [(e.trial, e.attempt, e.reason) for e in story.of(AttemptFailed)] == [(7, 1, nan.reason)]


def test_if_every_trial_fails_nothing_is_tested_and_the_sweep_has_failed(tell: Tell) -> None:
    bad = Outcome(Status.FAILED, "bad builder")
    story = tell("search=grid", "search.max_failures=null", faults={(n, a): bad for n in range(8) for a in (1, 2)})
    assert story.run().winner() is None
    assert len(story.of(TrialEnded)) == 8
    assert story.end.status is Status.FAILED
    assert not [task for _, task in story.workers.tasks if isinstance(task, Evaluate)]


def test_a_model_that_cannot_be_tested_is_reported_and_loses_no_trial(tell: Tell) -> None:
    story = tell("search=grid", test_error="OSError: no such file")
    story.run()
    (tested,) = story.of(WinnerTested)
    assert (tested.trial, tested.error, tested.metrics) == (7, "OSError: no such file", {})
    assert len([task for _, task in story.workers.tasks if isinstance(task, Evaluate)]) == 2
    assert len(story.of(TrialEnded)) == 8
    assert story.end.status is Status.COMPLETED


def test_too_many_failures_in_a_row_end_the_sweep_with_their_common_cause(tell: Tell) -> None:
    bad = Outcome(Status.FAILED, "bad builder")
    story = tell("search=grid", slots=1, faults={(n, a): bad for n in range(2, 8) for a in (1, 2)})
    results = story.run()
    assert sorted(results.outcomes) == list(range(7))
    assert story.end.status is Status.FAILED
    assert story.end.reason == "5 trials in a row failed (search.max_failures=5): bad builder"
    assert story.end.winner == 1


def test_a_retry_runs_on_another_slot(tell: Tell) -> None:
    story = tell("search=grid", faults={(2, 1): 1})
    story.run()
    first, second = [e.slot for e in story.of(TrialStarted) if e.trial.number == 2]
    assert first != second


def test_a_retry_avoids_all_shares_of_the_same_gpu(tell: Tell) -> None:
    story = tell("search=grid", names=["gpu0.0", "gpu0.1", "gpu1.0", "gpu1.1"], faults={(0, 1): 1})
    story.run()
    first, second = [e.slot for e in story.of(TrialStarted) if e.trial.number == 0]
    assert (first, second) == ("gpu0.0", "gpu1.0")


def test_a_retry_runs_on_the_same_gpu_if_there_is_no_other(tell: Tell) -> None:
    story = tell("search=grid", names=["gpu0.0", "gpu0.1"], faults={(7, 1): 1})
    assert story.run().outcomes[7].status is Status.COMPLETED


def test_a_worker_that_gives_no_sign_of_life_is_replaced(tell: Tell) -> None:
    story = tell("search=grid", "workers.timeout=60s", faults={(3, 1): "hang"})
    results = story.run()
    assert results.outcomes[3].status is Status.COMPLETED
    (failed,) = story.of(AttemptFailed)
    assert failed.reason == "its worker did not respond for 60s (workers.timeout)"


def test_a_test_of_the_winner_that_gives_no_sign_of_life_is_retried(tell: Tell) -> None:
    story = tell("search=grid", "workers.timeout=60s", test_hangs=1)
    story.run()
    (tested,) = story.of(WinnerTested)
    assert (tested.error, tested.metrics["test_accuracy"]) == ("", 0.9)
    story = tell("search=grid", "workers.timeout=60s", "workers.retries=0", test_hangs=1)
    story.run()
    (tested,) = story.of(WinnerTested)
    assert tested.error == "its worker did not respond for 60s (workers.timeout)"


def test_silence_while_the_driver_itself_was_stopped_does_not_count(tell: Tell) -> None:
    def stopped_for_two_hours(story: Story, event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.trial, event.epoch) == (2, 1):
            story.clock.now += 7200

    story = tell("search=grid", "workers.timeout=60s", on_event=stopped_for_two_hours)
    results = story.run()
    assert story.of(AttemptFailed) == []
    assert [outcome.status for outcome in results.outcomes.values()] == [Status.COMPLETED] * 8


class TestWhenTheMachineFails:
    FULL = MachineFailed("", "the disk is full (model.h5)")

    def test_the_sweep_stops_without_a_failed_trial(self, tell: Tell) -> None:
        story = tell("search=grid", "search.max_failures=1", "workers.retries=0", faults={(3, 1): self.FULL})
        with pytest.raises(MachineError, match=r"the disk is full \(model.h5\)"):
            story.run()
        assert story.end == SweepEnded(story.clock(), Status.STOPPED, self.FULL.reason, 1)
        assert story.of(AttemptFailed) == []
        assert {event.outcome.status for event in story.of(TrialEnded)} == {Status.COMPLETED}

    def test_the_sweep_can_be_resumed_as_if_nothing_had_happened(self, tell: Tell) -> None:
        whole = tell("search=grid").run()
        broken = tell("search=grid", faults={(3, 1): self.FULL})
        with pytest.raises(MachineError):
            broken.run()
        resumed = tell("search=grid", history=states(broken.events))
        resumed.sweep.replay(broken.events)
        results = resumed.run()
        assert results.ranked() == whole.ranked()
        assert {n: results.scores(n) for n in results.outcomes} == {n: whole.scores(n) for n in whole.outcomes}

    def test_during_the_test_of_the_winner_the_resumed_sweep_tests_it(self, tell: Tell) -> None:
        story = tell("search=grid", test_error=self.FULL)
        with pytest.raises(MachineError, match="the disk is full"):
            story.run()
        assert story.of(WinnerTested) == []
        assert story.end.status is Status.STOPPED

    def test_a_journal_that_cannot_be_written_is_the_error_that_is_raised(self, tell: Tell) -> None:
        def full(story: Story, event: Event) -> None:
            if isinstance(event, SweepEnded) or (isinstance(event, EpochEnded) and event.trial == 2):
                story.events.pop()
                raise MachineError("journal.jsonl: cannot be written (No space left on device)")

        story = tell("search=grid", on_event=full)
        with pytest.raises(MachineError, match="No space left on device"):
            story.run()
        assert not isinstance(story.events[-1], SweepEnded)


def test_messages_of_a_slot_without_a_trial_are_dropped(tell: Tell) -> None:
    said = [
        *(
            Reported("cpu0", 7, 1, {"loss": 1.0, "val_accuracy": 1.0}),
            Executed("cpu0", 7, 1, Outcome(Status.COMPLETED)),
        ),
        Done("cpu0", 7, Outcome(Status.COMPLETED, score=1.0)),
    ]
    story = tell("search=grid")
    poll = story.workers.poll
    story.workers.poll = lambda timeout: [*[said.pop(0) for _ in said[:1]], *poll(timeout)]
    assert len(story.run().outcomes) == 8
    assert not said


def test_stop_lets_the_running_epochs_end_and_leaves_the_trials_to_be_resumed(tell: Tell) -> None:
    def stop_at_trial_2(story: Story, event: Event) -> None:
        if isinstance(event, EpochEnded) and event.trial == 2 and event.epoch == 1:
            story.sweep.stop("stopped by Ctrl-C")

    story = tell("search=grid", "training.epochs=20", on_event=stop_at_trial_2)
    results = story.run()
    assert sorted(results.trials) == [0, 1, 2, 3]
    assert sorted(results.outcomes) == [0, 1]
    assert story.end == SweepEnded(story.clock(), Status.STOPPED, "stopped by Ctrl-C", 1)
    assert not story.of(WinnerTested)


def test_an_immediate_interruption_records_nothing_else(tell: Tell) -> None:
    story = tell("search=grid", "training.epochs=50")
    story.workers.interrupt_at = story.clock() + 12
    with pytest.raises(KeyboardInterrupt):
        story.run()
    assert story.of(TrialEnded) == []
    assert story.end == SweepEnded(story.clock(), Status.STOPPED, "interrupted", None)


def test_an_exception_of_the_search_ends_the_sweep_and_is_recorded(tell: Tell) -> None:
    class Broken(Search):
        def ask(self, number: int) -> Suggestion:
            raise UserError("search=broken: no idea")

        def tell(self, number: int, result: Result) -> None: ...

    story = tell(own=Broken())
    with pytest.raises(UserError, match="no idea"):
        story.run()
    assert story.end.reason == "search=broken: no idea"


class Scripted(Search):
    """Pauses while a trial runs."""

    def __init__(self, forever: bool = False) -> None:
        self.open: set[int] = set()
        self.told: list[tuple[int, Result]] = []
        self.forever = forever

    def ask(self, number: int) -> Suggestion | Answer:
        if self.open or (self.forever and number == 2):
            return Answer.PAUSE
        if number == 4:
            return Answer.FINISHED
        self.open.add(number)
        return Suggestion({"model.units": number + 1})

    def tell(self, number: int, result: Result) -> None:
        self.told.append((number, result))
        self.open.discard(number)


class Hopeless(Stopping):
    """Stops trial 1 at its second epoch."""

    def report(self, number: int, epoch: int, score: float) -> str:
        return "hopeless" if (number, epoch) == (1, 2) else ""


def test_a_paused_search_is_asked_again_when_a_trial_has_ended(tell: Tell) -> None:
    own = Scripted()
    story = tell(own=own, slots=3)
    assert len(story.run().outcomes) == 4
    assert own.told[0] == (0, Result((0.13,), epoch=3))
    assert story.workers.most_busy == 1


def test_a_pause_without_a_running_trial_ends_the_search(tell: Tell) -> None:
    story = tell(own=Scripted(forever=True), slots=3)
    assert len(story.run().outcomes) == 2


def test_a_stopping_rule_ends_a_trial_at_the_epoch_that_it_judged(tell: Tell) -> None:
    own = Scripted()
    story = tell("training.epochs=30", own=own, stop=Hopeless())
    results = story.run()
    assert (results.outcomes[1].status, results.outcomes[1].reason) == (Status.STOPPED, "hopeless")
    assert results.outcomes[0].status is Status.COMPLETED
    assert [e.epoch for e in story.of(EpochEnded) if e.trial == 1] == [1, 2]
    # Its score counts: it was reached by epochs that were trained.
    assert dict(own.told)[1] == Result((curve({"model.units": 2}, 2),), epoch=2, cut=True)


def test_a_trial_that_was_stopped_early_is_not_trained_further_after_its_worker_died(tell: Tell) -> None:
    story = tell("training.epochs=30", own=Scripted(), stop=Hopeless(), faults={(1, 1): 2})
    results = story.run()
    assert (results.outcomes[1].status, results.outcomes[1].reason) == (Status.STOPPED, "hopeless")
    assert [e.epoch for e in story.of(EpochEnded) if e.trial == 1] == [1, 2]


def test_enqueued_values_come_first(tell: Tell) -> None:
    story = tell("search=random", "search.max_trials=4", enqueued=[{"model.units": 7}, {"model.units": 3}])
    trials = story.run().trials
    assert [trials[n].values["model.units"] for n in (0, 1)] == [7, 3]
    assert len({t.values["model.units"] for t in trials.values()}) == 4


class TestSeveralExecutions:
    @staticmethod
    def spread(execution: Execution) -> float:
        return 0.001 * (execution.seed % 3)

    def test_the_score_is_the_mean_of_the_executions(self, tell: Tell) -> None:
        story = tell("search=grid", "model.units=choice(1,2)", "repeats=3", "seed=3", spread=self.spread)
        results = story.run()
        assert results.outcomes[1].scores == pytest.approx([0.23, 0.231, 0.232])
        assert results.outcomes[1].score == pytest.approx(0.231)
        ends = [(e.execution, e.outcome.score) for e in story.of(ExecutionEnded) if e.trial == 1]
        assert ends == [(1, pytest.approx(0.23)), (2, pytest.approx(0.231)), (3, pytest.approx(0.232))]
        assert [(e.execution, e.epoch) for e in story.of(EpochEnded) if e.trial == 0] == [
            (execution, epoch) for execution in (1, 2, 3) for epoch in (1, 2, 3)
        ]

    def test_the_others_are_skipped_if_the_first_is_hopeless(self, tell: Tell) -> None:
        settings = [{"model.units": n} for n in (8, 7, 6, 1, 5)]
        story = tell(
            "search=random", "search.max_trials=5", "repeats=3", enqueued=settings, slots=1, spread=self.spread
        )
        results = story.run()
        assert [len(results.outcomes[n].scores) for n in range(5)] == [3, 3, 3, 1, 1]
        assert results.outcomes[3].status is Status.STOPPED
        assert results.outcomes[3].reason == "its first training is too far behind the best"

    def test_there_is_one_execution_for_each_fold(self, tell: Tell) -> None:
        story = tell("search=grid", "model.units=2", "validation=kfold", "folds=4", "seed=9")
        story.run()
        (task,) = [task for _, task in story.workers.tasks if isinstance(task, Train)]
        assert task.trial.executions == [Execution(9, fold, 4) for fold in (1, 2, 3, 4)]


class TestConfirmed:
    def test_the_best_are_retrained_on_the_same_seeds_before_the_winner_is_tested(self, tell: Tell) -> None:
        story = tell("search=grid", "confirm={top: 2, seeds: 3}", "seed=5")
        results = story.run()
        anew = {n: t for n, t in results.trials.items() if t.confirms is not None}
        assert list(anew) == list(range(8, 14))
        assert [(t.confirms, t.config["training"]["seed"]) for t in anew.values()] == [
            (trial, 1005 + i) for i in range(3) for trial in (7, 6)
        ]
        (confirmed,) = story.of(Confirmed)
        assert confirmed.winner == 7
        (tested,) = story.of(WinnerTested)
        assert tested.trial == confirmed.model == 8
        assert story.end.winner == 7
        assert [type(e).__name__ for e in story.events[-3:]] == ["Confirmed", "WinnerTested", "SweepEnded"]

    def test_retraining_ignores_a_time_budget_that_is_used_up(self, tell: Tell) -> None:
        story = tell("search=grid", "confirm={top: 1, seeds: 2}", "search.time_budget=11s")
        results = story.run()
        assert story.end.reason == "the time budget of 11s is used up"
        anew = [results.outcomes[n] for n, t in results.trials.items() if t.confirms is not None]
        assert [(o.status, o.best_epoch) for o in anew] == [(Status.COMPLETED, 3)] * 2

    def test_retraining_trains_all_folds_even_if_the_first_is_bad(self, tell: Tell) -> None:
        def second_is_bad(execution: Execution) -> float:
            return -0.5 if execution.seed > 1000 and execution.fold == 1 else 0.001 * (execution.fold or 0)

        story = tell(
            "search=grid", "validation=kfold", "folds=3", "confirm={top: 2, seeds: 2}", slots=1, spread=second_is_bad
        )
        results = story.run()
        assert {len(results.outcomes[n].scores) for n, t in results.trials.items() if t.confirms is not None} == {3}

    def test_trials_that_differ_in_their_seed_only_are_retrained_once(self, tell: Tell) -> None:
        story = tell(
            "search=grid", "model.units=choice(1,2,3)", "training.seed=choice(4,5)", "confirm={top: 2, seeds: 2}"
        )
        results = story.run()
        anew = [t for t in results.trials.values() if t.confirms is not None]
        assert [(t.values["model.units"], t.config["training"]["seed"]) for t in anew] == [
            (3, 1004), (2, 1004), (3, 1005), (2, 1005),
        ]  # fmt: skip
        assert all(t.values["training.seed"] == t.config["training"]["seed"] for t in anew)

    def test_retraining_does_not_use_the_time_budget(self, tell: Tell) -> None:
        budget = ("search=grid", "confirm={top: 2, seeds: 4}")
        short = tell(*budget, "search.time_budget=11s")
        searched = len([n for n, t in short.run().trials.items() if t.confirms is None])
        assert short.clock() - short.events[0].time > 14
        past = [SweepResumed(short.events[0].time, {}), *short.events]
        longer = tell(*budget, "search.time_budget=14s", history=states(past))
        longer.sweep.replay(past)
        assert len([n for n, t in longer.run().trials.items() if t.confirms is None]) > searched

    def test_retrainings_that_fail_are_retried_and_then_left_out(self, tell: Tell) -> None:
        bad = Outcome(Status.FAILED, "bad")
        story = tell("search=grid", "confirm={top: 2, seeds: 2}", faults={(8, 1): 1, (9, 1): bad, (9, 2): bad})
        story.run()
        (confirmed,) = story.of(Confirmed)
        assert {row["trial"]: len(row["scores"]) for row in confirmed.candidates} == {7: 2, 6: 1}


@pytest.mark.parametrize("budget", [("search=grid",), ("search=random", "search.max_trials=40")])
@pytest.mark.parametrize("cut", [9, 30, None])
def test_in_a_larger_space_only_what_is_new_is_trained(tell: Tell, budget: tuple[str, ...], cut: int | None) -> None:
    small = tell(*budget, "model.units=choice(2,4,6)")
    small.run()
    past = [SweepResumed(small.events[0].time, {}), *small.events[:cut]]
    larger = tell(*budget, "model.units=choice(1,2,3,4,5,6,7)", history=states(past))
    larger.sweep.replay(past, grown=True)
    before = len(small.sweep.results.trials) if cut is None else len(larger.sweep.results.trials)
    larger.sweep.emit(SweepResumed(larger.clock(), {}, {}, {"model.units": "choice(1, 2, 3, 4, 5, 6, 7)"}))
    killed = len(past) + len(larger.events)
    larger.run()
    assert sorted(t.values["model.units"] for t in larger.sweep.results.trials.values()) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(larger.sweep.results.trials) == list(range(7))
    assert len({event.trial.number for event in larger.of(TrialStarted)} - set(range(before))) == 7 - before
    # Killed again, it goes the same way.
    events = [*past, *larger.events][: killed + 8]
    again = tell(*budget, "model.units=choice(1,2,3,4,5,6,7)", history=states(events))
    again.sweep.replay(events)
    again.run()
    assert {n: t.values for n, t in again.sweep.results.trials.items()} == {
        n: t.values for n, t in larger.sweep.results.trials.items()
    }


class TestRefused:
    @staticmethod
    def weights(values: dict[str, Any]) -> int:
        return values["model.units"] * 100

    def test_refused_trials_do_not_count_in_the_budget(self, tell: Tell) -> None:
        story = tell("search=grid", "search.max_trials=3", "limits.parameters=650", parameters=self.weights, slots=1)
        results = story.run()
        assert [o.status for o in results.outcomes.values()] == [Status.COMPLETED] * 3
        story = tell(
            "search=random",
            "search.max_trials=3",
            "limits.parameters=650",
            enqueued=[{"model.units": 8}, {"model.units": 7}],
            parameters=self.weights,
            slots=1,
        )
        results = story.run()
        assert [results.outcomes[n].status for n in (0, 1)] == [Status.REFUSED] * 2
        assert sum(o.status is Status.COMPLETED for o in results.outcomes.values()) == 3
        assert "limits.parameters" in results.outcomes[0].reason

    def test_a_space_in_which_every_trial_is_refused_ends(self, tell: Tell) -> None:
        story = tell(
            "model.units=int(interval(1,1000))",
            "search.max_trials=3",
            "limits.parameters=50",
            parameters=self.weights,
        )
        story.run()
        assert story.end.status is Status.FAILED
        assert "200 trials in a row were refused" in story.end.reason


UNBUILT = Outcome(Status.REFUSED, "model.builder=a:b: raised ValueError: layer_1 is too small", seconds=0.5)
# With images of 28 pixels, the fourth pooling gets none.
CORNERS = ("model=cnn", "model.filters=4", "model.pooling.after=all", "model.layers=range(1,5)")


class TestAFailureThatWouldComeAgain:
    def test_is_not_retried_and_the_trial_counts(self, tell: Tell) -> None:
        nan = Outcome(Status.FAILED, "the loss became nan in epoch 1")
        story = tell("search.max_trials=3", faults={(1, 1): Done("", 1, nan, lasting=True)})
        results = story.run()
        assert story.of(AttemptFailed) == []
        assert [results.outcomes[n].status for n in sorted(results.outcomes)] == ["completed", "failed", "completed"]

    def test_before_training_costs_no_trial_and_the_search_is_told(self, tell: Tell) -> None:
        search = Scripted()
        story = tell(own=search, faults={(1, 1): Done("", 1, UNBUILT, "the log", lasting=True)})
        story.run()
        assert dict(search.told)[1] == Result(None, refused=True)
        assert [event.log for event in story.of(TrialEnded) if event.trial == 1] == ["the log"]
        story = tell("search.max_trials=3", faults={(n, 1): Done("", n, UNBUILT, lasting=True) for n in (0, 1)})
        assert [o.status for _, o in sorted(story.run().outcomes.items())] == ["refused"] * 2 + ["completed"] * 3

    def test_of_every_configuration_ends_the_sweep_with_the_reason(self, tell: Tell) -> None:
        faults = {(n, 1): UNBUILT for n in range(1000)}
        story = tell("model.units=int(interval(1,1000))", "search.max_trials=null", faults=faults)
        assert story.run().winner() is None
        assert story.end.status is Status.FAILED
        assert story.end.reason == f"20 trials in a row were refused: {UNBUILT.reason}"

    def test_of_every_value_of_the_slowest_hyperparameter_so_far_does_not(self, tell: Tell) -> None:
        # The grid tries all 100 rates with the first number of units, of which none can be built.
        rates = ",".join(str(n / 1000) for n in range(1, 101))
        changes = ("model.units=1,2", f"optimizer.learning_rate={rates}", "search.max_trials=3", "search=grid")
        story = tell(*changes, faults={(n, 1): UNBUILT for n in range(100)})
        assert [n for n, o in story.run().outcomes.items() if o.status is Status.COMPLETED] == [100, 101, 102]
        assert story.end.status is Status.COMPLETED

    def test_of_all_that_is_left_ends_the_search_and_keeps_its_results(self, tell: Tell) -> None:
        faults = {(n, 1): UNBUILT for n in range(2, 1000)}
        story = tell("model.units=int(interval(1,1000))", "search.max_trials=null", faults=faults)
        assert story.run().winner() in (0, 1)
        assert (story.end.status, story.end.reason) == (
            Status.COMPLETED,
            f"200 trials in a row were refused: {UNBUILT.reason}",
        )


class TestImpossibleCorners:
    def test_are_refused_without_a_worker(self, tell: Tell) -> None:
        story = tell(*CORNERS, "search=grid")
        results = story.run()
        assert [o.status for _, o in sorted(results.outcomes.items())] == ["completed"] * 3 + ["refused"]
        assert results.outcomes[3].reason.startswith("model.kernel_size=3: convolution layer 4 gets images of only 1")
        assert len([task for _, task in story.workers.tasks if isinstance(task, Train)]) == 3
        assert story.end.status is Status.COMPLETED

    @pytest.mark.parametrize("values", ["[2,1]", "[1,2]"])
    def test_cost_no_trial(self, tell: Tell, values: str) -> None:
        story = tell(
            "model.layers=choice(2,3)", f"model.units={values}", "model.dropout=0.1,0.2", "search.max_trials=2"
        )
        outcomes = story.run().outcomes.values()
        assert sum(outcome.status is Status.COMPLETED for outcome in outcomes) == 2

    def test_without_any_other_end_the_sweep(self, tell: Tell) -> None:
        story = tell(*CORNERS, "search=grid", image=(2, 2, 1))
        assert story.run().winner() is None
        assert story.end.reason == "no trial has a result"


def test_a_trial_that_diverged_is_ranked_and_not_continued(tell: Tell) -> None:
    reason = "diverged after epoch 2: the loss became nan in epoch 3; best epoch 1 kept"
    diverged = Outcome(Status.DIVERGED, reason, 0.9, 1, {"val_accuracy": 0.9}, 7)
    search = Scripted()
    story = tell(own=search, faults={(1, 1): diverged})
    results = story.run()
    assert (results.winner(), story.of(AttemptFailed)) == (1, [])
    assert dict(search.told)[1] == Result((0.9,), whole=False, diverged=True)


def test_hyperband_trials_continue_from_the_state_of_their_parent(tell: Tell) -> None:
    story = tell("search=hyperband", "training.epochs=9", "model.units=int(interval(1,500))")
    story.run()
    tasks = [task for _, task in story.workers.tasks if isinstance(task, Train)]
    promoted = [task for task in tasks if task.trial.parent is not None]
    assert len(tasks) == 23
    assert promoted
    for task in promoted:
        assert task.parent is not None
        assert Path(task.parent).name == f"{task.trial.parent:04d}"
        first = next(e.epoch for e in story.of(EpochEnded) if e.trial == task.trial.number)
        assert first == task.trial.initial_epoch + 1


class TestResumed:
    """A sweep killed after any of its events ends with the trials, values and metrics of one that was not."""

    CASES = (
        ("random", 2, ("search.max_trials=6",)),
        ("grid", 2, ()),
        ("grid", 3, ("model.per_layer=[units]", "model.layers=choice(1,2)", "model.units=choice(1,3)")),
        ("bayesian", 1, ("search.max_trials=5", "search.num_initial_points=3")),
        ("hyperband", 1, ("model.units=int(interval(1,500))", "training.epochs=3")),
        ("tpe", 1, ("search.max_trials=7", "search.startup_trials=3")),
        ("asha", 1, ("search.max_trials=8", "search.sampler=random", "training.epochs=9")),
        ("pbt", 1, ("search.population=3", "model.units=1", "model.dropout=interval(0,0.5)")),
        ("grid", 2, ("repeats=2", "model.units=choice(1,2,3)", "confirm={top: 2, seeds: 2}")),
        ("grid", 1, ("search.target=0.42",)),
        ("random", 2, (*CORNERS, "model.dropout=0.1,0.2", "search.max_trials=6")),
        ("nsga2", 1, (*CORNERS, "model.dropout=interval(0,0.5)", "search.max_trials=6", "search.population=3")),
    )

    @staticmethod
    def told(results: Ranking, events: list[Event]) -> tuple:
        epochs = [(e.trial, e.execution, e.epoch, *e.metrics.items()) for e in events if isinstance(e, EpochEnded)]
        assert len(epochs) == len(set(epochs)), "an epoch was reported twice"
        assert len([e for e in events if isinstance(e, TrialEnded)]) == len(results.outcomes), "a trial ended twice"
        return sorted(epochs), results.trials, results.outcomes, results.winner()

    @pytest.mark.parametrize(("algorithm", "slots", "overrides"), CASES)
    def test_it_gives_the_same_results(
        self, tell: Tell, algorithm: str, slots: int, overrides: tuple[str, ...]
    ) -> None:
        whole = tell(f"search={algorithm}", *overrides, slots=slots)
        expected = self.told(whole.run(), whole.events)
        # keras-tuner's takes half a second for a suggestion.
        step = 12 if algorithm == "bayesian" else 1 + len(whole.events) // 25
        for cut in range(0, len(whole.events), step):
            past = whole.events[:cut]
            story = tell(f"search={algorithm}", *overrides, slots=slots, history=states(past))
            story.sweep.replay(past)
            assert self.told(story.run(), past + story.events) == expected, f"cut after {cut} events"

    def test_it_asks_again_after_a_pause_whose_trial_has_ended(self, tell: Tell) -> None:
        whole = tell(own=Scripted(), slots=2)
        whole.run()
        for end in (i for i, event in enumerate(whole.events) if isinstance(event, TrialEnded)):
            past = whole.events[: end + 1]
            story = tell(own=Scripted(), slots=2, history=states(past))
            story.sweep.replay(past)
            assert len(story.run().outcomes) == 4

    def test_it_does_not_repeat_an_unanswered_ask_after_a_retry_of_another_trial(self, tell: Tell) -> None:
        whole = tell("search=grid", slots=2)
        whole.run()
        asked = next(i for i, event in enumerate(whole.events) if isinstance(event, TrialAsked) and event.trial == 2)
        started = next(event for event in whole.events if isinstance(event, TrialStarted) and event.trial.number == 1)
        failed = AttemptFailed(whole.events[asked].time, 1, 1, "its worker died")
        past = [*whole.events[: asked + 1], failed, replace(started, attempt=2)]
        story = tell("search=grid", slots=2, history=states(past))
        story.sweep.replay(past)
        assert sorted(story.run().outcomes) == list(range(8))
        assert [event.trial for event in story.of(TrialAsked)] == [3, 4, 5, 6, 7, 8]

    def test_resumed_twice_it_gives_the_same_results(self, tell: Tell) -> None:
        whole = tell("search=grid", slots=2)
        expected = self.told(whole.run(), whole.events)
        past: list[Event] = whole.events[:11]
        for more in (9, 1000):
            story = tell("search=grid", slots=2)
            story.sweep.replay(past)
            results = story.run()
            past = past + story.events[:more]
        assert self.told(results, past) == expected

    def test_it_has_the_rest_of_the_time_budget(self, tell: Tell) -> None:
        budget = ("search.time_budget=30s", "search.max_trials=null", "training.epochs=100")
        whole = tell(*budget)
        whole.run()
        cut = next(i for i, e in enumerate(whole.events) if e.time > whole.events[0].time + 10)
        story = tell(*budget)
        story.sweep.replay([SweepResumed(whole.events[0].time, {}), *whole.events[:cut]])
        story.run()
        assert 15 < story.clock() - FakeClock().now < 25


class Watched(Search):
    """Grid search that takes note of what it is told."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, self.told = list(sizes), list[tuple[int, Result]]()

    def ask(self, number: int) -> Suggestion | Answer:
        return Suggestion({"model.units": self.sizes.pop(0)}) if self.sizes else Answer.FINISHED

    def tell(self, number: int, result: Result) -> None:
        self.told.append((number, result))


class TestRetried:
    """Failed trials that are trained again by the user's wish, after their cause was mended."""

    BUG = Outcome(Status.FAILED, "a bug")
    # Trial 2 fails before its first epoch, and the worker of trial 7 dies after two.
    FAULTS: ClassVar = {(2, 1): BUG, (2, 2): BUG, (7, 1): 2, (7, 2): 0}

    def fails(self, tell: Tell, *overrides: str, **more: Any) -> list[Event]:
        story = tell("search=grid", *overrides, **{"faults": self.FAULTS, **more})
        story.run()
        assert story.sweep.state.failed == [2, 7]
        return story.events

    @staticmethod
    def again(story: Story, past: Sequence[Event]) -> tuple[Ranking, list[str]]:
        said: list[str] = []
        story.sweep.replay(past)
        trials = story.sweep.to_retry(said.append)
        story.sweep.emit(SweepResumed(story.clock(), {}))
        story.sweep.retry(trials)
        return story.run(), said

    def test_they_are_trained_from_their_start_with_the_same_values_as_further_attempts(self, tell: Tell) -> None:
        past = self.fails(tell)
        story = tell("search=grid", history=states(past))
        # What the failed attempt has trained must not be continued.
        story.workers.history.pop((7, 1))
        results, said = self.again(story, past)
        assert said == ["Trains again: trials 2, 7"]
        assert [(e.trial.number, e.attempt) for e in story.of(TrialStarted)] == [(2, 3), (7, 3)]
        before = {e.trial.number: e.trial for e in past if isinstance(e, TrialStarted)}
        assert [e.trial for e in story.of(TrialStarted)] == [before[2], before[7]]
        assert [e.epoch for e in story.of(EpochEnded) if e.trial == 7] == [1, 2, 3]
        assert {o.status for o in results.outcomes.values()} == {Status.COMPLETED}
        assert (results.winner(), story.of(WinnerTested)[0].trial) == (7, 7)
        assert story.sweep.state.failed == []

    def test_they_have_all_their_retries_again(self, tell: Tell) -> None:
        past = self.fails(tell)
        story = tell("search=grid", faults={(2, 1): self.BUG, (7, 1): self.BUG, (7, 2): self.BUG}, history=states(past))
        results, _ = self.again(story, past)
        assert [(e.trial, e.attempt) for e in story.of(AttemptFailed)] == [(2, 3), (7, 3)]
        assert results.outcomes[2].status is Status.COMPLETED
        assert results.outcomes[7] == self.BUG

    def test_killed_after_any_event_the_sweep_ends_the_same(self, tell: Tell) -> None:
        past = self.fails(tell)
        whole = tell("search=grid", history=states(past))
        results, _ = self.again(whole, past)
        first = next(i for i, event in enumerate(whole.events) if isinstance(event, TrialsRetried))
        for cut in range(first + 1, len(whole.events)):
            killed = [*past, *whole.events[:cut]]
            story = tell("search=grid", history=states(killed))
            story.sweep.replay(killed)
            assert story.run().outcomes == results.outcomes, f"cut after {cut} events"

    def test_the_search_is_told_once_of_each_trial(self, tell: Tell) -> None:
        sizes = range(1, 9)
        past = self.fails(tell, own=Watched(sizes))
        search = Watched([*sizes, 9])
        story = tell("search=grid", "search.max_trials=null", own=search, history=states(past))
        results, _ = self.again(story, past)
        assert sorted(number for number, _ in search.told) == list(range(9))
        assert [number for number, result in search.told if result.scores is None] == [2, 7]
        assert results.winner() == 8

    def test_a_stopping_rule_sees_each_epoch_of_a_trial_once(self, tell: Tell) -> None:
        seen: list[tuple[int, int]] = []

        class Never(Stopping):
            def report(self, number: int, epoch: int, score: float) -> str:
                seen.append((number, epoch))
                return ""

        past = self.fails(tell, stop=Never())
        seen.clear()
        self.again(tell("search=grid", stop=Never(), history=states(past)), past)
        assert len(seen) == len(set(seen))
        assert [epoch for number, epoch in seen if number == 2] == [1, 2, 3]
        assert [epoch for number, epoch in seen if number == 7] == [1, 2]

    def test_a_failed_retraining_of_the_best_is_among_them(self, tell: Tell) -> None:
        confirmed = ("search=grid", "confirm={top: 2, seeds: 2}")
        story = tell(*confirmed, faults={(8, 1): self.BUG, (8, 2): self.BUG})
        story.run()
        assert story.sweep.state.failed == [8]
        past = story.events
        story = tell(*confirmed, history=states(past))
        results, _ = self.again(story, past)
        assert results.confirmed is not None
        assert [len(row["scores"]) for row in results.confirmed.candidates] == [2, 2]

    def test_a_sweep_that_ended_after_too_many_failures_continues(self, tell: Tell) -> None:
        bad = {(n, a): self.BUG for n in range(8) for a in (1, 2)}
        story = tell("search=grid", "search.max_failures=3", faults=bad, slots=1)
        story.run()
        assert len(story.sweep.results.outcomes) == 3
        again = tell("search=grid", "search.max_failures=3", slots=1)
        assert len(self.again(again, story.events)[0].outcomes) == 8

    def test_a_trial_is_left_out_if_the_state_is_gone_from_which_it_continued(self, tell: Tell) -> None:
        many = ("search=hyperband", "training.epochs=9", "model.units=int(interval(1,500))")
        plain = tell(*many)
        plain.run()
        child = next(e.trial for e in plain.of(TrialStarted) if e.trial.parent is not None)
        story = tell(*many, faults={(child.number, attempt): self.BUG for attempt in (1, 2)})
        story.run()
        said: list[str] = []
        again = tell(*many)
        again.sweep.replay(story.events)
        assert again.sweep.to_retry(said.append) == []
        gone = f"Trial {child.number} cannot be retried: it continued from trial {child.parent}, whose state is gone"
        assert said == [gone]

    @pytest.mark.parametrize(("key", "value"), [("search.time_budget", "12s"), ("search.target", 0.6)])
    def test_a_budget_that_is_used_up_must_be_longer_first(self, tell: Tell, key: str, value: object) -> None:
        budget = ("search=grid", f"{key}={value}")
        story = tell(*budget, slots=1, faults={(0, 1): self.BUG, (0, 2): self.BUG})
        story.run()
        again = tell(*budget)
        again.sweep.replay([SweepResumed(FakeClock().now, {}), *story.events])
        with pytest.raises(UserError, match=f"add a .*, {key}="):
            again.sweep.to_retry(print)
