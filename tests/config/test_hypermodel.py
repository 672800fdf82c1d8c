"""Hypermodels: the discovered space as sweeps, conditions and defaults."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.config import hypermodel
from mnist_sweep.config.grammar import Interval, read_sweep
from mnist_sweep.config.hypermodel_space import key_of
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.trial_config import HyperModelConfig, check_trial
from mnist_sweep.driver import discovery, enqueue
from mnist_sweep.workers.base import Check, Died, Discover, Discovered, MachineFailed, Message, Ready, Task

NAME = "own:build"


def parameter(kind: str, name: str, *conditions: tuple[str, list[Any]], **config: Any) -> dict[str, Any]:
    """Returns an entry of `keras_tuner.HyperParameters.get_config()`."""
    parents = [{"class_name": "Parent", "config": {"name": parent, "values": v}} for parent, v in conditions]
    return {"class_name": kind, "config": {"name": name, "conditions": parents, **config}}


def choice(name: str, values: list[Any], *conditions: tuple[str, list[Any]], default: Any = None) -> dict[str, Any]:
    default = values[0] if default is None else default
    return parameter("Choice", name, *conditions, values=values, ordered=False, default=default)


def number(
    kind: str,
    name: str,
    low: float,
    high: float,
    *conditions: Any,
    step: Any = None,
    sampling: str = "linear",
    **more: Any,
) -> dict[str, Any]:
    config = {"min_value": low, "max_value": high, "step": step, "sampling": sampling, "default": low, **more}
    return parameter(kind, name, *conditions, **config)


def integer(name: str, low: int, high: int, *conditions: Any, step: Any = 1, **more: Any) -> dict[str, Any]:
    return number("Int", name, low, high, *conditions, step=step, **more)


def trial(values: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    groups = {"hypermodel": NAME, "builder": None, "kind": "mlp", "units": 128, **model}
    return {
        "model": groups | ({} if values is None else {"values": values}),
        "optimizer": {"name": "adam", "arguments": {}},
        "training": {"epochs": 3},
    }


def expand(*space: dict[str, Any], values: dict[str, Any] | None = None, **found: Any) -> hypermodel.Expanded:
    return hypermodel.expand(trial(values), {"space": list(space), "values": {}, "keeping": [], **found})


def message(*space: dict[str, Any], values: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as error:
        expand(*space, values=values)
    return str(error.value)


LAYERS = (
    integer("num_layers", 1, 3),
    integer("units_0", 32, 512, step=32),
    choice("activation", ["relu", "tanh"], default="tanh"),
    integer("units_1", 32, 512, ("num_layers", [2, 3]), step=32),
    integer("units_2", 32, 512, ("num_layers", [3]), step=32),
    number("Float", "lr", 1e-4, 1e-2, sampling="log", default=1e-3),
    parameter("Boolean", "dropout", default=False),
)

# ---- domains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "written"),
    [
        (choice("x", ["relu", "tanh"]), "choice(relu, tanh)"),
        (choice("x", ["1", "true", "a,b"]), "choice('1', 'true', 'a,b')"),
        (choice("x", [0.1, 1e-5]), "choice(0.1, 1e-05)"),
        (choice("x", [1, 0]), "choice(1, 0)"),
        (choice("x", ["only"]), "only"),
        (choice("x", ["a,b"]), "choice('a,b')"),
        (parameter("Boolean", "x", default=True), "choice(true, false)"),
        (parameter("Fixed", "x", value=3), 3),
        (parameter("Fixed", "x", value="range(1,2)"), "choice('range(1,2)')"),
        (integer("x", 1, 3), "int(interval(1, 3))"),
        (integer("x", 2, 2), 2),
        (integer("x", 32, 100, step=32), "choice(32, 64, 96)"),
        (integer("x", 1, 1000, step=None, sampling="log"), "tag(log, int(interval(1, 1000)))"),
        (integer("x", 2, 40, step=2, sampling="log"), "choice(2, 4, 8, 16, 32)"),
        (integer("x", 1, 9, step=None, sampling="reverse_log"), "int(interval(1, 9))"),
        (integer("x", 1, 9, step=2, sampling="reverse_log"), "choice(2, 6, 8, 9)"),
        (number("Float", "x", 0.0, 0.5), "interval(0, 0.5)"),
        (number("Float", "x", 0.0, 1.0, step=0.2), "choice(0.0, 0.2, 0.4, 0.6, 0.8, 1.0)"),
        (number("Float", "x", 0.001, 10.0, step=10.0, sampling="log"), "choice(0.001, 0.01, 0.1, 1.0, 10.0)"),
        (number("Float", "x", 0.001, 0.01, sampling="log"), "tag(log, interval(0.001, 0.01))"),
        (number("Float", "x", 0.0, 1.0, step=1e-6), "interval(0, 1)"),
    ],
)
def test_each_kind_of_hyperparameter_is_a_sweep(space: dict[str, Any], written: Any) -> None:
    assert expand(space).trial["model"]["values"] == {"x": written}


def test_a_step_with_too_many_values_is_refused() -> None:
    assert message(integer("x", 0, 10**6, step=10)) == (
        "model.hypermodel=own:build: 'x' has more than 1000 values; give it a larger step, or none"
    )


def test_a_hypermodel_replaces_the_model_and_the_optimizer() -> None:
    found = expand(*LAYERS)
    assert list(found.trial["model"]) == ["hypermodel", "values"]
    assert found.trial["optimizer"] is None
    assert found.trial["training"] == {"epochs": 3}


def test_every_configuration_has_a_value_for_each_active_hyperparameter() -> None:
    space = expand(*LAYERS).space()
    values = next(s for s in map(space.sample, map(random.Random, range(99))) if s["model.values.num_layers"] == 1)
    config = space.config(values)
    assert set(config["model"]["values"]) == {entry["config"]["name"] for entry in LAYERS}
    assert space.inactive(values) == ["model.values.units_1", "model.values.units_2"]


def test_conditions_come_from_the_function() -> None:
    found = expand(*LAYERS)
    assert found.conditions == {
        "model.values.units_1": (("model.values.num_layers", (2, 3)),),
        "model.values.units_2": (("model.values.num_layers", (3,)),),
    }


def test_the_functions_defaults_are_the_first_trial(compose_config) -> None:
    settings = check_settings(compose_config("model.hypermodel=own:build", "training.batch_size=32,64"))
    found = hypermodel.expand(settings.trial, {"space": LAYERS, "values": {}, "keeping": []})
    settings = replace(settings, trial=found.trial)
    values = enqueue.enqueued(settings, found.space(), found.baseline({"training": {"batch_size": 64}}))
    assert values == [
        {
            "model.values.num_layers": 1,
            "model.values.units_0": 32,
            "model.values.activation": "tanh",
            "model.values.lr": 1e-3,
            "model.values.dropout": False,
            "training.batch_size": 64,
        }
    ]


def test_a_hyperparameter_named_layers_has_no_special_meaning() -> None:
    space = expand(integer("layers", 0, 2), integer("units", 8, 16)).space()
    assert [h.conditions for h in space.hyperparameters] == [(), ()]


def test_hyperparameters_that_keep_the_weights_are_marked() -> None:
    space = expand(*LAYERS, keeping=["lr", "dropout"]).space()
    assert [h.name for h in space.hyperparameters if h.keeps_weights] == ["model.values.lr", "model.values.dropout"]


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("units_0", "units_0"), ("dense/units", "dense.units"), ("learning rate", "learning_rate"), ("a.b", "a.b"),
        ("dropout (dense)", "dropout_dense"), ("_x-1", "_x-1"), ("a//b", "a.b"), ("größe", "gr_e"), ("!", ""),
    ],
)  # fmt: skip
def test_a_name_becomes_a_key_for_the_command_line(name: str, key: str) -> None:
    assert key_of(name) == key
    assert key_of(key) == key


def test_names_that_become_the_same_key_are_refused() -> None:
    assert message(choice("a b", ["x", "y"]), choice("a/b", ["x"]), choice("a.b", ["x"])) == (
        "model.hypermodel=own:build: the hyperparameters 'a.b' and 'a/b' would both be model.values.a.b; rename one"
    )
    assert message(choice("?", ["x"])) == (
        "model.hypermodel=own:build: a hyperparameter is named '?'; use letters and digits"
    )


# ---- one name under several conditions ------------------------------------------------------------------------------

KIND = choice("kind", ["mlp", "cnn", "rnn"])
POOL = choice("pool", ["max", "none"], ("kind", ["cnn"]))


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ([[("kind", ["mlp"])], [("kind", ["cnn"])]], (("model.values.kind", ("mlp", "cnn")),)),
        ([[("kind", ["mlp"])], [("kind", ["cnn"])], [("kind", ["rnn"])]], ()),
        ([[("kind", ["mlp"])], []], ()),
        ([[("kind", ["cnn"]), ("pool", ["max"])], [("kind", ["cnn"])]], (("model.values.kind", ("cnn",)),)),
        (
            [[("kind", ["cnn"]), ("pool", ["max"])], [("kind", ["cnn"]), ("pool", ["none"])]],
            (("model.values.kind", ("cnn",)),),
        ),
        ([[("kind", ["cnn", "mlp"]), ("kind", ["cnn"])]], (("model.values.kind", ("cnn",)),)),
    ],
)
def test_a_name_with_several_conditions_is_active_if_any_of_them_holds(conditions: list[Any], left: Any) -> None:
    found = expand(KIND, POOL, *(choice("act", ["relu", "tanh"], *each) for each in conditions))
    assert found.conditions.get("model.values.act", ()) == left


def test_a_name_with_conditions_that_cannot_be_merged_is_refused() -> None:
    either = choice("act", ["relu"], ("kind", ["mlp"])), choice("act", ["relu"], ("pool", ["max"]))
    assert message(KIND, choice("pool", ["max", "none"]), *either) == (
        "model.hypermodel=own:build: 'act' depends on kind, or on pool; give each case its own name"
    )
    other = choice("act", ["relu"], ("kind", ["mlp"])), choice("act", ["tanh"], ("kind", ["cnn"]))
    assert message(KIND, *other) == (
        "model.hypermodel=own:build: 'act' is defined as choice(relu) and as choice(tanh); give the two different names"
    )


# ---- values in the config -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ({"units_0": 64}, 64),
        ({"units_0": "32,64"}, "choice(32, 64)"),
        ({"units_0": "int(interval(1, 1024))"}, "int(interval(1, 1024))"),
        ({"lr": 1}, 1.0),
        ({"lr": "1,0.1"}, "choice(1.0, 0.1)"),
        ({"lr": "tag(log, interval(1e-6, 1))"}, "tag(log, interval(1e-06, 1))"),
        ({"activation": "relu"}, "relu"),
        ({"dropout": True}, True),
        ({"num_layers": "range(2,4)"}, "choice(2, 3)"),
    ],
)
def test_a_hyperparameter_may_be_fixed_or_searched_in_other_values(values: dict[str, Any], written: Any) -> None:
    (name,) = values
    assert expand(*LAYERS, values=values).trial["model"]["values"][name] == written


def test_nested_keys_match_name_scopes() -> None:
    space = integer("conv/filters", 2, 8)
    for values in ({"conv": {"filters": 4}}, {"conv/filters": 4}, {"conv.filters": 4}):
        assert expand(space, values=values).trial["model"]["values"] == {"conv.filters": 4}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"unit_0": 3}, "model.values.unit_0=3: own:build has no such hyperparameter; did you mean 'units_0'?"),
        ({"units_0": 1.5}, "model.values.units_0=1.5: must be a whole number"),
        ({"units_0": "interval(1, 9)"}, "model.values.units_0=interval(1, 9): must be whole numbers; "
                                        "write int(interval(1, 9))"),
        ({"lr": "fast"}, "model.values.lr=fast: must be a number"),
        ({"lr": None}, "model.values.lr=null: must be a number"),
        ({"dropout": 1}, "model.values.dropout=1: must be true or false"),
        ({"activation": "relu,tan"}, "model.values.activation=relu,tan: must be in choice(relu, tanh); "
                                     "did you mean 'tanh'?"),
        ({"num_layers": "1,5"}, "model.values.num_layers=1,5: other hyperparameters of own:build depend on it; "
                                "it must be in int(interval(1, 3))"),
        ({"lr": "interval(2, 1)"}, "model.values.lr=interval(2, 1): the first number must be smaller than the second"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_the_model_are_refused(values: dict[str, Any], expected: str) -> None:
    assert message(*LAYERS, values=values) == expected


def test_a_condition_that_a_fixed_value_decides_is_removed() -> None:
    found = expand(*LAYERS, values={"num_layers": 2})
    assert found.conditions == {}
    assert "units_1" in found.trial["model"]["values"]
    assert "units_2" not in found.trial["model"]["values"]
    narrower = expand(*LAYERS, values={"num_layers": "2,3"})
    assert narrower.conditions == {"model.values.units_2": (("model.values.num_layers", (3,)),)}


def test_children_of_a_fixed_value_get_its_conditions() -> None:
    size = choice("size", ["2", "4"], ("pool", ["max"]))
    found = expand(KIND, POOL, size, values={"pool": "max"})
    assert found.conditions["model.values.size"] == (("model.values.kind", ("cnn",)),)
    assert "size" not in expand(KIND, POOL, size, values={"kind": "mlp"}).trial["model"]["values"]


# ---- properties -----------------------------------------------------------------------------------------------------

_texts = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Z"]), min_size=1, max_size=8)
_floats = st.floats(1e-6, 1e6)


@st.composite
def spaces(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draws hyperparameters, each of which may depend on an earlier one."""
    space: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 6))):
        parents = [e for e in space if e["class_name"] == "Choice"]
        conditions = []
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))["config"]
            allowed = draw(st.lists(st.sampled_from(parent["values"]), min_size=1, unique=True))
            conditions = [(parent["name"], allowed)]
        name, kind = f"p{i}", draw(st.sampled_from(["Choice", "Int", "Float", "Boolean"]))
        if kind == "Choice":
            values = draw(st.one_of(st.lists(v, min_size=1, max_size=4, unique=True) for v in (_texts, _floats)))
            space.append(choice(name, values, *conditions))
        elif kind == "Boolean":
            space.append(parameter("Boolean", name, *conditions, default=False))
        else:
            low, high = sorted(draw(st.tuples(st.integers(1, 9), st.integers(1, 9))))
            numbers = {"sampling": draw(st.sampled_from(["linear", "log", "reverse_log"]))}
            numbers["step"] = draw(st.sampled_from([None, 2, 3]))
            space.append(number(kind, name, low, high, *conditions, **numbers))
    return space


@settings(max_examples=100, deadline=None)
@given(spaces(), st.integers(0, 1000))
def test_any_space_survives_the_conversion_to_text(space: list[dict[str, Any]], seed: int) -> None:
    found = expand(*space)
    read = found.space()
    for name, value in found.trial["model"]["values"].items():
        domain = read_sweep(value, name) if isinstance(value, str) else None
        assert domain is None or isinstance(domain, Interval) or domain.size == len(set(map(repr, domain.options)))
    values = read.sample(random.Random(seed))
    config = read.config(values)["model"]
    assert HyperModelConfig(**config).values.keys() == found.trial["model"]["values"].keys()
    kinds = {entry["config"]["name"]: entry for entry in space}
    for key, value in values.items():
        of = kinds[key.removeprefix("model.values.")]
        options = of["config"].get("values")
        assert value in options if options else True
        for condition in of["config"]["conditions"]:
            parent = condition["config"]
            assert config["values"][parent["name"]] in parent["values"]
    assert read.size is None or read.size > 2000 or read.size == sum(1 for _ in read.grid())


# ---- other keys of the config ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"builder": "own:b"}, "model.hypermodel=own:build: model.builder=own:b is set too; set only one of them"),
        ({"hypermodel": "build"}, "model.hypermodel=build: must be package.module:name of a build_model(hp) or a "
                                  "keras_tuner.HyperModel"),
        ({"hypermodel": "own.py:b"}, "model.hypermodel=own.py:b: must be package.module:name of a build_model(hp) or a "
                                     "keras_tuner.HyperModel; write own:b"),
        ({"hypermodel": 3}, "model.hypermodel=3: must be package.module:name of a build_model(hp) or a "
                            "keras_tuner.HyperModel"),
        ({"width": 3}, "model.width: unknown key; write a hypermodel's hyperparameters as model.values.width"),
    ],
)  # fmt: skip
def test_contradicting_keys_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        hypermodel.named(trial(**changes))
    assert str(error.value) == expected


def test_the_optimizer_of_the_config_cannot_be_searched_with_a_hypermodel() -> None:
    groups = trial()
    groups["optimizer"]["name"] = "adam,sgd"
    with pytest.raises(
        UserError, match="optimizer.name=adam,sgd: own:build compiles its own optimizer; search it there"
    ):
        hypermodel.named(groups)


def test_without_a_hypermodel_there_is_nothing_to_discover() -> None:
    assert hypermodel.named(trial(hypermodel=None)) is None
    assert hypermodel.named(trial()) == NAME


def test_only_hypermodels_may_lack_an_optimizer(compose_config) -> None:
    config = compose_config("+model.values.units=3")
    del config["model"]["per_layer"]
    with pytest.raises(UserError, match="model.values: unknown key"):
        check_trial({group: config[group] for group in ("model", "optimizer", "training")})
    config = compose_config("model.hypermodel=own:build")
    assert config["model"]["hypermodel"] == NAME
    groups = {"model": {"hypermodel": NAME, "values": {"units": 3}}, "optimizer": None, "training": config["training"]}
    assert check_trial(groups).optimizer is None
    with pytest.raises(UserError, match="optimizer=null: must be a group of keys"):
        check_trial({**groups, "model": config["model"] | {"hypermodel": None}})


# ---- asking a worker ------------------------------------------------------------------------------------------------


class Pool:
    """Answers each poll with the next messages."""

    def __init__(self, *polls: list[Message]) -> None:
        self.polls, self.tasks, self.kept, self.alive = list(polls), [], [], ["cpu0", "cpu1"]

    def slots(self) -> list[str]:
        return self.alive

    def submit(self, slot: str, task: Task) -> None:
        self.tasks.append((slot, task))

    def poll(self, timeout: float) -> list[Message]:
        return self.polls.pop(0) if self.polls else []

    def put_back(self, messages: list[Message]) -> None:
        self.kept += messages


SPACE = {"space": [], "values": {}, "keeping": []}


def test_the_first_slot_is_asked_and_the_others_messages_are_kept() -> None:
    after = Ready("cpu1")
    pool = Pool([], [Ready("cpu1"), Ready("cpu0")], [Died("cpu0", "was killed")], [Discovered("cpu1", SPACE), after])
    assert discovery.discover(pool, NAME, 60) == SPACE
    assert pool.tasks == [("cpu1", Discover(NAME))]
    assert pool.kept == [Ready("cpu0"), Died("cpu0", "was killed"), after]


def test_a_users_model_function_is_checked_by_a_worker() -> None:
    config = {"model": {"builder": "own:build"}}
    pool = Pool([Ready("cpu0")], [Discovered("cpu0"), Ready("cpu0")])
    discovery.check(pool, [config], 60)
    assert pool.tasks == [("cpu0", Check((config,)))]
    assert pool.kept == [Ready("cpu0")]
    with pytest.raises(UserError, match="it cannot be loaded"):
        discovery.check(Pool([Ready("cpu0")], [Discovered("cpu0", error="it cannot be loaded")]), [config], 60)


def test_a_worker_that_dies_is_asked_once_more() -> None:
    died = Died("cpu0", "was killed by SIGKILL (out of memory?)")
    pool = Pool([Ready("cpu0")], [died], [Ready("cpu0")], [Discovered("cpu0", SPACE)])
    assert discovery.discover(pool, NAME, 60) == SPACE
    assert len(pool.tasks) == 2
    with pytest.raises(UserError, match=r"own:build: the process that builds it was killed by SIGKILL \(out of memory"):
        discovery.discover(Pool([Ready("cpu0")], [died], [Ready("cpu0")], [died]), NAME, 60)


def test_a_ready_slot_is_asked_if_the_first_is_lost() -> None:
    lost = Died("cpu0", "cannot start: it ended with exit code 1", lost=True)
    stale = [Ready("cpu1"), Died("cpu1", "was killed"), Ready("cpu1")]
    pool = Pool([Ready("cpu0")], stale, [lost], [Discovered("cpu1", SPACE)])
    assert discovery.discover(pool, NAME, 60) == SPACE
    assert [slot for slot, _ in pool.tasks] == ["cpu0", "cpu1"]
    # Not the slot of the first answer.
    assert pool.kept == [*stale[:2], lost]


def test_an_error_of_the_user_or_the_worker_ends_discovery() -> None:
    with pytest.raises(UserError, match="it is broken"):
        discovery.discover(Pool([Ready("cpu0")], [Discovered("cpu0", error="it is broken")]), NAME, 60)
    pool = Pool([Died("cpu0", "cannot start: it ended with exit code 1", lost=True)])
    pool.alive = []
    with pytest.raises(UserError, match="workers: cpu0 cannot start: it ended with exit code 1"):
        discovery.discover(pool, NAME, 60)


def test_a_machine_error_ends_discovery_without_blaming_the_hypermodel() -> None:
    with pytest.raises(MachineError, match="^the disk is full$"):
        discovery.discover(Pool([Ready("cpu0")], [MachineFailed("cpu0", "the disk is full")]), NAME, 60)


@pytest.mark.parametrize(
    ("space", "why"),
    [
        ({}, "cannot be read .*space"),
        ({"space": None, "keeping": []}, "cannot be read"),
        ({"space": [7], "keeping": []}, "cannot be read"),
        ({"space": [{"class_name": "Choice", "config": {}}], "keeping": []}, "cannot be read .*name"),
        (
            {"space": [{"class_name": "Fixed", "config": {"name": "a\x1b[31m"}}]},
            r"the text a\\x1b\[31m, which cannot be pr",
        ),
        ({"space": [], "values": {"caf\udce9": 1}}, r"the text caf\\udce9"),
    ],
)
def test_an_unreadable_space_is_a_one_line_error(space: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=f"^model.hypermodel={NAME}: its search space .*{why}") as raised:
        hypermodel.expand({"model": {"hypermodel": NAME}, "optimizer": None, "training": {}}, space)
    assert str(raised.value).isprintable()


def test_a_build_that_never_ends_times_out() -> None:
    with pytest.raises(UserError, match="own:build: building it took more than 0 s"):
        discovery.discover(Pool([Ready("cpu0")]), NAME, 0)
