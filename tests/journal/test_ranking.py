"""Rankings, Pareto fronts, hopeless executions and confirmed winners."""

from __future__ import annotations

import itertools
import random

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.ranking import Ranking, confirm, pareto
from mnist_sweep.journal.trial import Outcome, Status, Trial

ACCURACY, PARAMETERS = Objective("val_accuracy", "max"), Objective("parameters", "min")


def results(*scores: float | None, objectives: tuple[Objective, ...] = (ACCURACY,), sizes: tuple = ()) -> Ranking:
    found = Ranking(objectives)
    for number, score in enumerate(scores):
        found.trials[number] = Trial(number, {}, {"training": {"seed": 1}}, 3)
        status = Status.FAILED if score is None else Status.COMPLETED
        metrics = {"parameters": sizes[number]} if sizes else {}
        found.end(number, Outcome(status, score=score, best_epoch=1, metrics=metrics))
    return found


def retrain(found: Ranking, candidate: int, seeds: dict[int, float | None]) -> None:
    for seed, score in seeds.items():
        number = len(found.trials)
        found.trials[number] = Trial(number, {}, {"training": {"seed": seed}}, 3, confirms=candidate)
        found.end(number, Outcome(Status.FAILED if score is None else Status.COMPLETED, score=score))


def test_trials_that_retrain_others_are_not_ranked() -> None:
    found = results(0.5, 0.7, None)
    retrain(found, 1, {1001: 0.9})
    assert found.ranked() == [1, 0]
    assert found.winner() == found.model() == 1


class TestParetoFront:
    def test_has_the_trials_that_no_other_trial_beats(self) -> None:
        both = (ACCURACY, PARAMETERS)
        found = results(0.9, 0.8, 0.95, 0.9, None, 0.7, objectives=both, sizes=(100, 50, 900, 200, 1, 60))
        assert found.pareto() == [2, 0, 1]
        assert found.ranked() == [2, 0, 1, 3, 5]
        assert found.winner() == 2

    def test_a_trial_without_the_second_objective_is_not_ranked(self) -> None:
        found = results(0.9, 0.8, objectives=(ACCURACY, Objective("latency", "min")))
        assert found.ranked() == []

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_a_comparison_of_all_pairs(self, seed: int) -> None:
        rng = random.Random(seed)
        objectives = (ACCURACY, PARAMETERS, Objective("val_loss", "min"))
        scores = {n: (rng.randint(0, 4), rng.randint(0, 4), rng.randint(0, 4)) for n in range(60)}

        def beats(a: tuple, b: tuple) -> bool:
            gains = (a[0] - b[0], b[1] - a[1], b[2] - a[2])
            return min(gains) >= 0 and max(gains) > 0

        expected = [n for n in scores if not any(beats(scores[m], scores[n]) for m in scores)]
        assert pareto(scores, objectives) == expected


class TestHopeless:
    def several(self, *scores: tuple[float, ...]) -> Ranking:
        found = results(*(sum(own) / len(own) for own in scores))
        for number, own in enumerate(scores):
            found.end(number, Outcome(Status.COMPLETED, score=sum(own) / len(own), scores=list(own)))
        return found

    def test_a_score_many_standard_errors_below_the_best_is_hopeless(self) -> None:
        found = self.several((0.90, 0.91, 0.92), (0.80, 0.81, 0.82), (0.85, 0.86, 0.87))
        # The spread is 0.01, so the threshold is 0.91 - 3 * 0.01 * sqrt(4 / 3).
        assert not found.hopeless(0.88)
        assert found.hopeless(0.87)

    def test_nothing_is_hopeless_before_the_spread_is_known(self) -> None:
        assert not self.several((0.90, 0.91), (0.90, 0.92)).hopeless(0.1)

    def test_a_large_loss_is_hopeless(self) -> None:
        found = self.several((0.10, 0.11), (0.20, 0.21), (0.3, 0.31))
        found.objectives = (Objective("val_loss", "min"),)
        assert found.hopeless(0.5)
        assert not found.hopeless(0.09)


class TestConfirm:
    def test_the_best_mean_wins_and_its_best_model_is_kept(self) -> None:
        found = results(0.9, 0.91)
        retrain(found, 1, {1001: 0.80, 1002: 0.82, 1003: 0.81})
        retrain(found, 0, {1001: 0.85, 1002: 0.88, 1003: 0.86})
        confirmed = confirm(found, [1, 0], 5.0)
        assert confirmed is not None
        assert (confirmed.winner, confirmed.model) == (0, 6)
        assert [row["trial"] for row in confirmed.candidates] == [0, 1]
        assert confirmed.candidates[1]["mean"] == pytest.approx(0.81)
        assert confirmed.candidates[1]["std"] == pytest.approx(0.01)
        # t = mean / (std / sqrt(n)) of the differences 0.05, 0.06, 0.05: 16 with 2 degrees of freedom.
        assert confirmed.p_value == pytest.approx(0.003884, rel=1e-3)
        found.confirmed = confirmed
        assert (found.winner(), found.model()) == (0, 6)

    def test_a_small_loss_wins(self) -> None:
        found = results(0.1, 0.2, objectives=(Objective("val_loss", "min"),))
        for candidate, score in ((0, 0.3), (1, 0.2)):
            retrain(found, candidate, {1001: score, 1002: score + 0.01})
        confirmed = confirm(found, [0, 1], 0.0)
        assert confirmed is not None
        assert (confirmed.winner, confirmed.model) == (1, 4)

    def test_failed_retrainings_are_left_out(self) -> None:
        found = results(0.9, 0.8)
        retrain(found, 0, {1001: None, 1002: None})
        retrain(found, 1, {1001: 0.7, 1002: None})
        confirmed = confirm(found, [0, 1], 0.0)
        assert confirmed is not None
        assert [row["trial"] for row in confirmed.candidates] == [1]
        assert confirmed.p_value is None

    def test_without_any_score_nothing_is_confirmed(self) -> None:
        found = results(0.9)
        retrain(found, 0, {1001: None})
        assert confirm(found, [0], 0.0) is None

    def test_equal_differences_give_no_p_value(self) -> None:
        found = results(0.9, 0.8)
        for candidate, seed in itertools.product((0, 1), (1001, 1002)):
            retrain(found, candidate, {seed: 0.5})
        confirmed = confirm(found, [0, 1], 0.0)
        assert confirmed is not None
        assert confirmed.p_value is None


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_winner_is_followed_while_trials_end_and_are_trained_again(direction: str) -> None:
    draws = random.Random(7)
    ranking = Ranking((Objective("val_accuracy", direction),))
    for number in draws.sample(range(200), 200):
        ranking.trials[number] = Trial(number, {}, {}, 1, confirms=0 if number % 10 == 3 else None)
        score = draws.choice([None, *(i / 10 for i in range(10))])
        ranking.end(number, Outcome(Status.FAILED if score is None else Status.COMPLETED, score=score))
        if number % 3 == 0:
            ranking.reopen(draws.choice([ranking.winner() or number, number]))
        assert ranking.winner() == next(iter(ranking.ranked()), None)
