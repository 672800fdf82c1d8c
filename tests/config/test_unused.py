"""Values that a sweep would ignore."""

from __future__ import annotations

import pytest
from example_tables import of_experiment

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.unused import refuse_unused

# What experiments on a user's own data need.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("data=mnist_5k data.path=/no/such.npz", "data.path=/no/such.npz: is not used; data=mnist_5k reads no file"),
        ("data=mnist_5k data.fallback=mnist_5k", "data.fallback=mnist_5k: is not used; "),
        ("data=folder data.path=a data.resize=pad", "data.resize=pad: is not used; set data.image_size"),
        ("folds=3", "folds=3: is not used; write validation=kfold"),
        ("validation=kfold data.validation_split=0.2", "data.validation_split=0.2: is not used; validation=kfold "),
        ("training.early_stopping.min_delta=0.01", "training.early_stopping.min_delta=0.01: is not used; set "),
        ("training.backend=jax training.jit_compile=false", "training.jit_compile=false: is not used; "),
        ("workers.devices=cpu workers.trials_per_gpu=2", "workers.trials_per_gpu=2: is not used; "),
        ("workers.devices=gpu workers.count=2", "workers.count=2: is not used; it counts workers on CPU"),
        ("model.hypermodel=a:b model.units=16,32", "model.units=16,32: is not used; the hypermodel builds"),
        ("model.hypermodel=a:b optimizer=sgd", "optimizer.name=sgd: is not used; the hypermodel compiles"),
        ("model.hypermodel=a:b +optimizer.arguments.clipnorm=1", "optimizer.arguments.clipnorm=1: is not used; "),
        ("model.layers=0 model.units=64", "model.units=64: is not used; model.layers=0 leaves no hidden layer"),
        ("model=cnn model.dense.layers=0 model.dense.units=64", "model.dense.units=64: is not used; "),
        ("model=cnn model.pooling.kind=null model.pooling.after=all", "model.pooling.after=all: is not used; "),
        ("model=cnn model.layers=1 model.padding=same model.residual=true", "model.residual=true: is not used; "),
        ("augment.fill=wrap augment.contrast=0.1", "augment.fill=wrap: is not used; "),
        ("training.early_stopping=5", "training.early_stopping=5: is a group; set its keys, such as "),
        ("training.early_stopping=null", "training.early_stopping=null: is a group; "),
        ("model=cnn model.pooling=null", "model.pooling=null: is a group; set its keys, such as model.pooling.kind"),
        ("search.target=97", "search.target=97: an accuracy is at most 1; 97 percent are 0.97"),
    ],
)
def test_a_value_that_would_be_ignored_is_refused(overrides: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        refuse_unused(compose.defaults(quote_sweeps(overrides.split())))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "data.path=a.npz",
        "data=npz data.path=a.npz",
        "validation=kfold folds=3",
        "validation=kfold data.validation_split=0",
        "training.early_stopping.patience=3 training.early_stopping.min_delta=0.01",
        "training.early_stopping.patience=choice(null,3) training.early_stopping.min_delta=0.01",
        "model.layers=0,1 model.units=64",
        "model.hypermodel=a:b +model.values.units=16",
        "model=cnn model.hypermodel=a:b",
        "model.builder=a:b model.units=64",
        "model=cnn model.pooling.kind=null",
        "search.target=1",
        "search.target=2 objective=val_loss",
        *(" ".join(of_experiment(name)) for name in compose.experiments()),
    ],
)
def test_a_value_that_is_used_passes(overrides: str) -> None:
    refuse_unused(compose.defaults(quote_sweeps(overrides.split())))
