"""What to type instead of an argument that Hydra's grammar refuses."""

from __future__ import annotations

import shlex

import pytest

from mnist_sweep.config.compose import defaults
from mnist_sweep.config.overrides import corrected


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        (["model.units=16,", "32"], "model.units=16,32"),
        (["model.units==16"], "model.units=16"),
        (["model.units=16", ",32"], "model.units=16,32"),
        (["model.units=16,", "32,", "64"], "model.units=16,32,64"),
        (["model.units=[16,", "32]"], "'model.units=[16,32]'"),
        (["model.units=choice(16,", "32)"], "'model.units=choice(16,32)'"),
        (["model.units=16,32,"], "model.units=16,32"),
        (["model.units=(16,32)"], "model.units=16,32"),
        (["model.units={16,32}"], "model.units=16,32"),
        (["model.units=choice[16,32]"], "model.units=16,32"),
        (["model.units=choice(16,32"], "'model.units=choice(16,32)'"),
        (["model.layers=range(1 5)"], "'model.layers=range(1,5)'"),
        (["optimizer.learning_rate = 0.01"], "optimizer.learning_rate=0.01"),
        (["rate=logrange(1e-4,1e-2,3)"], "'rate=tag(log,interval(1e-4,1e-2))'"),
        (["rate=loguniform(1e-4, 1e-2)"], "'rate=tag(log,interval(1e-4,1e-2))'"),
        (["rate=uniform(0, 0.5)"], "'rate=interval(0,0.5)'"),
        (["units=randint(16, 512)"], "'units=int(interval(16,512))'"),
        (["data.path=d/mnist (1).npz"], "'data.path=\"d/mnist (1).npz\"'"),
        (["data.path=~/digits.npz"], "'data.path=\"~/digits.npz\"'"),
        (["model.units=hp.Int(16,64,16)"], "'model.units=range(16,65,16)'"),
        (["rate=tune.loguniform(1e-4,", "1e-2)"], "'rate=tag(log,interval(1e-4,1e-2))'"),
        (["units=my.own(1,2)"], None),
        (["objective=[val_größe/x max,val_top@2 max]"], '\'objective=["val_größe/x max","val_top@2 max"]\''),
        (["model.units=choice()"], None),
        (["name=my run (2)"], None),
        (["=3"], None),
    ],
)
def test_an_argument_is_shown_as_it_must_be_written(typed: list[str], right: str | None) -> None:
    assert corrected(typed[0], typed[1:]) == right


@pytest.mark.parametrize(
    "name",
    [
        "mnist (1).npz",
        "é.npz",
        "a=b.npz",
        "a#b.npz",
        "[x].npz",
        "it's.npz",
        'a"b.npz',
        "a{b}.npz",
        "a&b;c.npz",
        "a'\"\\",
    ],
)
def test_a_file_name_arrives_as_it_is_if_it_is_typed_as_shown(name: str) -> None:
    right = corrected(f"data.path=d/{name}")
    assert right is not None
    (argument,) = shlex.split(right)
    assert defaults(["data=npz", argument])["data"]["path"] == f"d/{name}"
