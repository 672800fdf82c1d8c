"""What every search algorithm must do, driven by ask and tell with made-up learning curves; nothing is trained."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from mnist_sweep.config import check_trial
from mnist_sweep.search import create
from mnist_sweep.search.base import Answer, Search, Suggestion
from mnist_sweep.settings import Objective, check_settings
from mnist_sweep.space import Space, identity

ALGORITHMS = ["random", "grid", "bayesian", "hyperband"]
DISCRETE = (
    "model.layers=range(1,4)",
    "model.units=choice(16,32,64)",
    "model.per_layer=[units]",
    "optimizer.name=adam,sgd",
)
MIXED = (
    "model.layers=range(1,4)",
    "model.units=tag(log,int(interval(2,1000)))",
    "model.per_layer=[units]",
    "model.dropout=interval(0,0.5)",
    "model.batch_normalization=choice(true,false)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
)
Make = Callable[..., tuple[Search, Space, Objective]]


@pytest.fixture
def make(compose_config) -> Make:
    def made(algorithm: str, *overrides: str, seed: int = 1) -> tuple[Search, Space, Objective]:
        space_overrides = DISCRETE if algorithm == "grid" and not overrides else overrides or MIXED
        config = compose_config(f"search={algorithm}", f"seed={seed}", "training.epochs=9", *space_overrides)
        settings = check_settings(config)
        space = Space(settings.trial)
        return create(settings, space), space, settings.objective

    return made


def curve(values: dict, epoch: int) -> float:
    """A made-up accuracy: the same for the same values, rising with the epochs."""
    quality = random.Random(identity(values)).random()
    return quality * (1 - math.exp(-epoch / 3))


def play(
    search: Search, slots: int, most: int, order: int = 0, fails: float = 0.0, epochs: int = 9
) -> list[Suggestion]:
    """Runs a search with some slots, whose trials end in an order drawn from `order`."""
    rng = random.Random(order)
    running: dict[int, Suggestion] = {}
    suggestions: list[Suggestion] = []
    while True:
        paused = False
        while len(running) < slots and len(suggestions) < most:
            answer = search.ask(len(suggestions))
            if not isinstance(answer, Suggestion):
                assert answer is Answer.FINISHED or running, "paused with nothing to wait for"
                paused = True
                break
            running[len(suggestions)] = answer
            suggestions.append(answer)
        if not running:
            assert paused or len(suggestions) == most
            return suggestions
        number = rng.choice(sorted(running))
        suggestion = running.pop(number)
        if rng.random() < fails:
            search.tell(number, None)
            continue
        last = suggestion.epochs or epochs
        scores = [curve(suggestion.values, epoch) for epoch in range(suggestion.initial_epoch + 1, last + 1)]
        for epoch, score in enumerate(scores, start=suggestion.initial_epoch + 1):
            search.report(number, epoch, score)
        search.tell(number, max(scores))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_and_order_of_events_give_the_same_suggestions(make: Make, algorithm: str) -> None:
    first, second = (play(make(algorithm)[0], slots=3, most=25, order=7) for _ in range(2))
    assert first == second
    assert len(first) > 10


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
def test_seeds_zero_one_and_two_give_sequences_of_their_own(make: Make, algorithm: str) -> None:
    drawn = [[identity(s.values) for s in play(make(algorithm, seed=seed)[0], 1, 8)] for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
    assert not set(drawn[2]) & set(drawn[3])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_suggestion_is_a_valid_config_inside_the_bounds(make: Make, algorithm: str) -> None:
    search, space, _ = make(algorithm)
    for suggestion in play(search, slots=2, most=60 if algorithm != "bayesian" else 25):
        check_trial(space.config(suggestion.values))
        for hyperparameter in space.hyperparameters:
            assert (hyperparameter.name in suggestion.values) == hyperparameter.active(suggestion.values)
            if hyperparameter.name in suggestion.values:
                value, ends = suggestion.values[hyperparameter.name], hyperparameter.domain.extremes()
                assert type(value) in (int, float, str, bool)
                assert value in ends or min(ends) <= value <= max(ends)


@pytest.mark.parametrize("algorithm", ["random", "grid", "bayesian"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_a_small_space_is_used_up_without_a_repetition(make: Make, algorithm: str, seed: int) -> None:
    search, space, _ = make(algorithm, "model.units=choice(16,32,64)", "optimizer.name=adam,sgd", seed=seed)
    tried = [identity(s.values) for s in play(search, slots=2, most=100, order=seed)]
    assert sorted(tried) == sorted(map(identity, space.grid()))


@pytest.mark.parametrize("algorithm", ["random", "bayesian"])
def test_no_setting_of_a_mixed_space_is_tried_twice(make: Make, algorithm: str) -> None:
    overrides = (
        "model.units=choice(16,32)",
        "model.dropout=tag(log,interval(1e-3,0.5))",
        "model.layers=int(interval(1,3))",
    )
    tried = [identity(s.values) for s in play(make(algorithm, *overrides)[0], slots=4, most=30)]
    assert len(tried) == len(set(tried)) == 30


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_failed_trials_neither_end_nor_block_a_search(make: Make, algorithm: str) -> None:
    for order in range(5):
        assert len(play(make(algorithm)[0], slots=4, most=20, order=order, fails=0.3)) == 20


def test_all_trials_of_a_grid_may_run_at_once(make: Make) -> None:
    search, _, _ = make("grid", "model.units=choice(16,32,64)", "optimizer.name=adam,sgd")
    asked = [search.ask(number) for number in range(7)]
    assert [type(answer) for answer in asked] == [Suggestion] * 6 + [Answer]
    assert asked[6] is Answer.FINISHED


def test_values_that_keras_tuner_refuses_come_back_as_they_were_written(make: Make) -> None:
    overrides = (
        "model.units=choice(16,[32,64],8)",
        "model.l2=choice(0,0.5,1.5)",
        "model.batch_normalization=choice(true,false)",
    )
    search, _, _ = make("random", *overrides)
    seen = {identity(s.values["model.units"]) for s in play(search, slots=1, most=18)}
    assert seen == {"16", "[32, 64]", "8"}


class TestHyperband:
    @pytest.mark.parametrize("slots", [1, 4])
    @pytest.mark.parametrize("fails", [0.0, 0.25])
    def test_runs_all_its_rounds_whatever_fails(self, make: Make, slots: int, fails: float) -> None:
        suggestions = play(make("hyperband")[0], slots=slots, most=1000, order=slots, fails=fails)
        # Brackets of 9, 5 and 3 trials: rounds of 9, 3, 1 and 5, 2 and 3 (epochs 1, 3, 9 and 3, 9 and 9).
        assert len([s for s in suggestions if s.parent is None]) == 17
        if not fails:
            assert len(suggestions) == 23
            assert sum((s.epochs or 0) - s.initial_epoch for s in suggestions) == 75
        assert {s.epochs for s in suggestions} == {1, 3, 9}

    def test_promoted_trials_go_on_from_the_best_of_the_round_before(self, make: Make) -> None:
        suggestions = play(make("hyperband")[0], slots=1, most=1000)
        promoted = [s for s in suggestions if s.parent is not None]
        assert promoted
        for suggestion in promoted:
            assert suggestion.parent is not None
            parent = suggestions[suggestion.parent]
            assert suggestion.values == parent.values
            assert suggestion.initial_epoch == parent.epochs
        first_round = [s for s in suggestions if s.epochs == 1]
        best = max(first_round, key=lambda s: curve(s.values, 1))
        assert any(s.values == best.values for s in promoted)

    def test_nothing_goes_on_from_a_failed_trial(self, make: Make) -> None:
        search = make("hyperband")[0]
        for number in range(9):
            search.ask(number)
        for number in range(9):
            search.tell(number, 0.1 if number == 4 else None)
        asked = search.ask(9)
        assert isinstance(asked, Suggestion)
        assert asked.parent == 4


def test_a_thousand_random_trials_take_seconds(make: Make) -> None:
    assert len(play(make("random")[0], slots=8, most=1000)) == 1000
