"""What the page needs to know of the search space."""

from __future__ import annotations

from mnist_sweep.cli.watch import form
from mnist_sweep.journal.state import SweepState

SPACE = {
    "model.units": "choice(16, 64)",
    "model.activation": "choice(relu, null, 'a b')",
    "optimizer.learning_rate": "tag(log, interval(0.0001, 0.1))",
    "model.layers": "int(interval(1, 9))",
    "optimizer.arguments.momentum": "interval(0, 0.9) if optimizer.name in ['sgd']",
    "training.batch_size": f"choice({', '.join(map(str, range(20)))})",
    "model.old": "1 to 4",
}


def fields(**narrowed: str) -> dict[str, dict]:
    state = SweepState()
    state.space = SPACE
    state.narrowed = {key.replace("__", "."): text for key, text in narrowed.items()}
    return {one["name"]: one for one in form.hyperparameters(state)}


def test_a_choice_has_options_and_how_a_command_line_writes_them() -> None:
    units, activation = fields()["model.units"], fields()["model.activation"]
    assert (units["short"], units["axis"], units["options"], units["values"]) == (
        "units",
        "choice",
        ["16", "64"],
        [16, 64],
    )
    assert activation["options"] == ["relu", "None", "a b"]
    assert activation["written"] == ["relu", "null", "a b"]


def test_an_interval_has_ends_and_an_axis() -> None:
    found = fields()
    rate, layers, momentum = (
        found[name] for name in ("optimizer.learning_rate", "model.layers", "optimizer.arguments.momentum")
    )
    assert (rate["low"], rate["high"], rate["axis"], rate["integer"]) == (1e-4, 0.1, "log", False)
    assert (layers["low"], layers["high"], layers["axis"], layers["integer"]) == (1, 9, "linear", True)
    assert (momentum["domain"], momentum["when"]) == ("interval(0, 0.9)", "optimizer.name in ['sgd']")
    assert found["training.batch_size"]["axis"] == "linear"


def test_a_domain_of_an_earlier_version_is_text() -> None:
    assert fields()["model.old"] == {
        "name": "model.old",
        "short": "old",
        "domain": "1 to 4",
        "when": "",
        "axis": "choice",
    }


def test_what_users_have_narrowed_is_said() -> None:
    found = fields(model__units="choice(64)", optimizer__learning_rate="tag(log, interval(0.001, 0.01))")
    assert found["model.units"]["narrowed"] == {"text": "choice(64)", "written": ["64"]}
    assert found["optimizer.learning_rate"]["narrowed"] == {
        "text": "tag(log, interval(0.001, 0.01))",
        "low": 0.001,
        "high": 0.01,
    }


def test_the_budget_is_written_as_in_a_config() -> None:
    state = SweepState()
    assert form.budget(state) == {}
    state.config = {"search": {"max_trials": 20, "time_budget": None, "target": 0.5, "algorithm": "random"}}
    assert form.budget(state) == {"search.max_trials": "20", "search.time_budget": "null", "search.target": "0.5"}
