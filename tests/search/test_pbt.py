"""Population based training, with made-up scores instead of training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.search_config import PBTSearch
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.config.trial_config import check_trial
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.search import compatibility, pbt
from mnist_sweep.search.base import Answer, Result, Search, Suggestion
from mnist_sweep.search.choose import create_search

RATE = "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))"
MIXED = (
    RATE,
    "model.layers=range(1,4)",
    "model.units=choice(16,32,64)",
    "model.dropout=interval(0,0.5)",
    "model.per_layer=[units,dropout]",
    "model.l2=choice(0.0,1e-5,1e-4,1e-3)",
    "optimizer.name=choice(adam,nadam)",
    "training.batch_size=tag(log,int(interval(16,256)))",
)
Make = Callable[..., tuple[Search, Space, Settings]]
Score = Callable[[int, Suggestion], float | None]


@pytest.fixture
def make(compose_config) -> Make:
    def made(*overrides: str, enqueued: Sequence[Values] = ()) -> tuple[Search, Space, Settings]:
        spaces = () if any("(" in o for o in overrides) else MIXED
        settings = check_settings(
            with_values(compose_config("search=pbt"), "training.epochs=6", "search.interval=1", *spaces, *overrides)
        )
        space = Space(settings.trial)
        return create_search(settings, space, enqueued), space, settings

    return made


def with_values(config: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """A config with other values; composing it again would take a quarter of a second."""
    for override in overrides:
        key, _, value = override.partition("=")
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value if "(" in value else yaml.safe_load(value)
    if "seed" in config:
        config["search"]["seed"] = config["seed"]
    return config


def play(search: Search, score: Score, slots: int = 8, order: int = 0) -> list[Suggestion]:
    """Runs a search to its end; its trials end in an order drawn with the seed `order`."""
    rng = random.Random(order)
    suggestions: list[Suggestion] = []
    running: list[int] = []
    while True:
        while len(running) < slots:
            answer = search.ask(len(suggestions))
            if not isinstance(answer, Suggestion):
                break
            running.append(len(suggestions))
            suggestions.append(answer)
        if not running:
            assert answer is Answer.FINISHED, "paused with nothing to wait for"
            return suggestions
        number = running.pop(rng.randrange(len(running)))
        scored = score(number, suggestions[number])
        epochs = suggestions[number].epochs or 0
        search.tell(number, Result(None if scored is None else (scored,), epochs))


def by_rate(number: int, suggestion: Suggestion) -> float:
    """Good near a learning rate of 0.003, and better with every epoch."""
    return -abs(math.log(suggestion.values["optimizer.learning_rate"] / 0.003)) + (suggestion.epochs or 0)


@pytest.mark.parametrize("slots", [1, 3, 8, 20])
@pytest.mark.parametrize(("epochs", "interval"), [(6, 1), (7, 2), (5, 4)])
def test_every_member_trains_all_epochs_generation_by_generation(
    make: Make, slots: int, epochs: int, interval: int
) -> None:
    search, _, _ = make(f"training.epochs={epochs}", f"search.interval={interval}")
    suggestions = play(search, by_rate, slots, order=slots)
    assert len(suggestions) == 8 * math.ceil(epochs / interval)
    assert sum((s.epochs or 0) - s.initial_epoch for s in suggestions) == 8 * epochs
    for suggestion in suggestions:
        assert suggestion.epochs == min(suggestion.initial_epoch + interval, epochs)
        if suggestion.initial_epoch:
            assert suggestion.parent is not None
            assert suggestions[suggestion.parent].epochs == suggestion.initial_epoch
        else:
            assert suggestion.parent is None


def test_repeated_asks_while_it_pauses_change_nothing(make: Make) -> None:
    (patient, _, _), (hasty, _, _) = make(), make()
    expected = play(patient, by_rate, slots=8, order=2)
    rng, suggestions, running = random.Random(2), [], []
    while True:
        while isinstance(answer := hasty.ask(len(suggestions)), Suggestion):
            running.append(len(suggestions))
            suggestions.append(answer)
        for _ in range(3):
            assert hasty.ask(len(suggestions)) is answer
        if not running:
            break
        number = running.pop(rng.randrange(len(running)))
        hasty.tell(number, Result((by_rate(number, suggestions[number]),), suggestions[number].epochs or 0))
    assert suggestions == expected


def test_the_same_seed_and_order_of_events_give_the_same_answers(make: Make) -> None:
    runs = [play(make(f"seed={seed}")[0], by_rate, 3, order) for seed, order in ((1, 5), (1, 5), (2, 5), (1, 6))]
    assert runs[0] == runs[1]
    assert runs[0][:8] != runs[2][:8]
    assert runs[0] != runs[3]


def test_suggestions_are_valid_and_keep_the_shapes_of_weights(make: Make) -> None:
    search, space, _ = make("search.population=12", "training.epochs=12")
    suggestions = play(search, by_rate, slots=5)
    may_change, changed = set(pbt.perturbable(space)), set()
    for suggestion in suggestions:
        check_trial(space.config(suggestion.values))
        for hyperparameter in space.hyperparameters:
            assert (hyperparameter.name in suggestion.values) == hyperparameter.active(suggestion.values)
            if hyperparameter.name in suggestion.values:
                value, ends = suggestion.values[hyperparameter.name], hyperparameter.domain.extremes()
                assert value in ends or min(ends) <= value <= max(ends)
        if suggestion.parent is not None:
            before = suggestions[suggestion.parent].values
            changed |= {name for name in before if before[name] != suggestion.values[name]}
    assert changed == may_change


class TestPerturbable:
    def test_includes_hyperparameters_that_change_no_shape(self, make: Make) -> None:
        _, space, _ = make()
        assert set(pbt.perturbable(space)) == {
            "optimizer.learning_rate",
            "training.batch_size",
            "model.dropout.1",
            "model.dropout.2",
            "model.dropout.3",
            "model.l2",
        }

    @pytest.mark.parametrize(
        ("sweep", "expected"),
        [
            ("model.dense.l2=choice(0.0,1e-4)", True),
            ("model.dropout=choice(0.1)", False),
            ("model.dropout=choice(0.1,[0.1,0.2])", False),
            ("model.filters=choice(16,32)", False),
            ("model.pooling.size=choice(2,3)", False),
            ("optimizer.arguments.beta_1=choice(0.8,0.9)", True),
            ("optimizer.arguments.amsgrad=choice(true,false)", False),
            ("optimizer.arguments.clipnorm=choice(null,1.0)", False),
            ("optimizer.arguments.momentum=choice(0.0,0.9)", False),
            ("optimizer.arguments.momentum=interval(0.5,0.9)", True),
            ("optimizer.arguments.gradient_accumulation_steps=choice(2,4)", False),
            ("optimizer.schedule.arguments.decay_rate=interval(0.5,0.9)", True),
            ("training.seed=range(0,5)", False),
            ("augment.rotation=interval(0.0,0.1)", True),
            ("augment.flip=choice(horizontal,null)", False),
        ],
    )
    def test_classifies_each_key(self, compose_config, sweep: str, expected: bool) -> None:
        space = Space(check_settings(with_values(compose_config("model=cnn"), sweep)).trial)
        assert bool(pbt.perturbable(space)) == expected

    def test_a_space_without_perturbable_hyperparameters_is_refused(self, make: Make) -> None:
        _, space, settings = make("model.units=choice(16,32)", "optimizer.name=choice(adam,sgd)")
        message = r"^search=pbt: none of the searched hyperparameters can change while a model trains; search optimizer"
        with pytest.raises(UserError, match=message):
            compatibility.check(settings, space)


class TestExploit:
    def test_the_worst_continue_from_the_best_and_the_others_from_themselves(self, make: Make) -> None:
        search, _, _ = make("search.quantile=0.25")
        first = [search.ask(number) for number in range(8)]
        for number in range(8):
            search.tell(number, Result((number / 10,), 1))
        second = [search.ask(8 + number) for number in range(8)]
        assert all(isinstance(s, Suggestion) for s in first + second)
        assert [s.parent for s in second[2:]] == [2, 3, 4, 5, 6, 7]
        assert [s.values for s in second[2:]] == [s.values for s in first[2:]]
        for suggestion in second[:2]:
            assert suggestion.parent in (6, 7)
            assert suggestion.values != first[suggestion.parent].values
            assert suggestion.initial_epoch == 1

    def test_smaller_is_better_if_the_objective_is_minimized(self, make: Make) -> None:
        search, _, _ = make("objective=val_loss min")
        for number in range(8):
            search.ask(number)
        for number in range(8):
            search.tell(number, Result((number / 10,), 1))
        assert [search.ask(8 + number).parent for number in range(6)] == [0, 1, 2, 3, 4, 5]
        assert {search.ask(14).parent, search.ask(15).parent} <= {0, 1}

    def test_members_with_equal_scores_are_not_replaced(self, make: Make) -> None:
        search, _, _ = make()
        suggestions = play(search, lambda number, suggestion: 0.5)
        for suggestion in suggestions[8:]:
            assert suggestion.values == suggestions[suggestion.parent].values

    def test_other_members_do_not_wait_for_a_slow_one(self, make: Make) -> None:
        search, _, _ = make()
        for number in range(8):
            search.ask(number)
        number, running = 8, list(range(1, 8))
        while running:  # member 0 never ends
            ended = running.pop(0)
            search.tell(ended, Result((0.5,), 1))
            answer = search.ask(number)
            if isinstance(answer, Suggestion):
                running.append(number)
                number += 1
        assert number == 8 + 7 * 5

    def test_a_free_slot_goes_to_the_member_that_has_trained_least(self, make: Make) -> None:
        epochs = [s.epochs for s in play(make()[0], by_rate, slots=1)]
        assert epochs == sorted(epochs)

    def test_continues_from_the_epoch_at_which_early_stopping_ended_a_generation(self, make: Make) -> None:
        search, _, _ = make("search.interval=3")
        for number in range(8):
            search.ask(number)
        search.tell(0, Result((0.5,), epoch=2))
        after = search.ask(8)
        assert isinstance(after, Suggestion)
        assert (after.initial_epoch, after.epochs, after.parent) == (2, 6, 0)

    def test_follows_an_optimum_that_moves_during_training(self, make: Make) -> None:
        for seed in range(5):
            search, _, _ = make(RATE, f"seed={seed}", "training.epochs=40")
            learnt: dict[int | None, float] = {None: 0.0}

            def score(number: int, s: Suggestion, learnt=learnt) -> float:
                learnt[number] = learnt[s.parent] + gain(s.values["optimizer.learning_rate"], s.epochs or 0)
                return learnt[number]

            suggestions = play(search, score, slots=4)
            fixed = [s.values["optimizer.learning_rate"] for s in suggestions[:8]]
            best_fixed = max(sum(gain(rate, epoch) for epoch in range(1, 41)) for rate in fixed)
            assert max(learnt.values()) > 1.3 * best_fixed


def gain(rate: float, epoch: int) -> float:
    """How much an epoch improves a model: most with a learning rate that falls from 0.1 to 0.001."""
    return math.exp(-abs(math.log(rate / (0.1 * 0.01 ** (epoch / 40)))))


class TestPerturbing:
    def moves(self, make: Make, sweep: str, value: float, resample: float = 0.0) -> set[float]:
        """What a value changes to, over many seeds, when its member continues from an equal one."""
        name = sweep.partition("=")[0]
        found = set()
        for seed in range(40):
            search, _, _ = make(
                sweep,
                f"seed={seed}",
                "search.population=2",
                f"search.resample={resample}",
                enqueued=[{name: value}] * 2,
            )
            search.ask(0), search.ask(1)
            search.tell(0, Result((0.1,), 1))
            search.tell(1, Result((0.9,), 1))
            found.add(search.ask(2).values[name])
        return found

    @pytest.mark.parametrize(
        ("sweep", "value", "expected"),
        [
            ("optimizer.learning_rate=tag(log,interval(1e-3,1e-1))", 0.01, {0.008, 0.012}),
            ("optimizer.learning_rate=tag(log,interval(1e-3,1e-1))", 0.09, {0.072, 0.1}),
            ("optimizer.learning_rate=tag(log,interval(1e-3,1e-1))", 0.1, {0.08}),
            ("model.dropout=interval(0.1,0.5)", 0.1, {0.12}),
            ("training.batch_size=int(interval(8,64))", 20, {16, 24}),
            ("training.batch_size=int(interval(1,64))", 2, {1, 3}),
            ("training.batch_size=int(interval(1,64))", 64, {51}),
            ("model.l2=choice(0.01,0.0,0.1)", 0.01, {0.0, 0.1}),
            ("model.l2=choice(0.01,0.0,0.1)", 0.0, {0.01}),
            ("model.l2=choice(0.01,0.0,0.1)", 0.1, {0.01}),
        ],
    )
    def test_changes_a_number_a_little_inside_its_bounds(
        self, make: Make, sweep: str, value: float, expected: set[float]
    ) -> None:
        assert sorted(self.moves(make, sweep, value)) == pytest.approx(sorted(expected))

    def test_a_value_of_zero_is_changed_too(self, make: Make) -> None:
        assert min(self.moves(make, "model.dropout=interval(0,0.5)", 0.0)) > 0

    def test_resamples_with_the_given_probability(self, make: Make) -> None:
        sweep = "optimizer.learning_rate=tag(log,interval(1e-4,1))"
        assert len(self.moves(make, sweep, 0.01)) == 2
        assert len(self.moves(make, sweep, 0.01, resample=1.0)) == 40
        assert 8 < len(self.moves(make, sweep, 0.01, resample=0.5)) < 32


class TestFailures:
    @pytest.mark.parametrize("slots", [1, 4, 8])
    def test_of_trials_block_no_member_and_are_never_continued(self, make: Make, slots: int) -> None:
        for order in range(10):
            rng, failed = random.Random(order), set()

            def score(number: int, suggestion: Suggestion, rng=rng, failed=failed) -> float | None:
                if rng.random() < 0.4:
                    failed.add(number)
                    return rng.choice([None, math.nan, math.inf])
                return rng.random()

            suggestions = play(make()[0], score, slots, order)
            assert len(suggestions) == 8 * 6
            assert not {s.parent for s in suggestions} & failed
            assert {s.epochs for s in suggestions} == {1, 2, 3, 4, 5, 6}
            assert all(s.epochs > s.initial_epoch == (suggestions[s.parent].epochs if s.parent is not None else 0)
                       for s in suggestions)  # fmt: skip

    def test_a_failed_member_continues_from_one_of_the_best(self, make: Make) -> None:
        search, _, _ = make()
        for number in range(8):
            search.ask(number)
        for number in range(1, 8):
            search.tell(number, Result((number / 10,), 1))
        search.tell(0, Result(None))
        after = search.ask(8)
        assert isinstance(after, Suggestion)
        assert after.parent in (6, 7)
        assert (after.initial_epoch, after.epochs) == (1, 2)

    def test_a_trial_with_unfinished_executions_is_never_continued(self, make: Make) -> None:
        search, _, _ = make()
        for number in range(8):
            search.ask(number)
        for number in range(8):
            search.tell(number, Result((number / 10,), 1, cut=number == 7, whole=number < 7))
        after = [search.ask(8 + number) for number in range(8)]
        assert {s.parent for s in after if isinstance(s, Suggestion)} <= set(range(7))

    def test_the_first_to_fail_in_a_generation_continues_from_the_one_before(self, make: Make) -> None:
        search, _, _ = make()
        for number in range(8):
            search.ask(number)
        for number in range(8):
            search.tell(number, Result((number / 10,), 1))
        for number in range(8, 16):
            search.ask(number)
        search.tell(9, Result(None))
        after = search.ask(16)
        assert isinstance(after, Suggestion)
        assert after.parent in (6, 7)
        assert (after.initial_epoch, after.epochs) == (1, 3)

    def test_members_start_from_scratch_if_all_have_failed(self, make: Make) -> None:
        suggestions = play(make()[0], lambda number, suggestion: None)
        assert len(suggestions) == 8 * 6
        assert {s.parent for s in suggestions} == {None}
        assert len({identity(s.values) for s in suggestions}) == 48


class TestEnqueued:
    def test_enqueued_values_are_the_first_members(self, make: Make) -> None:
        given = [{"optimizer.learning_rate": 0.01}, {"optimizer.learning_rate": 0.02}]
        search, _, _ = make(RATE, enqueued=given)
        assert [search.ask(number).values for number in range(2)] == given

    def test_more_enqueued_values_than_members_are_refused(self, make: Make) -> None:
        with pytest.raises(UserError, match=r"search.population=2: search.enqueue has 3 entries"):
            make(RATE, "search.population=2", enqueued=[{"optimizer.learning_rate": 0.01 * n} for n in (1, 2, 3)])

    def test_members_differ_if_the_space_is_large_enough(self, make: Make) -> None:
        given = [{"model.l2": 0.01, "model.dropout": 0.1}]
        sweeps = ("model.l2=choice(0.0,0.01,0.1)", "model.dropout=choice(0.1,0.2,0.3)")
        search, _, _ = make(*sweeps, enqueued=given)
        assert len({identity(search.ask(number).values) for number in range(8)}) == 8
        few, _, _ = make("model.l2=choice(0.0,0.01,0.1)")
        assert len({identity(few.ask(number).values) for number in range(8)}) == 3


class TestSpent:
    @pytest.mark.parametrize("fails", [0.0, 0.3])
    @pytest.mark.parametrize("slots", [1, 5, 8])
    def test_no_trial_continues_from_a_dropped_state(self, make: Make, slots: int, fails: float) -> None:
        search, _, settings = make("search.interval=2", "training.epochs=12")
        assert isinstance(settings.search, PBTSearch)
        config, rng = settings.search, random.Random(slots)
        trials: dict[int, Trial] = {}
        outcomes: dict[int, Outcome] = {}
        dropped: set[int] = set()
        most = 0
        running: list[int] = []
        while True:
            while len(running) < slots and isinstance(s := search.ask(len(trials)), Suggestion):
                assert s.parent not in dropped
                running.append(len(trials))
                trials[len(trials)] = Trial(len(trials), s.values, {}, s.epochs or 0, s.initial_epoch, s.parent)
            if not running:
                break
            number = running.pop(rng.randrange(len(running)))
            assert trials[number].parent not in dropped, "a second attempt would need it"
            score = None if rng.random() < fails else rng.random()
            outcomes[number] = Outcome(Status.FAILED if score is None else Status.COMPLETED, score=score)
            search.tell(number, Result(None if score is None else (score,), trials[number].epochs))
            dropped |= pbt.spent(config, trials, outcomes)
            most = max(most, len(set(outcomes) - dropped))
        assert len(trials) == 48
        assert len(dropped) >= 32 if slots == 1 else dropped
        assert most <= 24 if not fails and slots == 1 else most < 48
