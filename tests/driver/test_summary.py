"""What the terminal shows when a sweep starts and when it has ended."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.driver import summary
from mnist_sweep.driver.publish import Published
from mnist_sweep.journal.events import Confirmed, SweepStarted, WinnerTested
from mnist_sweep.journal.last_run import Change, LastRun
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Status, Trial

Printed = Callable[..., str]


@pytest.fixture
def printed(compose_config) -> Printed:
    """What is printed for trials with these scores."""

    def output_of(
        *scores: float | None,
        confirmed: Confirmed | None = None,
        objective: str = "val_accuracy",
        reason: str = "",
        units: str = "4,8,16,32",
        **more: Any,
    ) -> str:
        settings = check_settings(compose_config(f"model.units={units}", f"objective={objective}"))
        results = Ranking(settings.objectives, confirmed=confirmed)
        for number, score in enumerate(scores):
            status = Status.REFUSED if score is None else Status.COMPLETED
            results.trials[number] = Trial(number, {"model.units": 4 * 2**number}, {}, 3)
            metrics = {"parameters": 31702.0 * (number + 1)}
            results.end(number, Outcome(status, "too large", score, 1, metrics, seconds=2.0))
        file = io.StringIO()
        console = Console(file=file, width=140)
        summary.leaderboard(console, Space(settings.trial), results)
        tested = [WinnerTested(0.0, 0, {"test_accuracy": 0.5}, [])]
        summary.next_steps(
            lambda line: print(line, file=file),
            settings,
            Path("sweep"),
            "a/b",
            results,
            tested,
            Published(),
            reason,
            **more,
        )
        return file.getvalue()

    return output_of


def test_the_summary_says_why_no_trial_has_a_result(printed: Printed) -> None:
    assert "No trial has a result: the time budget of 1s is used up.\n" in printed(
        reason="the time budget of 1s is used up"
    )
    assert "No trial has a result: too large.\n" in printed(None, reason="no trial has a result")


def test_the_summary_counts_trials_that_failed_alike(compose_config) -> None:
    settings = check_settings(compose_config())
    results = Ranking(settings.objectives)
    reasons = ["layer_1 is too small", "out of memory", "layer_2 is too small?", "layer_1 is too small"]
    for number, reason in enumerate([*reasons, *reasons[:1]]):
        results.trials[number] = Trial(number, {}, {}, 3)
        results.end(number, Outcome(Status.REFUSED if number == 4 else Status.FAILED, reason))
    results.trials[5] = Trial(5, {}, {}, 3)
    results.end(5, Outcome(Status.DIVERGED, "diverged"))
    lines: list[str] = []
    why = "2 trials in a row failed (search.max_failures=2): layer_1 is too small"
    summary.next_steps(lines.append, settings, Path("sweep"), "a/b", results, [], None, why)
    assert lines[:7] == [
        "1 trial diverged.",
        "2 trials failed alike: layer_1 is too small.",
        "1 trial failed: out of memory.",
        "1 trial failed: layer_2 is too small?",
        "1 trial refused: layer_1 is too small.",
        "The search has ended early: 2 trials in a row failed (search.max_failures=2).",
        "No trial has a result.",
    ]


def test_only_trials_whose_code_has_failed_are_offered_to_be_trained_again(compose_config) -> None:
    settings = check_settings(compose_config())
    results = Ranking(settings.objectives)
    lines: list[str] = []
    for status, reason in ((Status.REFUSED, "limits.parameters=1: too large"), (Status.FAILED, "no memory")):
        number = len(results.trials)
        results.trials[number] = Trial(number, {}, {}, 3)
        results.outcomes[number] = Outcome(status, reason, parameters=9)
        summary.next_steps(lines.append, settings, Path("sweep"), "a/b", results, [], None, "")
    retried = [line for line in lines if "--retry-failed" in line]
    assert len(retried) == 1
    assert retried[0].startswith("To train the trials again with the same values, after correcting the cause: ")


def test_commands_on_a_folder_with_a_space_can_be_copied() -> None:
    assert summary.as_argument("quick/my results", Path("my results")) == "'my results'"
    assert summary.as_argument("quick/now", Path("experiments/quick/now")) == "quick/now"


def test_trials_that_were_stopped_are_counted_and_the_reason_for_the_end_is_told(compose_config) -> None:
    settings = check_settings(compose_config())
    results = Ranking(settings.objectives)
    for number in range(2):
        results.trials[number] = Trial(number, {}, {}, 3)
        results.end(number, Outcome(Status.STOPPED, "", 0.5, 1))
    lines: list[str] = []
    why = "the time budget of 9s is used up"
    summary.next_steps(lines.append, settings, Path("sweep"), "a/b", results, [], Published(), why)
    assert lines[:2] == ["2 trials were stopped early.", "The search has ended: the time budget of 9s is used up."]


def test_a_warm_start_without_usable_trials_is_announced() -> None:
    lines: list[str] = []
    about = {"name": "mnist_5k", "image": "28x28x1", "classes": 10}
    about |= {f"{part}_images": 1 for part in ("training", "validation", "test")}
    config = {"search": {"warm_start": ["one", "two"]}}
    summary.announce(lines.append, SweepStarted(0.0, "a/b", config, {}, about, {}), ["cpu0"])
    assert "  learns   nothing: no trial of one, two fits this space and has all objectives" in lines


def test_a_single_run_is_announced_with_its_settings_as_the_command_line_has_them(compose_config) -> None:
    lines: list[str] = []
    about = {"name": "mnist_5k", "image": "28x28x1", "classes": 10}
    about |= {f"{part}_images": 1 for part in ("training", "validation", "test")}
    config = compose_config("search=none", "model.units=[512,256]")
    summary.announce(lines.append, SweepStarted(0.0, "a/b", config, {}, about, {}), ["cpu0"], width=80)
    assert lines[0] == "Run a/b"
    assert "1 test image of 28x28x1" in lines[1]
    assert lines[2] == "  task     classification"
    assert lines[3].startswith("  settings model.kind=mlp model.layers=2 model.units=[512, 256]")
    assert "training.epochs=10" in " ".join(lines)
    assert max(map(len, lines[2:])) <= 80
    assert "null" not in str(lines)
    assert lines[-1] == "  workers  cpu0"


def test_a_single_run_of_a_hypermodel_is_announced_without_what_it_does_not_use(compose_config) -> None:
    lines: list[str] = []
    about = {"name": "mnist_5k", "image": "28x28x1", "classes": 10}
    about |= {f"{part}_images": 1 for part in ("training", "validation", "test")}
    config = compose_config("search=none", "model.hypermodel=own:build", "+model.values.units=8")
    summary.announce(lines.append, SweepStarted(0.0, "a/b", config, {}, about, {}), ["cpu0"])
    text = " ".join(lines)
    assert "settings model.hypermodel=own:build model.values.units=8 training.backend=tensorflow" in text
    assert "optimizer" not in text
    assert "model.layers" not in text


def test_what_is_announced_fits_into_the_lines_of_a_log() -> None:
    lines: list[str] = []
    about = {"name": "mnist_5k", "image": "28x28x1", "classes": 1}
    about |= {f"{part}_images": 1 for part in ("training", "validation", "test")}
    space = {"model.units": f"choice({', '.join(map(str, range(200)))})"}
    places = [f"cpu{i}" for i in range(64)]
    summary.announce(lines.append, SweepStarted(0.0, "a/b", {"search": {}}, space, about, {}), places, width=1000)
    assert max(map(len, lines)) <= 160
    assert lines[-1] == "  workers  64: cpu0 … cpu63"


LAST = LastRun(
    "a/a",
    [Change("model.units", "64", "128")],
    [Change("val_accuracy", "0.9100", "0.9300"), Change("time", "12 s", "8.0 s")],
    other_data=False,
)


def test_a_single_run_is_not_called_a_sweep_and_is_compared_with_the_last_one(printed: Printed) -> None:
    output = printed(0.93, units="4", single=True, last=LAST)
    assert output.startswith("Result: val_accuracy 0.9300 at epoch 1\n")
    for word in ("inner", "sweep folder", "eaderboard", "udget", "trial", "best"):
        assert word not in output
    assert (
        "\n".join(
            [
                "Compared with the last run, a/a:",
                "  model.units   64 → 128",
                "  val_accuracy  0.9100 → 0.9300",
                "  time          12 s → 8.0 s",
            ]
        )
        in output
    )
    assert "compare a --all" in output
    assert "Folder: " in output


def test_a_retrained_trial_is_compared_with_the_trials_of_its_sweep(printed: Printed) -> None:
    output = printed(0.93, units="4", single=True, retrains="a/a")
    assert "compare a/a sweep " in output
    assert "--all" not in output


def test_a_single_run_without_a_change_or_on_other_images_says_so(printed: Printed) -> None:
    assert "Nothing was changed since the last run, a/a:" in printed(
        0.93, units="4", single=True, last=replace(LAST, settings=[])
    )
    many = [Change(f"model.values.x{i}", "1", "2") for i in range(21)]
    output = printed(0.93, units="4", single=True, last=replace(LAST, settings=many, other_data=True))
    assert "the last run, a/a, on other data, so that the results cannot be compared:" in output
    assert "  and 1 other key of the config\n" in output


def test_a_single_run_that_fails_says_why(printed: Printed) -> None:
    output = printed(None, units="4", single=True)
    assert output.startswith("The run has no result: too large.\n")


def test_a_narrow_terminal_names_the_columns_that_are_not_shown(compose_config) -> None:
    settings = check_settings(compose_config("model.units=4,8", "model.activation=relu,tanh"))
    results = Ranking(settings.objectives)
    for number in range(2):
        values = {"model.units": 4 * (1 + number), "model.activation": "relu"}
        results.trials[number] = Trial(number, values, {}, 3)
        results.end(number, Outcome(Status.COMPLETED, "", 0.5, 1, {}, seconds=2.0))
    file = io.StringIO()
    summary.leaderboard(Console(file=file, width=34), Space(settings.trial), results)
    assert row(file.getvalue(), "0 4") == ["0", "4", "0.5000"]
    shown = " ".join(file.getvalue().split())
    assert "Not shown in 34 columns: rank, activation, best epoch, time. `compare --columns` shows any column." in shown


def row(output: str, start: str) -> list[str]:
    return next(line.split() for line in output.splitlines() if line.split()[:2] == start.split())


def test_the_best_trial_is_first_and_refused_trials_are_counted(printed: Printed) -> None:
    output = printed(0.5, 0.75, None)
    assert row(output, "1 1")[:4] == ["1", "1", "8", "0.7500"]
    assert row(output, "2 0")[3] == "0.5000"
    assert "1 trial refused: too large.\n" in output
    assert "Winner: trial 1, val_accuracy 0.7500" in output


def test_the_pareto_front_is_marked_and_numbers_of_parameters_are_whole(printed: Printed) -> None:
    output = printed(0.5, 0.75, 0.6, objective="[val_accuracy max, parameters min]")
    assert row(output, "1 1")[:6] == ["1", "1", "●", "8", "0.7500", "63,404"]
    assert row(output, "2 0")[:3] == ["2", "0", "●"]
    assert row(output, "3 2")[2] == "16"
    assert "no other trial is at least as good in val_accuracy and parameters and better in one" in output


def confirmed(*rows: tuple[int, float], p_value: float | None) -> Confirmed:
    candidates: list[dict[str, Any]] = [
        {"trial": trial, "scores": {"1": mean, "2": mean}, "mean": mean, "std": 0.004} for trial, mean in rows
    ]
    return Confirmed(0.0, candidates, rows[0][0], 9, p_value)


@pytest.mark.parametrize(
    ("p_value", "verdict"),
    [
        (0.001, "(paired t-test, p = 0.001)"),
        (0.3, "(paired t-test, p = 0.3, not significant)"),
    ],
)
def test_scores_on_new_seeds_decide_and_are_shown_with_their_spread(
    printed: Printed, p_value: float, verdict: str
) -> None:
    output = printed(0.5, 0.75, 0.7, confirmed=confirmed((0, 0.61), (1, 0.6), p_value=p_value))
    assert row(output, "1 0")[3:7] == ["0.5000", "0.6100", "±", "0.0040"]
    assert row(output, "3 2")[3:6] == ["0.7000", "–", "1"]
    assert "Winner: trial 0, val_accuracy 0.6100 ± 0.0040 on 2 new seeds; 0.0100 better than trial 1" in output
    assert verdict in output


def test_without_a_p_value_no_test_is_mentioned(printed: Printed) -> None:
    output = printed(0.5, 0.75, confirmed=confirmed((1, 0.7), (0, 0.6), p_value=None))
    assert "Winner: trial 1, val_accuracy 0.7000 ± 0.0040 on 2 new seeds; 0.1000 better than trial 0\n" in output


def test_the_most_frequent_mistake_is_told_with_the_names_of_the_classes(compose_config):
    settings = check_settings(compose_config())
    results = Ranking(settings.objectives)
    results.trials[0] = Trial(0, {}, {}, 3)
    results.end(0, Outcome(Status.COMPLETED, "", 0.5, 1))
    lines: list[str] = []
    for confusion, data in (
        ([[5, 2], [1, 4]], {"names": ["cat", "dog"], "image": "32x32x3"}),
        ([[5, 1], [0, 4]], {"columns": 3}),
        ([[5, 0], [0, 4]], {"image": "28x28x1", "classes": 10}),
    ):
        tested = [WinnerTested(0.0, 0, {"test_accuracy": 0.5}, confusion)]
        given = (settings, Path("sweep"), "a/b", results, tested, Published(), "")
        summary.next_steps(lines.append, *given, data=data)
    told = [line.strip() for line in lines if "mistake" in line]
    assert told == [
        "most frequent mistake: cat predicted as dog, 2 times",
        "most frequent mistake: 0 predicted as 1, 1 time",
    ]
    served = [line.partition("# ")[2] for line in lines if " serve " in line]
    assert served == [
        f"{what} and see what the best model predicts" for what in ("open a picture", "fill in a form", "draw a digit")
    ]
