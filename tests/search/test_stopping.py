"""Stopping rules, with made-up scores."""

from __future__ import annotations

import math
import random
import time

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import check_settings
from mnist_sweep.search import choose
from mnist_sweep.search.stopping import ASHA, Median, Stopping

ACCURACY, LOSS = Objective("val_accuracy", "max"), Objective("val_loss", "min")


def asha(objective: Objective = ACCURACY, epochs: int = 27, factor: int = 3, min_epochs: int = 1) -> ASHA:
    return ASHA(objective, epochs, factor, min_epochs)


def median(objective: Objective = ACCURACY, epochs: int = 27, min_trials: int = 3, min_epochs: int = 1) -> Median:
    return Median(objective, epochs, min_trials, min_epochs)


def stopped_at(rule: Stopping, number: int, curve: list[float], first: int = 1) -> int | None:
    """The epoch after which a trial is stopped, with no other trial running."""
    for epoch, score in enumerate(curve, start=first):
        if rule.report(number, epoch, score):
            return epoch
    return None


class TestASHA:
    def test_stops_trials_at_rungs_only(self) -> None:
        rule = asha()
        for number in range(3):
            assert stopped_at(rule, number, [0.9 + number / 100] * 27) is None
        worse = [0.5] * 27
        assert stopped_at(rule, 3, worse) == 1
        assert stopped_at(rule, 4, [0.95, *worse]) is None, "its best score so far counts"
        assert stopped_at(asha(min_epochs=2), 0, worse) is None

    def test_rungs_are_powers_of_the_factor_before_the_last_epoch(self) -> None:
        for epochs, min_epochs, rungs in [(27, 1, [1, 3, 9]), (28, 1, [1, 3, 9, 27]), (27, 2, [2, 6, 18]), (3, 3, [])]:
            found = []
            for last in range(1, epochs + 1):
                rule = asha(epochs=epochs, min_epochs=min_epochs)
                for number in range(3):
                    stopped_at(rule, number, [0.9] * epochs)
                if rule.report(3, last, 0.1):
                    found.append(last)
            assert found == rungs

    @pytest.mark.parametrize("factor", [2, 3, 4, 5])
    def test_the_best_fraction_of_many_trials_continues(self, factor: int) -> None:
        scores = [n / 1000 for n in range(900)]
        random.Random(factor).shuffle(scores)
        rule = asha(factor=factor)
        continued = [score for number, score in enumerate(scores) if not rule.report(number, 1, score)]
        assert len(continued) == pytest.approx(900 / factor, rel=0.1)
        assert max(scores) in continued

    def test_gives_the_reason(self) -> None:
        for factor, part in [(2, "half"), (3, "third"), (4, "quarter"), (10, "1/10")]:
            rule = asha(factor=factor, min_epochs=3)
            for number in range(factor):
                rule.report(number, 3, 0.9)
            assert rule.report(99, 3, 0.1) == f"not among the best {part} at epoch 3"

    def test_the_first_trial_at_a_rung_continues_until_better_ones_have_reached_it(self) -> None:
        rule = asha()
        assert rule.report(0, 1, 0.5) == ""
        assert rule.report(0, 2, 0.7) == ""
        assert rule.report(1, 1, 0.6) == ""
        later = "not among the best third at epoch 1, which 2 trials have reached by now"
        assert rule.report(0, 3, 0.8) == later
        assert rule.report(2, 1, 0.55) == "not among the best third at epoch 1"
        assert rule.report(1, 2, 0.1) == "", "three have reached it: the best of them continues"
        for number in range(3, 6):
            rule.report(number, 1, 0.9)
        assert rule.report(1, 4, 0.1) == "", "also when more trials follow"

    def test_not_all_of_many_simultaneous_trials_continue(self) -> None:
        rule, running, ends = asha(), set(range(16)), []
        order = random.Random(1)
        quality = {number: order.random() for number in running}
        for epoch in range(1, 28):
            for number in order.sample(sorted(running), len(running)):
                if rule.report(number, epoch, quality[number]):
                    running.discard(number)
                    ends.append(epoch)
        assert len(ends) >= 13
        assert max(quality, key=lambda n: quality[n]) in running

    def test_trials_with_equal_scores_all_continue(self) -> None:
        rule = asha()
        assert [stopped_at(rule, number, [0.5] * 27) for number in range(9)] == [None] * 9

    def test_a_continued_trial_is_compared_from_the_next_rung_on(self) -> None:
        rule = asha()
        for number in range(3):
            stopped_at(rule, number, [0.9] * 27)
        assert stopped_at(rule, 3, [0.1] * 24, first=4) == 9

    def test_saves_most_epochs_and_rarely_loses_much(self) -> None:
        epochs, regrets = [], []
        for seed in range(20):
            draw = random.Random(seed)
            curves = [made_up(draw) for _ in range(60)]
            rule = asha()
            ends = [stopped_at(rule, number, curve) or 27 for number, curve in enumerate(curves)]
            epochs.append(sum(ends))
            found = max(max(curve[:end]) for curve, end in zip(curves, ends, strict=True))
            regrets.append(max(map(max, curves)) - found)
        assert sum(epochs) / 20 < 0.25 * 60 * 27
        assert sum(regrets) / 20 < 0.005


class TestMedian:
    def test_stops_trials_worse_than_the_median_of_the_others_means(self) -> None:
        rule = median()
        for number, mean in enumerate([0.2, 0.4, 0.6, 0.8]):
            stopped_at(rule, number, [mean - 0.1, mean + 0.1])
        assert rule.report(4, 1, 0.39) == "worse than the median of 4 trials at epoch 1"
        assert rule.report(5, 1, 0.41) == ""
        assert rule.report(5, 2, 0.1) == "worse than the median of 4 trials at epoch 2"

    def test_uses_the_best_score_so_far(self) -> None:
        rule = median()
        for number in range(3):
            stopped_at(rule, number, [0.5] * 5)
        assert stopped_at(rule, 3, [0.51, 0.1, 0.1, 0.1, 0.1]) is None

    def test_waits_for_enough_trials_and_epochs(self) -> None:
        rule = median(min_trials=5, min_epochs=3)
        for number in range(5):
            assert stopped_at(rule, number, [0.9 - number / 10] * 27) is None, "four others at most"
        assert stopped_at(rule, 5, [0.1] * 27) == 3

    def test_stops_no_trial_at_its_last_epoch(self) -> None:
        rule = median(epochs=4, min_epochs=4)
        for number in range(4):
            stopped_at(rule, number, [0.9] * 4)
        assert stopped_at(rule, 4, [0.1] * 4) is None

    def test_trials_that_ended_earlier_do_not_count(self) -> None:
        rule = median()
        for number in range(3):
            stopped_at(rule, number, [0.5] * 5)
        for number in range(3, 10):
            stopped_at(rule, number, [0.9] * 2)
        assert rule.report(10, 1, 0.8) != ""
        assert rule.report(11, 3, 0.6) == ""


@pytest.mark.parametrize("make", [asha, median])
class TestBoth:
    def test_smaller_is_better_if_the_objective_is_minimized(self, make) -> None:
        up, down = make(ACCURACY), make(LOSS)
        draw = random.Random(3)
        for number in range(50):
            for epoch in range(1, 28):
                score = draw.random()
                up_answer, down_answer = up.report(number, epoch, score), down.report(number, epoch, -score)
                assert up_answer == down_answer
                if up_answer:
                    break

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("objective", [ACCURACY, LOSS])
    def test_nan_and_infinity_count_as_the_worst(self, make, bad: float, objective: Objective) -> None:
        rule = make(objective)
        for number in range(10):
            assert rule.report(number, 1, 0.5) == ""
        assert rule.report(10, 1, bad) != ""
        for number in range(11, 40):
            rule.report(number, 1, bad)
        assert rule.report(40, 1, bad) != "", "also if there are many"
        assert rule.report(41, 1, 0.5) == "", "and others are compared as before"

    def test_no_trial_is_stopped_while_none_has_a_score(self, make) -> None:
        rule = make(ACCURACY)
        assert {rule.report(number, 1, math.nan) for number in range(10)} == {""}
        assert {rule.report(number, 2, 0.5) for number in range(10)} == {""}

    def test_the_same_calls_give_the_same_answers(self, make) -> None:
        def answers() -> list[str]:
            rule, draw = make(), random.Random(5)
            return [rule.report(n, e, draw.random()) for e in range(1, 10) for n in range(30)]

        assert answers() == answers()
        assert len(set(answers())) > 3

    def test_a_report_takes_microseconds_with_a_thousand_trials(self, make) -> None:
        rule, draw = make(), random.Random(0)
        for number in range(1000):
            for epoch in range(1, 27):
                rule.report(number, epoch, draw.random())
        took = []
        for epoch in range(1, 27):
            start = time.perf_counter()
            rule.report(1000, epoch, 0.99)
            took.append(time.perf_counter() - start)
        assert sorted(took)[13] < 0.0005


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("search=asha",), ASHA),
        (("search=median",), Median),
        (("search=random",), None),
        (("search=hyperband",), None),
    ],
)
def test_the_config_chooses_the_rule(compose_config, overrides: tuple[str, ...], kind: type | None) -> None:
    rule = choose.create_stopping(check_settings(compose_config(*overrides)))
    assert (None if rule is None else type(rule)) is kind


def test_the_last_epoch_is_not_a_rung(compose_config) -> None:
    for epochs, is_rung in [(9, False), (10, True)]:
        rule = choose.create_stopping(check_settings(compose_config("search=asha", f"training.epochs={epochs}")))
        assert rule is not None
        for number in range(3):
            rule.report(number, 9, 0.9)
        assert bool(rule.report(3, 9, 0.1)) == is_rung


def made_up(draw: random.Random) -> list[float]:
    """A validation accuracy that rises to a limit, fast or slowly, with some noise."""
    limit, start, pace = 0.97 - 0.3 * draw.random() ** 2, draw.uniform(0.3, 1), math.exp(draw.uniform(-0.5, 1.5))
    return [limit - (limit - 0.1) * start * math.exp(-e / pace) + draw.gauss(0, 0.005) for e in range(1, 28)]
