"""A config of an earlier version differs from a new one only in what its user wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mnist_sweep.config.later_keys import with_later_keys


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_what_an_old_config_lacks_means_what_its_version_did(compose_config: Callable[..., Any], model: str) -> None:
    new = compose_config(f"model={model}", "task=classification")
    old = {key: value for key, value in new.items() if key not in ("task", "augment")}
    if model == "cnn":
        kept = {key: value for key, value in new["model"].items() if key not in ("convolution", "residual")}
        pooling = {key: value for key, value in new["model"]["pooling"].items() if key != "global"}
        old["model"] = {**kept, "pooling": pooling}
    assert with_later_keys(old) == new == with_later_keys(new)


def test_a_users_own_model_gets_no_keys(compose_config: Callable[..., Any]) -> None:
    old = compose_config("model.builder=own:build") | {"model": {"kind": "cnn", "builder": "own:build"}}
    assert with_later_keys(old)["model"] == {"kind": "cnn", "builder": "own:build"}
