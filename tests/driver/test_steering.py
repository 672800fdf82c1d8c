"""Steering a running sweep: what users may want, on fake workers and a fake clock, killed at each event and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import Calls, FakeClock, FakeWorkers, History, InlineExecutor

from mnist_sweep.config.dotted import put
from mnist_sweep.config.grammar import parse_value
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space, identity
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.steering_socket import Request
from mnist_sweep.journal.events import (
    EpochEnded,
    Event,
    SlotClosed,
    SlotOpened,
    Steered,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialAsked,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch

SPACE = (
    "model.units=choice(1,2,3,4,5,6,7,8)",
    "model.dropout=0.0,0.1,0.2",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "training.epochs=3",
)
DISCRETE = (*SPACE[:2], "optimizer.learning_rate=0.01", SPACE[3])
BY = ("ada@box", 17)
# Enough for the trials that run, and for the next one.
_KILLS = 8


def curve(values: dict[str, Any], epoch: int) -> float:
    return round(values["model.units"] / 10 + epoch / 100, 6)


@dataclass
class Steerable:
    """A sweep that is steered.

    Attributes:
        wishes: What is wanted, each as soon as its condition holds for an event.
        answers: The answers.
    """

    sweep: Sweep
    workers: FakeWorkers
    clock: FakeClock
    events: list[Event]
    answers: list[Mapping[str, Any]]
    wishes: list[tuple[Callable[[Event], bool], dict[str, Any]]] = field(default_factory=list)
    pending: list[Request] = field(default_factory=list)

    def when(self, condition: Callable[[Event], bool], **wish: Any) -> None:
        self.wishes.append((condition, wish))

    def ask(self, **wish: Any) -> None:
        self.pending.append(Request(wish, *BY, self.answers.append))

    def seen(self, event: Event) -> None:
        for one in [one for one in self.wishes if one[0](event)]:
            self.wishes.remove(one)
            self.ask(**one[1])

    def requests(self) -> Sequence[Request]:
        found, self.pending = self.pending, []
        return found

    def run(self) -> Ranking:
        return self.sweep.run()

    @property
    def values(self) -> dict[int, str]:
        return {n: identity(trial.values) for n, trial in self.sweep.results.trials.items()}

    @property
    def said(self) -> str:
        (answer,) = self.answers
        return str(answer.get("done") or f"refused: {answer['error']}")

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


Start = Callable[..., Steerable]


@pytest.fixture
def start(compose_config, tmp_path: Path) -> Start:
    def started(
        *overrides: str,
        slots: int = 1,
        past: Sequence[Event] = (),
        baseline: dict[str, Any] | None = None,
        **fakes: Any,
    ) -> Steerable:
        # Composing each combination would take Hydra a tenth of a second.
        groups = {override for override in overrides if override.startswith("search=")}
        config = compose_config(*(DISCRETE if groups == {"search=grid"} else SPACE))
        config["search"] = compose_config(*groups)["search"]
        for override in overrides:
            if override not in groups:
                key, _, text = override.partition("=")
                put(config, key, parse_value(text, key))
        settings = check_settings(config)
        space, clock, events = Space(settings.trial), FakeClock(), list(past)
        history: History = {}
        for event in past:
            if isinstance(event, EpochEnded):
                history.setdefault((event.trial, event.execution), {})[event.epoch] = event.metrics
        workers = FakeWorkers(slots, curve, clock, history=history, **fakes)
        search = ThreadedSearch(lambda: choose.create_search(settings, space), InlineExecutor())

        def emit(event: Event) -> None:
            events.append(event)
            made.seen(event)

        sweep = Sweep(
            settings, space, search, choose.create_stopping(settings), workers, folder=tmp_path,
            listeners=[Calls(emit)], clock=clock, image=(28, 28, 1), requests=lambda: made.requests(),
        )  # fmt: skip
        made = Steerable(sweep, workers, clock, events, [])
        if past:
            clock.now = past[-1].time + 100
            sweep.replay(past)
            first = sweep.state.started
            assert first is not None
            sweep.emit(SweepResumed(clock(), sweep.state.config))
        else:
            sweep.emit(SweepStarted(clock(), "made/up", config, space.describe(), {}, {}, baseline=baseline or {}))
        return made

    return started


def epoch_of(trial: int, epoch: int = 1) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, EpochEnded) and (event.trial, event.epoch) == (trial, epoch)


def results_of(sweep: Steerable) -> dict[int, tuple[Any, ...]]:
    """How the trials ended; a trial that was stopped may have trained another epoch before its worker heard of it."""
    outcomes = sweep.sweep.results.outcomes
    return {n: (o.status, o.reason, o.score if o.status is Status.COMPLETED else None) for n, o in outcomes.items()}


def resumed_at_each_event(start: Start, whole: Steerable, *overrides: str, slots: int = 1) -> None:
    """Kills the sweep after its last change, and after each event that follows, and checks that it ends as it did."""
    last = max(i for i, event in enumerate(whole.events) if isinstance(event, Steered))
    for stop in range(last + 1, min(last + 1 + _KILLS, len(whole.events))):
        again = start(*overrides, slots=slots, past=whole.events[:stop])
        again.run()
        assert again.values == whole.values, f"killed after event {stop}: {whole.events[stop - 1]}"
        assert results_of(again) == results_of(whole)
        epochs = [(e.trial, e.epoch) for e in again.of(EpochEnded)]
        assert len(epochs) == len(set(epochs))


# ---- stop -------------------------------------------------------------------------------------------------------


def test_a_stopped_trial_ends_after_its_epoch_with_its_result_and_the_reason(start: Start) -> None:
    sweep = start("search.max_trials=4")
    sweep.when(epoch_of(1), do="stop", trial=1)
    results = sweep.run()
    assert sweep.said == "Trial 1 will stop after its current epoch"
    outcome = results.outcomes[1]
    assert (outcome.status, outcome.reason) == (Status.STOPPED, "stopped by ada@box")
    assert outcome.score is not None
    assert [e.epoch for e in sweep.of(EpochEnded) if e.trial == 1] in ([1], [1, 2])
    assert sorted(results.outcomes) == [0, 1, 2, 3]
    resumed_at_each_event(start, sweep, "search.max_trials=4")


def test_a_trial_that_the_search_may_cut_can_be_stopped_too(start: Start) -> None:
    overrides = ("search=asha", "search.sampler=random", "search.max_trials=5", "search.min_epochs=1")
    sweep = start(*overrides)
    sweep.when(epoch_of(0), do="stop", trial=0)
    assert sweep.run().outcomes[0].reason == "stopped by ada@box"
    resumed_at_each_event(start, sweep, *overrides)


def test_a_stopped_trial_whose_worker_dies_before_its_first_epoch_does_not_start_again(start: Start) -> None:
    sweep = start("search.max_trials=3", faults={(1, 1): 0})
    sweep.when(lambda e: isinstance(e, TrialStarted) and e.trial.number == 1, do="stop", trial=1)
    results = sweep.run()
    assert results.outcomes[1] == Outcome(Status.STOPPED, "stopped by ada@box")
    assert sweep.workers.attempts[1] == 1


NARROWER = "values can only be narrowed"
SETTABLE = "search.max_trials, search.time_budget, search.target, search.max_failures and what is searched"
REFUSED = [
    ("stop", 9, "stop 9: there is no such trial; those that run: trial 1"),
    ("stop", 0, "stop 0: the trial has ended already (completed)"),
    ("add", "model.unit=3", "add: model.unit=3: model.unit is not searched; did you mean 'model.units'?"),
    ("add", "model.units=9", "add: model.units=9: must be in choice(1, 2, 3, 4, 5, 6, 7, 8)"),
    ("add", "model.units=many", "add: model.units=many: must be in choice(1, 2, 3, 4, 5, 6, 7, 8)"),
    ("add", "model.units", "add: model.units: write KEY=VALUE, such as model.units=64"),
    ("set", "search.max_trials=0", "search.max_trials=0: must be at least 1"),
    ("set", "search.max_trials=many", "search.max_trials=many: must be a whole number"),
    ("set", "search.time_budget=soon", "search.time_budget=soon: must be a duration such as 90s, 15m, 2h or 1h30m"),
    (
        "set",
        "search.max_trials=null",
        "search.max_trials=null: the search would never end; set search.max_trials or search.time_budget",
    ),
    ("set", "search.max_trial=3", "set: search.max_trial: unknown key; did you mean 'search.max_trials'?"),
    ("set", "training.epochs=5", f"set: training.epochs: cannot change while the sweep runs; only {SETTABLE} can"),
    (
        "set",
        "model.units=choice(2,16)",
        f"model.units=choice(2,16): 16 is not in choice(1, 2, 3, 4, 5, 6, 7, 8); {NARROWER}",
    ),
    (
        "set",
        "optimizer.learning_rate=interval(1e-5,1e-2)",
        "optimizer.learning_rate=interval(1e-5,1e-2): 1e-05 is not in tag(log, interval(0.0001, 0.1)); " + NARROWER,
    ),
    (
        "slots",
        2,
        "slots 2: must be between 0 and 1, which the sweep has; for more, stop it with Ctrl-C, and resume it with "
        "another workers.count or workers.trials_per_gpu",
    ),
    ("dance", 1, 'steer: {"do": "dance", "step": 1}: unknown to the version of mnist_sweep that runs the sweep'),
]
FIELDS = {"stop": "trial", "add": "values", "set": "settings", "slots": "slots", "dance": "step"}


@pytest.mark.parametrize(("wish", "given", "answer"), REFUSED)
def test_a_wish_that_cannot_be_done_is_refused_in_one_line_and_changes_nothing(
    start: Start, wish: str, given: int | str, answer: str
) -> None:
    sweep = start("search.max_trials=3")
    sweep.when(epoch_of(1), do=wish, **{FIELDS[wish]: [given] if isinstance(given, str) else given})
    assert len(sweep.run().outcomes) == 3
    assert sweep.said == f"refused: {answer}"
    assert not sweep.of(Steered)


# ---- add --------------------------------------------------------------------------------------------------------


def test_an_added_trial_is_the_next_one_and_counts_like_any_other(start: Start) -> None:
    baseline = {"model": {"dropout": 0.1}, "optimizer": {"learning_rate": 0.02}}
    sweep = start("search.max_trials=4", baseline=baseline)
    sweep.when(epoch_of(0), do="add", values=["model.units=8"])
    results = sweep.run()
    assert sweep.said == "Trial 1 will start next: units=8, dropout=0.1, learning_rate=0.02"
    assert sweep.answers[0]["trial"] == 1
    assert results.trials[1].values == {"model.units": 8, "model.dropout": 0.1, "optimizer.learning_rate": 0.02}
    assert results.trials[1].added_by == "ada@box"
    assert sorted(results.outcomes) == [0, 1, 2, 3]


ALGORITHMS = ["random", "grid", "tpe", "nsga2", "hyperband", "pbt"]


def of(algorithm: str) -> tuple[str, ...]:
    if algorithm == "grid":
        return ("search=grid", "search.max_trials=8")
    if algorithm == "pbt":
        return ("search=pbt", "search.population=2", "search.interval=2", "search.max_trials=null")
    return (f"search={algorithm}", "search.max_trials=8")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_added_trials_are_there_again_after_a_kill_at_any_event(start: Start, algorithm: str) -> None:
    overrides = of(algorithm)
    sweep = start(*overrides)
    sweep.when(epoch_of(0), do="add", values=["model.units=8"])
    sweep.when(epoch_of(1), do="add", values={"model.units": 7})
    results = sweep.run()
    added = sweep.of(TrialAdded)
    assert [results.trials[event.trial].values for event in added] == [event.values for event in added]
    assert [event.values["model.units"] for event in added] == [8, 7]
    assert all(results.outcomes[event.trial].status is Status.COMPLETED for event in added)
    new = [trial.values for trial in results.trials.values() if trial.parent is None]
    assert len({identity(values) for values in new}) == len(new)
    resumed_at_each_event(start, sweep, *overrides)


def test_values_that_were_tried_and_trials_beyond_the_budget_are_not_added(start: Start) -> None:
    sweep = start("search=grid", "search.max_trials=3")
    sweep.when(epoch_of(1), do="add", values=["model.units=1", "model.dropout=0.0"])
    sweep.when(epoch_of(2), do="add", values=["model.units=8"])
    assert len(sweep.run().outcomes) == 3
    assert [answer["error"] for answer in sweep.answers] == [
        "add: trial 0 has these values; to train them once more, use retrain",
        "add: all search.max_trials=3 have started; raise it first: steer … set search.max_trials=4",
    ]


def test_an_added_trial_can_be_stopped_before_it_starts(start: Start) -> None:
    sweep = start("search.max_trials=3")
    sweep.when(epoch_of(0), do="add", values=["model.units=8"])
    sweep.when(lambda event: isinstance(event, TrialAdded), do="stop", trial=1)
    results = sweep.run()
    assert sweep.answers[1]["done"] == "Trial 1 will not start"
    assert sorted(results.outcomes) == [0, 2, 3]
    resumed_at_each_event(start, sweep, "search.max_trials=3")


# ---- pause, continue --------------------------------------------------------------------------------------------


def test_a_paused_sweep_starts_no_trial_until_it_is_continued(start: Start) -> None:
    sweep = start("search.max_trials=4", "search.time_budget=20m", slots=2)
    sweep.when(epoch_of(0), do="pause")
    sweep.when(lambda e: isinstance(e, TrialEnded) and e.trial == 1, do="slots", slots=2)

    def later(clock: FakeClock = sweep.clock, asked: list[bool] = []) -> Sequence[Request]:  # noqa: B006
        if sweep.sweep.state.paused and not asked and clock.now > 1_000_000 + 3600:
            asked.append(True)
            sweep.ask(do="continue")
        found, sweep.pending = sweep.pending, []
        return found

    sweep.sweep._requests = later
    assert sorted(sweep.run().outcomes) == [0, 1, 2, 3]
    started = {e.trial.number: e.time for e in sweep.of(TrialStarted)}
    # An hour passed, which is not taken from the time budget.
    assert started[2] - started[1] > 3500
    assert sweep.answers[0]["done"] == "Paused: no trial starts until you continue the sweep; 2 trials still run"
    assert sweep.answers[-1]["done"] == "Trials start again"


def test_a_pause_lasts_after_a_kill(start: Start) -> None:
    sweep = start("search.max_trials=3")
    sweep.when(epoch_of(0), do="pause")
    sweep.sweep._tick = lambda: sweep.sweep.stop("enough") if sweep.clock.now > 1_000_100 else None
    sweep.run()
    assert sorted(sweep.sweep.results.outcomes) == [0]
    again = start("search.max_trials=3", past=sweep.events)
    assert again.sweep.state.paused
    again.ask(do="continue")
    assert sorted(again.run().outcomes) == [0, 1, 2]


# ---- set --------------------------------------------------------------------------------------------------------


def test_the_budget_can_grow_and_shrink(start: Start) -> None:
    sweep = start("search.max_trials=3")
    sweep.when(epoch_of(1), do="set", settings=["search.max_trials=6", "search.max_failures=null"])
    sweep.when(epoch_of(3), do="set", settings=["search.max_trials=5"])
    assert len(sweep.run().outcomes) == 5
    assert sweep.answers[0]["done"] == "search.max_trials: 3 → 6; search.max_failures: 5 → null"
    # A resumed sweep is given the config of the last session, with what was set since.
    assert sweep.sweep.state.config["search"]["max_trials"] == 5
    resumed_at_each_event(start, sweep, "search.max_trials=5")


def test_a_target_that_is_reached_already_ends_the_sweep(start: Start) -> None:
    sweep = start("search.max_trials=9", slots=2)
    sweep.when(epoch_of(3), do="set", settings=["search.target=0.1"])
    results = sweep.run()
    assert len(results.outcomes) < 9
    assert sweep.said == "search.target: null → 0.1; val_accuracy reached the target 0.1, so the sweep ends"
    assert sweep.of(SweepEnded)[0].reason == "val_accuracy reached the target 0.1"


def test_a_target_can_be_removed_while_workers_wait_for_it(start: Start) -> None:
    sweep = start("search.max_trials=3", "search.target=0.99")
    sweep.when(epoch_of(0), do="set", settings=["search.target=null"])
    assert len(sweep.run().outcomes) == 3


@pytest.mark.parametrize("algorithm", ["random", "grid", "tpe", "cmaes", "nsga2"])
def test_from_then_on_only_narrower_values_are_suggested(start: Start, algorithm: str) -> None:
    overrides = of(algorithm)
    sweep = start(*overrides, slots=2)
    sweep.when(epoch_of(1), do="set", settings=["model.units=interval(5,8)", "model.dropout=0.1"])
    results = sweep.run()
    assert "model.units: choice(1, 2, 3, 4, 5, 6, 7, 8) → choice(5, 6, 7, 8), for the trials from now on" in sweep.said
    at = next(i for i, event in enumerate(sweep.events) if isinstance(event, Steered))
    later = [event.trial.values for event in sweep.events[at:] if isinstance(event, TrialStarted)]
    assert later
    assert all(values["model.units"] >= 5 and values["model.dropout"] == 0.1 for values in later)
    tried = [identity(trial.values) for trial in results.trials.values()]
    assert len(tried) == len(set(tried))
    resumed_at_each_event(start, sweep, *overrides, slots=2)


def test_narrowed_values_can_be_narrowed_again_and_widened_up_to_the_searched_ones(start: Start) -> None:
    rate = "optimizer.learning_rate"
    sweep = start("search.max_trials=30")
    for trial, part in ((2, "interval(1e-3,1e-2)"), (5, "choice(0.002,0.003)"), (10, "interval(1e-4,1e-1)")):
        sweep.when(epoch_of(trial), do="set", settings=[f"{rate}={part}"])
    values = [trial.values[rate] for _, trial in sorted(sweep.run().trials.items())]
    assert all(1e-3 <= value <= 1e-2 for value in values[3:6])
    assert set(values[6:11]) == {0.002, 0.003}
    assert max(values[11:]) > 1e-2
    assert min(values[11:]) < 1e-3
    assert len(set(values[11:])) == 19
    resumed_at_each_event(start, sweep, "search.max_trials=30")


@pytest.mark.parametrize("algorithm", ["hyperband", "pbt"])
def test_an_algorithm_that_plans_its_trials_cannot_be_narrowed(start: Start, algorithm: str) -> None:
    sweep = start(*of(algorithm))
    sweep.when(epoch_of(0), do="set", settings=["model.units=choice(1,2)"])
    sweep.run()
    assert sweep.said == (
        f"refused: search={algorithm}: cannot continue with fewer values, as it plans all of its trials in advance; "
        "start a new sweep"
    )


# ---- slots ------------------------------------------------------------------------------------------------------


def test_slots_are_given_back_when_their_trials_have_ended_and_taken_again(start: Start) -> None:
    sweep = start("search.max_trials=9", slots=3)
    sweep.when(epoch_of(0), do="slots", slots=1)
    sweep.when(epoch_of(5), do="slots", slots=3)
    results = sweep.run()
    assert len(results.outcomes) == 9
    assert all(outcome.status is Status.COMPLETED for outcome in results.outcomes.values())
    assert [answer["done"] for answer in sweep.answers] == [
        "2 slots of 3 are given back when their trials end",
        "All 3 slots can be used",
    ]
    closed, opened = sweep.of(SlotClosed), sweep.of(SlotOpened)
    assert sorted(e.slot for e in closed) == sorted(e.slot for e in opened)
    assert len(closed) == 2
    between = [e for e in sweep.of(TrialStarted) if closed[-1].time <= e.time < opened[0].time]
    assert len({event.slot for event in between}) == 1
    assert sorted(sweep.workers.names) == ["cpu0", "cpu1", "cpu2"]


def test_a_busy_slot_that_is_given_back_is_said_to_end_its_trial_first(start: Start) -> None:
    sweep = start("search.max_trials=6", slots=2)
    sweep.when(epoch_of(0), do="slots", slots=1)
    sweep.run()
    assert sweep.said == "1 slot of 2 is given back when its trial ends"


def test_all_slots_can_be_given_back_for_a_while(start: Start) -> None:
    sweep = start("search.max_trials=3", slots=1)
    sweep.when(epoch_of(2), do="slots", slots=0)
    sweep.when(lambda event: isinstance(event, SlotClosed), do="slots", slots=1)
    assert len(sweep.run().outcomes) == 3
    assert sweep.of(SweepEnded)[0].status is Status.COMPLETED


def test_a_limit_of_slots_lasts_after_a_kill_unless_the_workers_are_others_now(start: Start) -> None:
    sweep = start("search.max_trials=6", slots=2)
    sweep.when(epoch_of(0), do="slots", slots=1)
    sweep.run()
    stop = next(i for i, event in enumerate(sweep.events) if isinstance(event, SlotClosed))
    again = start("search.max_trials=6", slots=2, past=sweep.events[:stop])
    again.run()
    assert len({event.slot for event in again.events[stop:] if isinstance(event, TrialStarted)}) == 1
    other = start("search.max_trials=6", slots=2, past=sweep.events[:stop])
    other.sweep.emit(SweepResumed(other.clock(), {**other.sweep.state.config, "workers": {"count": 2}}))
    other.run()
    assert not [event for event in other.events[stop:] if isinstance(event, SlotClosed)]


def test_a_sweep_without_changes_asks_for_each_trial_with_the_next_number(start: Start) -> None:
    sweep = start("search.max_trials=5", slots=2)
    sweep.run()
    assert [event.trial for event in sweep.of(TrialAsked)] == [0, 1, 2, 3, 4]
