"""The contract that every search algorithm must pass, tested with made-up learning curves instead of training."""

from __future__ import annotations

import random

import pytest
from playing import (
    ALL,
    CONDITIONAL,
    DISCRETE,
    MOST,
    SAMPLERS,
    SMALL,
    SMALL_CONDITIONAL,
    Event,
    Make,
    algorithms,
    curve,
    play,
    tried,
)

from mnist_sweep.config.space import identity
from mnist_sweep.config.trial_config import check_trial
from mnist_sweep.search.base import Answer, Result, Search, Suggestion


@pytest.mark.parametrize("algorithm", ALL)
def test_the_same_seed_and_order_of_events_give_the_same_suggestions(make: Make, algorithm: str) -> None:
    first, second = (
        play(make(algorithm).search, slots=3, most=MOST.get(algorithm, 25), order=7, fails=0.1) for _ in range(2)
    )
    assert first == second
    assert len(first) > 10


@pytest.mark.parametrize("algorithm", [a for a in ALL if a != "grid"])
def test_seeds_zero_one_and_two_give_different_suggestions(make: Make, algorithm: str) -> None:
    drawn = [tried(play(make(algorithm, seed=seed).search, 1, 6)) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
    assert not set(drawn[2]) & set(drawn[3])
    assert not set(drawn[3]) & set(drawn[0])


@pytest.mark.parametrize("space", [(), CONDITIONAL])
@pytest.mark.parametrize("algorithm", ALL)
def test_every_suggestion_is_a_valid_config_inside_the_bounds(
    make: Make, algorithm: str, space: tuple[str, ...]
) -> None:
    made = make(algorithm, *(SMALL_CONDITIONAL if space and algorithm == "grid" else space))
    for suggestion in play(made.search, slots=2, most=MOST.get(algorithm, 40)):
        check_trial(made.space.config(suggestion.values))
        for hyperparameter in made.space.hyperparameters:
            name, domain = hyperparameter.name, hyperparameter.domain
            assert (name in suggestion.values) == hyperparameter.active(suggestion.values)
            if name not in suggestion.values:
                continue
            value, ends = suggestion.values[name], domain.extremes()
            if domain.size is not None and domain.size < 10:
                assert identity(value) in map(identity, domain.all())
            else:
                assert type(value) is (int if domain.size else float)
                assert min(ends) <= value <= max(ends)


@pytest.mark.parametrize("algorithm", algorithms(*SAMPLERS, "grid"))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_space_is_exhausted_without_repetition(make: Make, algorithm: str, seed: int) -> None:
    made = make(algorithm, *SMALL, seed=seed)
    suggestions = play(made.search, slots=2, most=100, order=seed, fails=0.2)
    assert sorted(tried(suggestions)) == sorted(map(identity, made.space.grid()))


@pytest.mark.parametrize("algorithm", algorithms(*SAMPLERS))
def test_no_values_are_tried_twice(make: Make, algorithm: str) -> None:
    most = MOST.get(algorithm, 30)
    suggestions = play(make(algorithm, *DISCRETE).search, slots=4, most=most, fails=0.1)
    assert len(set(tried(suggestions))) == len(suggestions) == most


@pytest.mark.parametrize("algorithm", ALL)
def test_failed_trials_neither_end_nor_block_the_search(make: Make, algorithm: str) -> None:
    for order in range(1 if algorithm in MOST else 4):
        most = MOST.get(algorithm, 20)
        assert len(play(make(algorithm).search, slots=4, most=most, order=order, fails=0.3)) == most
    made = make(algorithm)
    assert len(play(made.search, slots=2, most=8, fails=1)) == 8


@pytest.mark.parametrize("algorithm", ALL)
def test_enqueued_values_come_first_and_only_once(make: Make, algorithm: str) -> None:
    discrete = make(algorithm, *DISCRETE)
    enqueued = [discrete.space.sample(random.Random(seed)) for seed in range(7)]
    made = make(algorithm, *DISCRETE, enqueued=enqueued)
    first = [made.search.ask(number) for number in range(7)]
    assert [a.values for a in first if isinstance(a, Suggestion)] == enqueued
    for number in range(7):
        made.search.tell(number, Result((0.5 + number / 100,), 9))
    later = [made.search.ask(number) for number in range(7, MOST.get(algorithm, 20))]
    fresh = [s for s in later if isinstance(s, Suggestion) and s.parent is None]
    assert fresh
    assert not set(tried(fresh)) & set(map(identity, enqueued))


@pytest.mark.parametrize("algorithm", ALL)
def test_a_restored_search_continues_as_without_the_interruption(make: Make, algorithm: str) -> None:
    enqueued = [make(algorithm).space.sample(random.Random(5))]
    story: list[Event] = []
    made = make(algorithm, enqueued=enqueued)
    play(made.search, slots=3, most=MOST.get(algorithm, 24), order=3, fails=0.2, cuts=0.3, story=story)
    for stop in (1, len(story) // 2, len(story) - 4):
        search = made.build()
        for kind, number, what in story[:stop]:
            if kind == "ask":
                search.restore(number, what)
            else:
                search.tell(number, what)
        for kind, number, what in story[stop:]:
            if kind == "ask":
                assert search.ask(number) == what
            else:
                search.tell(number, what)


@pytest.mark.parametrize("algorithm", algorithms(*(a for a in SAMPLERS if a not in MOST), "grid", "gp"))
def test_a_small_space_with_conditions_is_exhausted_without_repetition(make: Make, algorithm: str) -> None:
    made = make(algorithm, *SMALL_CONDITIONAL)
    assert made.space.size == 5
    suggestions = play(made.search, slots=2, most=100, order=1, fails=0.2)
    assert sorted(tried(suggestions)) == sorted(map(identity, made.space.grid()))


def test_all_trials_of_a_grid_can_run_at_once(make: Make) -> None:
    search = make("grid", *SMALL).search
    asked = [search.ask(number) for number in range(7)]
    assert [type(answer) for answer in asked] == [Suggestion] * 6 + [Answer]
    assert asked[6] is Answer.FINISHED


@pytest.mark.parametrize("algorithm", ["random", "tpe", "nsga2"])
def test_values_that_keras_tuner_does_not_accept_come_back_unchanged(make: Make, algorithm: str) -> None:
    overrides = (
        "model.units=choice(16,[32,64],8)",
        "model.l2=choice(0,0.5,1.5)",
        "model.batch_normalization=choice(true,false)",
    )
    suggestions = play(make(algorithm, *overrides).search, slots=1, most=18)
    assert {identity(s.values["model.units"]) for s in suggestions} == {"16", "[32, 64]", "8"}
    assert {identity(s.values["model.l2"]) for s in suggestions} == {"0", "0.5", "1.5"}
    assert {identity(s.values["model.batch_normalization"]) for s in suggestions} == {"true", "false"}


class TestHyperband:
    @pytest.mark.parametrize("slots", [1, 4])
    @pytest.mark.parametrize("fails", [0.0, 0.25])
    def test_runs_all_rounds_although_trials_fail(self, make: Make, slots: int, fails: float) -> None:
        suggestions = play(make("hyperband").search, slots=slots, most=1000, order=slots, fails=fails)
        # Brackets of 9, 5 and 3 trials: rounds of 9, 3, 1 and 5, 2 and 3 (epochs 1, 3, 9 and 3, 9 and 9).
        assert len([s for s in suggestions if s.parent is None]) == 17
        if not fails:
            assert len(suggestions) == 23
            assert sum((s.epochs or 0) - s.initial_epoch for s in suggestions) == 75
        assert {s.epochs for s in suggestions} == {1, 3, 9}

    def test_promoted_trials_continue_from_the_best_of_the_round_before(self, make: Make) -> None:
        suggestions = play(make("hyperband").search, slots=1, most=1000)
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

    def test_no_trial_continues_from_a_failed_one(self, make: Make) -> None:
        search = make("hyperband").search
        for number in range(9):
            search.ask(number)
        for number in range(9):
            search.tell(number, Result((0.1,) if number == 4 else None, 1))
        asked = search.ask(9)
        assert isinstance(asked, Suggestion)
        assert asked.parent == 4

    def test_a_trial_that_diverged_is_not_promoted_however_good_it_was(self, make: Make) -> None:
        search = make("hyperband").search
        for number in range(9):
            search.ask(number)
        for number in range(9):
            best = number == 4
            search.tell(number, Result((0.9 if best else number / 100,), 1, whole=not best, diverged=best))
        promoted = [search.ask(number) for number in range(9, 12)]
        assert [p.parent for p in promoted if isinstance(p, Suggestion)] == [8, 7, 6]


def test_a_thousand_random_trials_take_seconds(make: Make) -> None:
    assert len(play(make("random").search, slots=8, most=1000)) == 1000


@pytest.mark.parametrize("algorithm", ALL)
def test_trials_that_a_user_adds_are_not_repeated_and_restored_with_the_others(make: Make, algorithm: str) -> None:
    enqueued = [make(algorithm, *DISCRETE).space.sample(random.Random(3))]
    made = make(algorithm, *DISCRETE, enqueued=enqueued)
    added = Suggestion(made.space.sample(random.Random(5)))
    story: list[Event] = []

    def ask(search: Search, number: int) -> Suggestion:
        answer = search.ask(number)
        assert isinstance(answer, Suggestion)
        return answer

    # Before the enqueued values, and while others run.
    made.search.add(0, added)
    story.append(("add", 0, added))
    for number in range(1, 8):
        suggestion = ask(made.search, number)
        story.append(("ask", number, suggestion))
        done = number - 1
        values = next(what.values for kind, n, what in story if n == done and kind != "tell")
        result = Result((curve(values, 9),), 9)
        made.search.tell(done, result)
        story.append(("tell", done, result))
    assert story[1][2].values == enqueued[0]
    fresh = [what for kind, _, what in story if kind == "ask" and what.parent is None]
    assert identity(added.values) not in tried(fresh)
    again = made.build()
    for kind, number, what in story:
        {"add": again.add, "ask": again.restore, "tell": again.tell}[kind](number, what)
    assert ask(again, 8) == ask(made.search, 8)
