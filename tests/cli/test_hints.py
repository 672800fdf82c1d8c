"""What to type instead of a command or an option that does not exist."""

from __future__ import annotations

import pytest

from mnist_sweep.cli.hints import no_such_command
from mnist_sweep.cli.options import check_options
from mnist_sweep.common.errors import UserError


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("quick", "+experiment=quick"),
        ("run quick", "+experiment=quick"),
        ("quick training.epochs=3", "+experiment=quick training.epochs=3"),
        ("train cnn 'model.layers=range(1,3)'", "+experiment=cnn 'model.layers=range(1,3)'"),
        ("quikc", "+experiment=quick"),
        ("run", "+experiment=quick"),
        ("run training.epochs=3", "training.epochs=3"),
        ("quick epochs=3", "+experiment=quick training.epochs=3"),
        ("train --epochs 3 --lr=0.1", "training.epochs=3 optimizer.learning_rate=0.1"),
        ("train cnn filters=16 -m", "+experiment=cnn model.filters=16 -m"),
        ("list", "experiments"),
        ("help", "--help"),
    ],
)
def test_the_command_that_was_meant_is_shown(typed: str, right: str) -> None:
    import shlex

    message = str(no_such_command(shlex.split(typed)))
    assert message.endswith(f"-m mnist_sweep {right}"), message


def test_a_misspelt_command_is_not_mistaken_for_an_experiment() -> None:
    assert str(no_such_command(["compar"])) == "compar: no such command; did you mean 'compare'?"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model.units", "16,32"], "model.units 16,32: write KEY=VALUE: model.units=16,32"),
        (["model.units:16,32"], "model.units:16,32: write KEY=VALUE: model.units=16,32"),
        (["model.units"], "model.units: write KEY=VALUE: model.units=…"),
    ],
)
def test_a_key_without_an_equals_sign_is_shown_with_one(typed: list[str], message: str) -> None:
    assert str(no_such_command(typed)) == message


@pytest.mark.parametrize("typed", [["units", "=", "3"], ["units", "=3"]])
def test_spaces_around_an_equals_sign_are_named(typed: list[str]) -> None:
    assert str(no_such_command(typed)).endswith("must be one argument; write units=3")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        (["--lr=0.1"], "optimizer.learning_rate=0.1"),
        (["--epochs", "3"], "training.epochs=3"),
        (["--model.units", "16"], "model.units=16"),
        (["--experiment", "quick"], "+experiment=quick"),
        (["-n_trials"], "search.max_trials=…"),
    ],
)
def test_a_key_that_is_typed_as_an_option_is_shown_without_dashes(typed: list[str], right: str) -> None:
    with pytest.raises(UserError, match=f"^{typed[0]}: no such option; keys have no dashes: ") as raised:
        check_options(typed)
    assert str(raised.value).endswith(f" {right}")


@pytest.mark.parametrize("typed", [["--config", "my/exp.yaml"], ["--config=exp.yaml"], ["-f", "exp.yml"]])
def test_a_file_with_a_config_is_shown_as_an_experiment(typed: list[str]) -> None:
    with pytest.raises(UserError, match=r"conf/experiment/exp\.yaml, and write \+experiment=exp$"):
        check_options(typed)


@pytest.mark.parametrize("typed", [["--help"], ["--cfg", "job"], ["-m", "seed=1"], ["--hydra-help"], ["-cjob"]])
def test_options_of_hydra_pass(typed: list[str]) -> None:
    check_options(typed)
