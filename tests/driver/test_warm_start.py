"""What a search starts with: values to try first, and the trials of earlier sweeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.config.trial_config import check_trial
from mnist_sweep.driver.enqueue import enqueued
from mnist_sweep.driver.warm_start import earlier
from mnist_sweep.journal.events import Event, SweepStarted, TrialEnded, TrialStarted
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Outcome, Status, Trial

SPACE = (
    "model.layers=range(1,4)",
    "model.units=choice(16,64,128)",
    "model.per_layer=[units]",
    "model.dropout=interval(0.1,0.5)",
    "optimizer.name=adam,sgd",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))",
)
Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def first(compose_config: Compose) -> Callable[..., list[Values]]:
    """Returns the values to try first for some items and overrides."""

    def found(items: list[Any], *overrides: str, baseline: tuple[str, ...] | None = ()) -> list[Values]:
        config = compose_config(*(overrides or SPACE))
        config["search"]["enqueue"] = items
        settings = check_settings(config)
        plain = None if baseline is None else compose_config(*baseline)
        return enqueued(settings, Space(settings.trial, written=settings.conditions), plain)

    return found


DEFAULT = {
    "model.layers": 2,
    "model.units.1": 128,
    "model.units.2": 128,
    "model.dropout": 0.2,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.001,
}


class TestEnqueued:
    def test_the_default_is_the_values_in_conf_with_the_default_learning_rate_of_keras(self, first) -> None:
        assert first(["default"]) == [DEFAULT]
        assert first(["default"], baseline=("optimizer=sgd", "model.units=[64,16]")) == [
            {
                **DEFAULT,
                "model.units.1": 64,
                "model.units.2": 16,
                "optimizer.name": "sgd",
                "optimizer.learning_rate": 0.01,
            }
        ]

    def test_a_fixed_optimizer_has_its_own_learning_rate(self, first) -> None:
        overrides = ("optimizer.name=sgd", "optimizer.learning_rate=interval(0,1)")
        assert first(["default"], *overrides) == [{"optimizer.learning_rate": 0.01}]

    @pytest.mark.parametrize("baseline", [("model.units=32",), ("model.dropout=0",), ("optimizer.name=nadam",), None])
    def test_a_default_outside_the_space_is_left_out(self, first, baseline: tuple[str, ...] | None) -> None:
        assert first(["default"], baseline=baseline) == []

    def test_a_default_may_have_inactive_values_outside_the_space(self, first) -> None:
        values = first(["default"], baseline=("model.layers=1", "model.units=[16,999]"))
        assert values == [
            {k: v for k, v in {**DEFAULT, "model.layers": 1, "model.units.1": 16}.items() if k[-1] != "2"}
        ]

    def test_an_item_may_be_dotted_or_in_groups_and_is_completed(self, first) -> None:
        dotted = {"model.layers": 1, "optimizer.learning_rate": 5e-3}
        grouped = {"model": {"layers": 1}, "optimizer": {"learning_rate": 5e-3}}
        expected = {k: v for k, v in DEFAULT.items() if k != "model.units.2"}
        assert first([dotted, grouped]) == [{**expected, **dotted}]

    def test_layers_may_be_given_by_one_value_a_list_or_separately(self, first) -> None:
        items = [
            {"model.layers": 3, "model.units": 16},
            {"model.layers": 3, "model.units": [16, 64]},
            {"model": {"layers": 3, "units": {"2": 64}}},
            {"model.layers": 3, "model.units.2": 64, "model.units.3": 16},
        ]
        units = [[v[f"model.units.{i}"] for i in (1, 2, 3)] for v in first(items)]
        assert units == [[16, 16, 16], [16, 64, 128], [128, 64, 128], [128, 64, 16]]

    def test_without_conf_missing_values_are_the_middle_or_the_first_option(self, first) -> None:
        values = first([{"model.layers": 1}], baseline=None)
        assert values == [
            {
                "model.layers": 1,
                "model.units.1": 16,
                "model.dropout": 0.3,
                "optimizer.name": "adam",
                "optimizer.learning_rate": pytest.approx(1e-3),
            }
        ]

    def test_the_learning_rate_null_is_the_default_of_the_given_optimizer(self, first) -> None:
        for item in ({"optimizer.name": "sgd"}, {"optimizer.name": "sgd", "optimizer.learning_rate": None}):
            assert first([item])[0]["optimizer.learning_rate"] == 0.01

    def test_values_have_the_types_of_their_domains(self, first) -> None:
        overrides = (
            "model.dropout=choice(0.0,0.5)",
            "model.batch_normalization=choice(true,false)",
            "model.l2=interval(0,1.5)",
            "model.units=int(interval(1,9))",
        )
        item = {"model.dropout": 0, "model.batch_normalization": True, "model.l2": 1, "model.units": 4.0}
        values = first([item], *overrides)[0]
        assert [repr(values[key]) for key in item] == ["0.0", "True", "1.0", "4"]

    def test_values_whose_condition_does_not_hold_are_left_out_or_refused(self, first) -> None:
        overrides = (
            "optimizer.name=adam,sgd",
            "+optimizer.arguments.momentum=0.0,0.9",
            "optimizer.learning_rate=interval(0.001,0.1)",
            "training.batch_size=32,128",
            "conditions.training.batch_size=optimizer.learning_rate > 0.005",
        )
        assert first(["default"], *overrides) == [{"optimizer.name": "adam", "optimizer.learning_rate": 0.001}]
        momentum = {"optimizer": {"name": "sgd", "arguments": {"momentum": 0.9}}}
        assert first([momentum], *overrides) == [
            {
                "optimizer.name": "sgd",
                "optimizer.arguments.momentum": 0.9,
                "optimizer.learning_rate": 0.01,
                "training.batch_size": 128,
            }
        ]
        with pytest.raises(UserError, match=r"momentum=0.9: its condition does not hold with the other values$"):
            first([{"optimizer.name": "adam", "optimizer.arguments.momentum": 0.9}], *overrides)

    def test_the_same_values_are_enqueued_once(self, first) -> None:
        assert first(["default", {"model.layers": 2}, "default", {"model.layers": 1}])[0] == DEFAULT
        assert len(first(["default", {"model.layers": 2}, "default", {"model.layers": 1}])) == 2

    @pytest.mark.parametrize(
        ("item", "expected"),
        [
            (
                {"model.units": 48},
                "search.enqueue: model.units.1=48: must be in choice(16, 64, 128)",
            ),
            (
                {"model.dropout": 0.6},
                "search.enqueue: model.dropout=0.6: must be in interval(0.1, 0.5)",
            ),
            ({"model.dropout": True}, "search.enqueue: model.dropout=True: must be in interval(0.1, 0.5)"),
            (
                {"model": {"layer": 1}},
                "search.enqueue: model.layer=1: model.layer is not searched; did you mean 'model.l",
            ),
            (
                {"training.epochs": 3},
                "search.enqueue: training.epochs=3: training.epochs is not searched; choose one of: model.d",
            ),
            ({"optimizer": 3}, "search.enqueue: optimizer=3: optimizer is not searched; "),
        ],
    )
    def test_an_item_that_does_not_fit_the_space_is_refused(self, first, item: dict[str, Any], expected: str) -> None:
        with pytest.raises(UserError) as caught:
            first([item])
        assert str(caught.value).startswith(expected)


DATA = {"name": "mnist_5k", "digest": "abc"}


class Past:
    """An earlier sweep, with its journal."""

    def __init__(self, folder: Path, config: dict[str, Any], objective: str | list[str] = "val_accuracy max") -> None:
        folder.mkdir()
        self.folder, self.settings = folder, check_settings(config)
        self.space = Space(self.settings.trial, written=self.settings.conditions)
        self.events: list[Event] = [SweepStarted(1.0, "past/1", {**config, "objective": objective}, {}, DATA, {})]

    def trial(self, number: int, values: Values, score: float | None, status: Status = Status.COMPLETED, **more: Any):
        config = check_trial(self.space.config(values)).model_dump(mode="json")
        trial = Trial(number, values, config, 9)
        metrics = more.pop("metrics", {})
        outcome = Outcome(status, score=score, metrics=metrics, parameters=more.pop("parameters", None))
        self.events += [TrialStarted(2.0, replace(trial, **more), 1, "cpu0"), TrialEnded(3.0, number, outcome)]

    def find(self, name: str) -> Path:
        if name != "past":
            raise UserError(f"resume {name}: no such sweep")
        with Journal(self.folder) as journal:
            for event in self.events:
                journal.handle(event)
        return self.folder


@pytest.fixture
def learned(compose_config: Compose, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Returns what a sweep learns from an earlier one with other overrides."""

    def found(
        past: Callable[[Past], None],
        *overrides: str,
        before: tuple[str, ...] = SPACE,
        objective: Any = "val_accuracy max",
    ) -> list[dict[str, Any]]:
        sweep = Past(tmp_path / "past", compose_config(*before), objective)
        past(sweep)
        config = compose_config(*(overrides or SPACE))
        config["search"]["warm_start"] = ["past"]
        settings: Settings = check_settings(config)
        return earlier(settings, Space(settings.trial, written=settings.conditions), "abc", sweep.find)

    return found


ONE = {k: v for k, v in DEFAULT.items() if k != "model.units.2"} | {"model.layers": 1}


class TestEarlier:
    def test_trials_are_taken_whose_inactive_values_are_what_this_sweep_gives_them(self, learned) -> None:
        space = ("model.units=16,64", "model.dropout=0.1,0.5", "conditions.model.dropout=model.units == 64 else 0.0")

        def past(sweep: Past) -> None:
            sweep.trial(0, {"model.units": 16, "model.dropout": 0.0}, 0.1)
            sweep.trial(1, {"model.units": 16, "model.dropout": 0.5}, 0.2)
            sweep.trial(2, {"model.units": 64, "model.dropout": 0.5}, 0.3)

        found = learned(past, *space, before=("model.units=16,64", "model.dropout=0.0,0.5"))
        assert [(trial["trial"], trial["values"]) for trial in found] == [
            (0, {"model.units": 16}),
            (2, {"model.units": 64, "model.dropout": 0.5}),
        ]

    def test_finished_trials_with_a_score_are_taken(self, learned) -> None:
        def past(sweep: Past) -> None:
            sweep.trial(0, DEFAULT, 0.9)
            sweep.trial(1, ONE, None, Status.FAILED)
            sweep.trial(2, ONE, 0.7, Status.STOPPED)
            sweep.trial(3, ONE, float("nan"))
            sweep.trial(4, DEFAULT, 0.99, confirms=0)
            sweep.trial(5, ONE, None, Status.REFUSED)
            sweep.events.append(TrialStarted(4.0, Trial(6, ONE, {}, 9), 1, "cpu0"))

        assert learned(past) == [
            {"sweep": "past/1", "trial": 0, "values": DEFAULT, "scores": [0.9]},
            {"sweep": "past/1", "trial": 2, "values": ONE, "scores": [0.7]},
        ]

    def test_the_last_of_trials_that_continue_from_one_another_is_taken(self, learned) -> None:
        def past(sweep: Past) -> None:
            sweep.trial(0, DEFAULT, 0.5)
            sweep.trial(1, DEFAULT, 0.6, parent=0)
            sweep.trial(2, DEFAULT, 0.7, parent=1)
            sweep.trial(3, ONE, 0.4)
            sweep.trial(4, ONE, None, Status.FAILED, parent=3)

        assert [(t["trial"], t["scores"]) for t in learned(past)] == [(2, [0.7]), (3, [0.4])]

    @pytest.mark.parametrize(
        ("now", "taken"),
        [
            (("training.epochs=3", "training.seed=7", "training.early_stopping.patience=2"), True),
            (("training.jit_compile=true", "training.steps_per_execution=1", "training.validation_batch_size=9"), True),
            (("training.batch_size=32",), False),
            (("model.activation=tanh",), False),
            (("model.activation=[relu,relu,relu]",), True),
            (("model.activation=choice(tanh,relu)",), True),
            (("model.activation=choice(tanh,gelu)",), False),
            (("model.dropout=interval(0.3,0.5)",), False),
            (("model.dropout=0.2",), True),
            (("model.layers=range(2,4)",), True),
            (("model.layers=1",), False),
            (("training.seed=range(0,5)",), True),
            (("training.seed=range(2,5)",), False),
        ],
    )
    def test_a_trial_is_taken_if_its_config_is_in_the_space(self, learned, now: tuple[str, ...], taken: bool) -> None:
        assert len(learned(lambda sweep: sweep.trial(0, DEFAULT, 0.9), *SPACE, *now)) == taken

    def test_units_searched_together_match_units_searched_by_layer(self, learned) -> None:
        together = tuple(o for o in SPACE if "per_layer" not in o)
        values = {k: v for k, v in DEFAULT.items() if "units" not in k} | {"model.units": 64}
        found = learned(lambda sweep: sweep.trial(0, values, 0.9), before=together)
        assert found[0]["values"] == {**DEFAULT, "model.units.1": 64, "model.units.2": 64}

    def test_units_searched_by_layer_match_one_value_if_they_are_equal(self, learned) -> None:
        def past(sweep: Past) -> None:
            sweep.trial(0, DEFAULT, 0.9)
            sweep.trial(1, {**DEFAULT, "model.units.2": 64}, 0.8)

        found = learned(past, *(o for o in SPACE if "per_layer" not in o))
        assert [(t["trial"], t["values"]["model.units"]) for t in found] == [(0, 128)]

    @pytest.mark.parametrize(
        ("before", "now", "expected"),
        [
            ("val_accuracy max", "val_loss min", [[0.3]]),
            ("val_loss min", "val_accuracy max", [[0.8]]),
            ("val_accuracy max", "[val_accuracy max, parameters min]", [[0.9, 1000.0]]),
            (["val_accuracy max", "latency min"], "[val_accuracy max, latency min]", [[0.9, 2.5]]),
            ("val_accuracy max", "[val_accuracy max, epoch_seconds min]", []),
        ],
    )
    def test_scores_are_those_of_this_sweeps_objectives(
        self, learned, before: str | list[str], now: str, expected: list[list[float]]
    ) -> None:
        metrics = {"val_accuracy": 0.8, "val_loss": 0.3, "latency": 2.5}

        def past(sweep: Past) -> None:
            sweep.trial(0, DEFAULT, 0.9, metrics=metrics, parameters=1000)

        found = learned(past, *SPACE, f"objective={now}", objective=before)
        assert [t["scores"] for t in found] == expected

    def test_an_unknown_sweep_and_different_data_are_refused(self, compose_config: Compose, tmp_path: Path) -> None:
        past = Past(tmp_path / "past", compose_config(*SPACE))
        config = compose_config(*SPACE)
        config["search"]["warm_start"] = ["past"]
        settings = check_settings(config)
        with pytest.raises(
            UserError, match=r"^search.warm_start=past: was run on mnist_5k \(abc\), .* \(xyz\); scores"
        ):
            earlier(settings, past.space, "xyz", past.find)
        config["search"]["warm_start"] = ["nothing"]
        with pytest.raises(UserError, match="^search.warm_start=nothing: no such sweep; "):
            earlier(check_settings(config), past.space, "abc", past.find)

    @pytest.mark.parametrize("objective", [None, 5, [5], [None], {"a": 1}, "val_accuracy up"])
    def test_a_first_event_that_is_damaged_is_refused(
        self, compose_config: Compose, tmp_path: Path, objective: object
    ) -> None:
        past = Past(tmp_path / "past", compose_config(*SPACE), objective)  # type: ignore[arg-type]
        config = compose_config(*SPACE)
        config["search"]["warm_start"] = ["past"]
        with pytest.raises(UserError, match="^search.warm_start=past: its first event is damaged"):
            earlier(check_settings(config), past.space, "abc", past.find)
