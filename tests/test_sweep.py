"""The loop, on fake workers and a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock, FakeWorkers, InlineExecutor

from mnist_sweep import search
from mnist_sweep.errors import UserError
from mnist_sweep.search.aside import Aside
from mnist_sweep.search.base import Answer, Search, Suggestion
from mnist_sweep.settings import check_settings
from mnist_sweep.space import Space
from mnist_sweep.sweep import Results, Sweep
from mnist_sweep.trial import (
    AttemptFailed,
    EpochEnded,
    Event,
    Outcome,
    Status,
    SweepEnded,
    SweepResumed,
    TrialAsked,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.workers.base import Evaluate, Train

SPACE = ("model.units=choice(1,2,3,4,5,6,7,8)", "training.epochs=3")


def curve(values: dict[str, Any], epoch: int) -> float:
    return round(values.get("model.units", 5) / 10 + epoch / 100, 6)


@dataclass
class Story:
    sweep: Sweep
    workers: FakeWorkers
    clock: FakeClock
    events: list[Event] = field(default_factory=list)

    def run(self) -> Results:
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
    def told(*overrides: str, slots: int = 2, own: Search | None = None, on_event: Any = None, **fakes: Any) -> Story:
        settings = check_settings(compose_config(*SPACE, *overrides))
        space, clock, events = Space(settings.trial), FakeClock(), []
        workers = FakeWorkers(slots, curve, clock, objective=settings.objective.name, **fakes)
        aside = Aside(lambda: own or search.create(settings, space), InlineExecutor())

        def emit(event: Event) -> None:
            events.append(event)
            if on_event:
                on_event(story, event)

        sweep = Sweep(settings, space, aside, workers, folder=tmp_path, emit=emit, clock=clock)
        story = Story(sweep, workers, clock, events)
        return story

    return told


def test_every_trial_is_asked_started_reported_and_ended_in_this_order(tell: Tell) -> None:
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
    assert results.ranking() == [7, 6, 5, 4, 3, 2, 1, 0]
    tests = [task for _, task in story.workers.tasks if isinstance(task, Evaluate)]
    assert [Path(task.model).parent.name for task in tests] == ["0007"]
    assert isinstance(story.events[-2], WinnerTested)
    assert story.end == SweepEnded(story.clock(), Status.COMPLETED, "", 7)


def test_of_equal_trials_the_earlier_wins(tell: Tell) -> None:
    story = tell("search=grid", "model.units=1", "model.dropout=choice(0,0.1,0.2)")
    assert story.run().winner() == 0


def test_a_loss_is_better_when_it_is_smaller(tell: Tell) -> None:
    story = tell("search=grid", "objective=val_loss min")
    assert story.run().ranking()[0] == 0


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


def test_one_config_is_one_trial(tell: Tell) -> None:
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


def test_a_time_budget_too_short_for_any_epoch_leaves_no_result_and_says_so(tell: Tell) -> None:
    story = tell("search.time_budget=1s")
    assert story.run().winner() is None
    assert story.end == SweepEnded(story.clock(), Status.FAILED, "the time budget of 1s is used up", None)


def test_reaching_the_target_ends_the_sweep(tell: Tell) -> None:
    story = tell("search=grid", "search.target=0.42", slots=1)
    results = story.run()
    assert len(results.outcomes) == 4
    assert story.end.reason == "val_accuracy reached the target 0.42"
    assert story.end.winner == 3


class TestWhenAWorkerDies:
    def test_its_trial_is_tried_again_and_the_sweep_goes_on(self, tell: Tell) -> None:
        story = tell("search=grid", faults={(2, 1): 1})
        results = story.run()
        assert len(results.outcomes) == 8
        assert results.outcomes[2].status is Status.COMPLETED
        (failed,) = story.of(AttemptFailed)
        assert (failed.trial, failed.attempt, failed.reason) == (2, 1, "its worker was killed by SIGKILL")
        assert [e.attempt for e in story.of(TrialStarted) if e.trial.number == 2] == [1, 2]

    def test_twice_the_trial_is_failed_with_the_reason(self, tell: Tell) -> None:
        story = tell("search=grid", faults={(2, 1): 1, (2, 2): 0})
        results = story.run()
        assert results.outcomes[2] == Outcome(Status.FAILED, "its worker was killed by SIGKILL")
        assert sum(o.status is Status.COMPLETED for o in results.outcomes.values()) == 7

    def test_retries_zero_fails_it_at_once(self, tell: Tell) -> None:
        story = tell("search=grid", "workers.retries=0", faults={(2, 1): 1})
        assert story.run().outcomes[2].status is Status.FAILED
        assert story.workers.attempts[2] == 1

    def test_in_the_test_of_the_winner_it_is_tested_again(self, tell: Tell) -> None:
        story = tell("search=grid", test_deaths=1)
        story.run()
        assert len(story.of(WinnerTested)) == 1


def test_a_failed_trial_is_told_and_never_wins(tell: Tell) -> None:
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


def test_a_model_that_cannot_be_tested_is_told_and_loses_no_trial(tell: Tell) -> None:
    story = tell("search=grid", test_error="OSError: no such file")
    story.run()
    (tested,) = story.of(WinnerTested)
    assert (tested.trial, tested.error, tested.metrics) == (7, "OSError: no such file", {})
    assert len(story.of(TrialEnded)) == 8
    assert story.end.status is Status.COMPLETED


def test_too_many_failures_in_a_row_end_the_sweep_with_their_common_cause(tell: Tell) -> None:
    bad = Outcome(Status.FAILED, "bad builder")
    story = tell("search=grid", slots=1, faults={(n, a): bad for n in range(2, 8) for a in (1, 2)})
    results = story.run()
    assert sorted(results.outcomes) == list(range(7))
    assert story.end.status is Status.FAILED
    assert story.end.reason == "5 trials in a row failed: bad builder (search.max_failures=5)"
    assert story.end.winner == 1


def test_a_second_attempt_is_made_on_another_slot(tell: Tell) -> None:
    story = tell("search=grid", faults={(2, 1): 1})
    story.run()
    first, second = [e.slot for e in story.of(TrialStarted) if e.trial.number == 2]
    assert first != second


def test_a_worker_that_gives_no_sign_of_life_is_replaced(tell: Tell) -> None:
    story = tell("search=grid", "workers.timeout=60s", faults={(3, 1): "hang"})
    results = story.run()
    assert results.outcomes[3].status is Status.COMPLETED
    (failed,) = story.of(AttemptFailed)
    assert failed.reason == "its worker gave no sign of life for 60s (workers.timeout)"


def test_stop_lets_running_epochs_end_and_leaves_the_rest_to_be_resumed(tell: Tell) -> None:
    def stop_at_trial_2(story: Story, event: Event) -> None:
        if isinstance(event, EpochEnded) and event.trial == 2 and event.epoch == 1:
            story.sweep.stop("stopped by Ctrl-C")

    story = tell("search=grid", "training.epochs=20", on_event=stop_at_trial_2)
    results = story.run()
    assert sorted(results.trials) == [0, 1, 2, 3]
    assert sorted(results.outcomes) == [0, 1]
    assert story.end == SweepEnded(story.clock(), Status.STOPPED, "stopped by Ctrl-C", 1)
    assert not story.of(WinnerTested)


def test_an_interruption_at_once_records_only_that(tell: Tell) -> None:
    story = tell("search=grid", "training.epochs=50")
    story.workers.interrupt_at = story.clock() + 12
    with pytest.raises(KeyboardInterrupt):
        story.run()
    assert story.of(TrialEnded) == []
    assert story.end == SweepEnded(story.clock(), Status.STOPPED, "interrupted", None)


def test_what_the_search_raises_ends_the_sweep_and_is_recorded(tell: Tell) -> None:
    class Broken(Search):
        def ask(self, number: int) -> Suggestion:
            raise UserError("search=broken: no idea")

        def tell(self, number: int, score: float | None) -> None: ...

    story = tell(own=Broken())
    with pytest.raises(UserError, match="no idea"):
        story.run()
    assert story.end.reason == "search=broken: no idea"


class Scripted(Search):
    """Pauses while the trial before runs; stops hopeless trials."""

    def __init__(self, forever: bool = False) -> None:
        self.open: set[int] = set()
        self.told: list[tuple[int, float | None]] = []
        self.forever = forever

    def ask(self, number: int) -> Suggestion | Answer:
        if self.open or (self.forever and number == 2):
            return Answer.PAUSE
        if number == 4:
            return Answer.FINISHED
        self.open.add(number)
        return Suggestion({"model.units": number + 1})

    def report(self, number: int, epoch: int, score: float) -> str:
        return "hopeless" if number == 1 else ""

    def tell(self, number: int, score: float | None) -> None:
        self.told.append((number, score))
        self.open.discard(number)


def test_a_paused_search_is_asked_again_when_a_trial_has_ended(tell: Tell) -> None:
    own = Scripted()
    story = tell(own=own, slots=3)
    assert len(story.run().outcomes) == 4
    assert own.told[0] == (0, 0.13)
    assert story.workers.most_busy == 1


def test_a_pause_with_nothing_running_does_not_last_for_ever(tell: Tell) -> None:
    story = tell(own=Scripted(forever=True), slots=3)
    assert len(story.run().outcomes) == 2


def test_a_search_may_stop_a_trial(tell: Tell) -> None:
    own = Scripted()
    story = tell("training.epochs=30", own=own)
    results = story.run()
    assert (results.outcomes[1].status, results.outcomes[1].reason) == (Status.STOPPED, "hopeless")
    assert results.outcomes[0].status is Status.COMPLETED
    # Its score counts: it was reached by epochs that were trained.
    assert dict(own.told)[1] == results.outcomes[1].score


def test_hyperband_trials_go_on_from_their_parents_state(tell: Tell) -> None:
    story = tell("search=hyperband", "training.epochs=9", "model.units=int(interval(1,500))")
    story.run()
    tasks = [task for _, task in story.workers.tasks if isinstance(task, Train)]
    promoted = [task for task in tasks if task.trial.parent is not None]
    assert len(tasks) == 23
    assert promoted
    for task in promoted:
        assert task.parent_state is not None
        assert Path(task.parent_state).parent.name == f"{task.trial.parent:04d}"
        first = next(e.epoch for e in story.of(EpochEnded) if e.trial == task.trial.number)
        assert first == task.trial.initial_epoch + 1


class TestResumed:
    """A sweep killed after any of its events ends with the trials, values and metrics of one that was not."""

    CASES = (
        ("random", 2, ("search.max_trials=6",)),
        ("grid", 2, ()),
        ("grid", 3, ("model.per_layer=[units]", "model.layers=choice(1,2)", "model.units=choice(1,3)")),
        ("bayesian", 1, ("search.max_trials=7", "search.num_initial_points=3")),
        ("hyperband", 1, ("model.units=int(interval(1,500))", "training.epochs=3")),
    )

    @staticmethod
    def told(results: Results, events: list[Event]) -> tuple:
        epochs = [(e.trial, e.epoch, tuple(e.metrics.items())) for e in events if isinstance(e, EpochEnded)]
        assert len(epochs) == len(set(epochs)), "an epoch was told twice"
        assert len([e for e in events if isinstance(e, TrialEnded)]) == len(results.outcomes), "a trial ended twice"
        return sorted(epochs), results.trials, results.outcomes, results.winner()

    @pytest.mark.parametrize(("algorithm", "slots", "overrides"), CASES)
    def test_is_the_same(self, tell: Tell, algorithm: str, slots: int, overrides: tuple[str, ...]) -> None:
        whole = tell(f"search={algorithm}", *overrides, slots=slots)
        expected = self.told(whole.run(), whole.events)
        for cut in range(0, len(whole.events), 1 + len(whole.events) // 40):
            past = whole.events[:cut]
            story = tell(f"search={algorithm}", *overrides, slots=slots)
            story.sweep.replay(past)
            assert self.told(story.run(), past + story.events) == expected, f"cut after {cut} events"

    def test_twice_is_the_same(self, tell: Tell) -> None:
        whole = tell("search=grid", slots=2)
        expected = self.told(whole.run(), whole.events)
        past: list[Event] = whole.events[:11]
        for more in (9, 1000):
            story = tell("search=grid", slots=2)
            story.sweep.replay(past)
            results = story.run()
            past = past + story.events[:more]
        assert self.told(results, past) == expected

    def test_has_only_the_rest_of_its_time(self, tell: Tell) -> None:
        budget = ("search.time_budget=30s", "search.max_trials=null", "training.epochs=100")
        whole = tell(*budget)
        whole.run()
        cut = next(i for i, e in enumerate(whole.events) if e.time > whole.events[0].time + 10)
        story = tell(*budget)
        story.sweep.replay([SweepResumed(whole.events[0].time, {}), *whole.events[:cut]])
        story.run()
        assert 15 < story.clock() - FakeClock().now < 25
