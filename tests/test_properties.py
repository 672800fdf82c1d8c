"""Properties of the search-space language, for configs that hypothesis generates."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.grammar import read_sweep
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import check_trial

whole = st.integers(-3, 600)
number = st.floats(-0.5, 1.5, allow_nan=False).map(lambda x: round(x, 3))
word = st.sampled_from(["relu", "tanh", "gelu", "rleu", "adam", "sgd", "true", "null", "x y"])
value = st.one_of(whole, number, word)


def written(values: list[Any]) -> str:
    return f"choice({', '.join(map(str, values))})"


sweep = st.one_of(
    st.lists(value, min_size=1, max_size=4).map(written),
    st.lists(value, min_size=2, max_size=4).map(lambda v: ",".join(map(str, v))),
    st.tuples(whole, whole).map(lambda p: f"range({p[0]}, {p[1]})"),
    st.tuples(number, number).map(lambda p: f"interval({p[0]}, {p[1]})"),
    st.tuples(whole, whole).map(lambda p: f"int(interval({p[0]}, {p[1]}))"),
    st.tuples(number, number).map(lambda p: f"tag(log, interval({p[0]}, {p[1]}))"),
)
KEYS = ["model.units", "model.layers", "model.activation", "model.dropout", "model.l2", "optimizer.learning_rate",
        "optimizer.name", "training.batch_size", "training.epochs"]  # fmt: skip
config = st.dictionaries(st.sampled_from(KEYS), st.one_of(sweep, value), min_size=1, max_size=4)


def trial(changes: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, Any] = {
        "model": {"kind": "mlp", "builder": None, "layers": 2, "units": 8, "activation": "relu", "dropout": 0.0,
                  "batch_normalization": False, "l2": 0.0, "per_layer": []},
        "optimizer": {"name": "adam", "learning_rate": None, "schedule": {"name": None, "arguments": {}},
                      "arguments": {}},
        "training": {"batch_size": 8, "epochs": 1, "early_stopping": {"patience": None, "min_delta": 0.0}, "seed": 1,
                     "precision": "float32", "steps_per_execution": "auto", "validation_batch_size": 8,
                     "jit_compile": "auto"},
    }  # fmt: skip
    for key, new in changes.items():
        group, _, name = key.partition(".")
        groups[group][name] = new
    return groups


@given(
    config, st.lists(st.sampled_from(["units", "activation", "dropout"]), unique=True, max_size=2), st.integers(0, 99)
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_accepted_space_has_only_valid_configurations_and_a_refused_one_names_the_key(
    changes: dict[str, Any], per_layer: list[str], seed: int
) -> None:
    groups = trial(changes)
    groups["model"]["per_layer"] = per_layer
    try:
        space = Space(groups)
        for _ in space.check():
            pass
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert any(key in message for key in [*changes, "model.per_layer"]), message
        return
    rng = random.Random(seed)
    for _ in range(20):
        values = space.sample(rng)
        check_trial(space.config(values))
        assert set(values) | set(space.inactive(values)) == {h.name for h in space.hyperparameters}


@given(sweep)
@settings(max_examples=400, deadline=None)
def test_a_domain_can_be_read_back_from_its_text(text: str) -> None:
    try:
        domain = read_sweep(text, "model.units")
    except UserError as error:
        assert str(error).startswith(f"model.units={text}: ")
        return
    if domain is not None:
        assert read_sweep(str(domain), "model.units") == domain


@given(st.text(max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_plain_value_a_sweep_or_a_one_line_error(text: str) -> None:
    try:
        read_sweep(text, "model.units")
    except UserError as error:
        assert str(error).startswith("model.units=")
