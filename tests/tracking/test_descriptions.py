"""The names and descriptions of a sweep's runs in MLflow."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import check_settings
from mnist_sweep.journal.events import Confirmed, SettingsChanged, SweepEnded, SweepPaused, SweepStarted, WinnerTested
from mnist_sweep.journal.last_run import Change, LastRun
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.tracking.descriptions import progress_note, sweep_name, sweep_note, trial_name

_DATA = {
    "name": "npz",
    "training_images": 3600,
    "validation_images": 400,
    "test_images": 1000,
    "image": "28x28x1",
    "classes": 10,
}


@pytest.mark.parametrize(
    ("sweep", "name"),
    [
        ("quick/2026-11-23_05-32-59", "quick 2026-11-23 05:32"),
        ("quick/2026-11-23_05-32-59-2", "quick 2026-11-23 05:32-2"),
        ("quick/2026-11-23_05-32-59/3", "quick 2026-11-23 05:32 #3"),
        ("quick/mine", "quick mine"),
    ],
)
def test_a_sweeps_run_is_named_after_it(sweep: str, name: str) -> None:
    assert sweep_name(sweep) == name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model.layers": 2, "model.units": 128, "optimizer.name": "adam"}, "trial 7: 2 layers, 128 units, adam"),
        ({"model.layers": 1, "model.units": 1}, "trial 7: 1 layer, 1 unit"),
        ({"model.layers": 2, "model.units.1": 256, "model.units.2": 32}, "trial 7: 256-32 units"),
        ({"model.layers": 2, "model.units.1": 64, "model.units.2": 64}, "trial 7: 64-64 units"),
        # The number of layers is part of the name unless it follows from the rest.
        ({"model.layers": 2, "model.activation.1": "relu", "model.activation.2": "relu"}, "trial 7: 2 layers, relu"),
        ({"model.layers": 2, "model.activation.1": "relu", "model.activation.2": "elu"}, "trial 7: 2 layers, relu-elu"),
        ({"model.units": 64, "model.dense.units": 32}, "trial 7: 64 units, 32 dense units"),
        ({"model.dropout": 0.5, "model.dense.dropout": 0.2}, "trial 7: dropout 0.5, dense dropout 0.2"),
        # The optimizer and its rate before what changes less.
        (
            {"model.dropout": 0.25, "optimizer.name": "sgd", "optimizer.learning_rate": 0.0039240},
            "trial 7: sgd, lr 0.00392, dropout 0.25",
        ),
        ({"model.batch_normalization": True, "training.batch_size": 32}, "trial 7: batch norm, batch 32"),
        ({"model.batch_normalization": False}, "trial 7"),
        ({"model.values.depth": 3, "model.values.rate": None}, "trial 7: depth 3, rate None"),
        ({}, "trial 7"),
    ],
)
def test_a_trials_run_is_named_after_its_values(values: dict[str, Any], name: str) -> None:
    assert trial_name(Trial(7, values, {}, 1)) == name


def test_a_name_has_at_most_60_characters_and_leaves_out_what_does_not_fit() -> None:
    values = {f"model.units.{i}": 512 for i in range(1, 20)} | {"optimizer.name": "adam", "model.l2": 0.5}
    assert trial_name(Trial(7, values, {}, 1)) == "trial 7: adam, l2 0.5"


def test_a_trial_that_confirms_another_is_named_after_that_one() -> None:
    assert trial_name(Trial(9, {"a": 1}, {"training": {"seed": 5}}, 1, confirms=3)) == "trial 9: trial 3 with seed 5"


# ---- the sweep's note -------------------------------------------------------------------------------------------


@pytest.fixture
def note(compose_config):
    settings = check_settings(compose_config("name=story", "description=Wide against deep"))

    def written(
        count: int = 12, *, status: Status = Status.COMPLETED, reason: str = "", confirmed: bool = False, **more: Any
    ) -> str:
        results = Ranking((Objective("val_accuracy", "max"),))
        for n in range(count):
            results.trials[n] = Trial(n, more.get("values", {"model.units": n}), {}, 3)
            results.end(n, Outcome(Status.COMPLETED, score=0.5 + n / 100, seconds=n))
        if confirmed:
            rows = [{"trial": n, "scores": {"7": m, "8": m}, "mean": m, "std": 0.01} for n, m in ((3, 0.9), (11, 0.8))]
            results.confirmed = Confirmed(0.0, rows, 3, 13, None)
        tested = WinnerTested(0.0, 11, {"test_accuracy": 0.9}, []) if count else None
        space = more.get("space", {"model.units": "range(0, 12)"})
        started = SweepStarted(0.0, "story/now", {}, space, {**_DATA, **more.get("data", {})}, {})
        ended, steered = SweepEnded(0.0, status, reason, None), more.get("steered", ())
        return sweep_note(settings, started, results, tested, ended, more.get("last"), steered)

    return written


def test_it_shows_the_winner_the_best_ten_the_space_and_next_steps(note) -> None:
    text = note()
    lines = text.splitlines()
    assert lines[0] == "Wide against deep"
    assert lines[2] == "**Winner: trial 11**, val_accuracy 0.6100; on the test data: test_accuracy 0.9000."
    assert "### Leaderboard: the best 10 of 12" in lines
    assert sum(line.endswith(" s |") for line in lines) == 10
    assert "| 1 | 11 | 11 units | 0.6100 | 11 s |" in lines
    assert "| `model.units` | `range(0, 12)` |" in lines
    assert "npz: 3,600 training, 400 validation and 1,000 test images of 28x28x1, 10 classes." in lines
    assert lines[-4:-1] == [
        "python -m mnist_sweep compare story/now",
        "python -m mnist_sweep export story/now --to exported",
        "python -m mnist_sweep ui story/now",
    ]


def test_it_shows_the_scores_on_new_seeds(note) -> None:
    lines = note(confirmed=True).splitlines()
    assert lines[2].startswith(
        "**Winner: trial 3**, val_accuracy 0.9000 ± 0.0100 on 2 new seeds; 0.1000 better than trial 11"
    )
    assert lines[2].endswith(" Its model is that of trial 13.")
    assert "| 1 | 3 | 3 units | 0.5300 | 0.9000 ± 0.0100 | 3.0 s |" in lines
    assert "| 2 | 11 | 11 units | 0.6100 | 0.8000 ± 0.0100 | 11 s |" in lines
    assert "| 3 | 10 | 10 units | 0.6000 | – | 10 s |" in lines


def test_it_shows_how_to_resume_an_interrupted_sweep(note) -> None:
    text = note(status=Status.STOPPED, reason="stopped by Ctrl-C")
    assert "**Interrupted**: stopped by Ctrl-C. 12 trials have ended." in text
    assert "python -m mnist_sweep resume story/now" in text


def test_it_says_that_no_trial_has_a_result(note) -> None:
    assert "**No trial has a result**." in note(0, status=Status.FAILED, reason="no trial has a result")


def test_it_says_that_the_data_replace_others(note) -> None:
    assert "They replace mnist, which could not be downloaded." in note(data={"fallback_for": "mnist"})


def test_it_stays_below_the_limit_of_mlflow(note) -> None:
    """The last section, the next steps, is there even if the space is enormous."""
    values = {f"model.values.hyperparameter_{i}": i for i in range(40)}
    text = note(values=values)
    assert 6000 < len(text) <= 8000
    assert text.endswith("```")
    space = {f"model.values.hyperparameter_{i}": "choice(1, 2)" for i in range(500)}
    text = note(space=space)
    assert len(text) <= 8000
    assert text.startswith("**Winner: trial 11**")
    assert text.endswith("```")


def test_a_pipe_in_a_value_does_not_break_the_table(note) -> None:
    assert "x a\\|b" in note(values={"model.x": "a|b"})


def test_a_single_run_shows_its_result_and_what_differs_from_the_last_one(note) -> None:
    changes = [Change("model.units", "64", "128")], [Change("val_accuracy", "0.9100", "0.9300")]
    text = note(1, space={}, last=LastRun("story/before", *changes, other_data=True))
    assert "**Result**: val_accuracy 0.5000 at epoch None; on the test data: test_accuracy 0.9000." in text
    assert "The last run is story/before. It used other images, so the results cannot be compared." in text
    assert "| `model.units` | 64 | 128 |\n| `val_accuracy` | 0.9100 | 0.9300 |" in text
    for word in ("Winner", "Leaderboard", "Searched", "trial", "sweep"):
        assert word not in text.partition("### Next")[0]
    assert "### Compared" not in note(1, space={})
    assert "**The run has no result**." in note(0, space={}, status=Status.FAILED)


def test_a_running_sweep_counts_its_trials_and_a_single_run_does_not(compose_config) -> None:
    settings, one = (check_settings(compose_config("name=story", *more)) for more in ([], ["search=none"]))
    state = SweepState(settings.objectives)
    state.results = Ranking(settings.objectives, {0: Trial(0, {}, {}, 3)}, {0: Outcome(Status.COMPLETED, score=0.5)})
    assert "**Running**: 1 of 20 trials have ended." in progress_note(settings, state)
    assert "**Running**: 1 of 1 trial has ended." in progress_note(one, state)
    state.handle(SweepStarted(0.0, "story/now", {}, {}, {}, {}))
    assert progress_note(one, state) == "A single run of story.\n\n**Running**."


def test_what_was_changed_while_a_sweep_ran_is_listed(compose_config, note) -> None:
    settings = check_settings(compose_config("name=story"))
    state = SweepState(settings.objectives)
    state.handle(
        SweepStarted(0.0, "story/now", {"search": {"max_trials": 20}}, {"model.units": "choice(1, 2)"}, {}, {})
    )
    state.handle(SettingsChanged(3600.0, "ada@box", 7, {"search.max_trials": 30, "model.units": "choice(1)"}))
    state.handle(SweepPaused(7200.0, "ada@box", 7))
    text = progress_note(settings, state)
    assert "**Running**: 0 of 30 trials have ended." in text
    assert "**Paused**" in text
    assert "| 1970-01-01 01:00:00 | ada@box | set search.max_trials=30, narrowed model.units=choice(1) |" in text
    assert "| 1970-01-01 02:00:00 | ada@box | paused the sweep |" in note(1, steered=state.steered)
