"""Training with a user's own `HyperModel.fit(self, hp, model, *args, **kwargs)`, called as keras-tuner calls it.

Such a fit may draw its batches as it likes and tune the batch size. So it gets arrays, and it cannot resume from a
checkpoint.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.trial_config import Training
from mnist_sweep.training import backends
from mnist_sweep.training.custom_model import BuiltModel, code_error, setting
from mnist_sweep.training.splits import Batch


class TrainingOver(BaseException):
    """Leaves a user's fit that would train longer than its trial."""


class _DryRunOver(BaseException):
    """Leaves a user's fit that is called only to record its hyperparameters."""


def train(
    built: BuiltModel, data: Batch, validation: Batch | None, training: Training, epochs: int, callback: Any
) -> None:
    """Lets a user's fit train a model, at most to the trial's last epoch.

    Arguments that the user's fit does not pass to `model.fit` are filled in: epochs, batch size, validation rows and
    our callback.

    Args:
        built: The model.
        data: The training rows, as the model expects them.
        validation: The same for validation; None if there are no validation rows.
        training: The trial's `training` config.
        epochs: The last epoch to train.
        callback: Our callback: counts the epochs in `progress.epoch`, and its `ended` says that training is over.

    Raises:
        UserError: The user's code fails, or does not pass the callbacks on.
    """
    model, first = built.model, callback.progress.epoch
    keras_fit = model.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        trained = callback.progress.epoch
        if callback.ended:
            raise TrainingOver
        given = inspect.signature(keras_fit).bind_partial(*args, **kwargs).arguments
        # Several inputs are a dict of arrays.
        parts = keras.tree.flatten(given.get("x"))
        if parts and all(isinstance(one, np.ndarray) or keras.ops.is_tensor(one) for one in parts):
            given.setdefault("batch_size", training.batch_size)
        if validation is not None and not given.get("validation_split"):
            given.setdefault("validation_data", validation)
        begin = given.setdefault("initial_epoch", first if trained == first else 0)
        given["epochs"] = min(given.get("epochs", epochs), begin + epochs - trained)
        given.setdefault("verbose", 0)
        others = given.get("callbacks") or []
        others = list(others) if isinstance(others, list | tuple) else [others]
        given["callbacks"] = [*(c for c in others if c is not callback), callback]
        return keras_fit(**given)

    offered = {"epochs": epochs, "initial_epoch": first, "batch_size": training.batch_size}
    callback.set_model(model)
    model.fit = fit
    try:
        given = _arguments(built.hypermodel, validation, [callback], offered | _weights(data))
        built.hypermodel.fit(built.hp, model, *data[:2], **given)
    except TrainingOver:
        pass
    except (UserError, MemoryError, backends.MachineErrors):
        raise
    except Exception as error:
        raise code_error(built.name, "its fit raised", error) from error
    finally:
        del model.fit
    if callback.progress.epoch == first and not callback.ended:
        raise UserError(f"{setting(built.name)}: its fit ends no epoch; pass the callbacks on to model.fit")


def dry_run(hypermodel: Any, hp: Any, model: keras.Model, data: Batch) -> bool:
    """Runs a user's fit up to `model.fit`, to record its hyperparameters.

    Args:
        hypermodel: The hypermodel.
        hp: Records the hyperparameters that fit asks for.
        model: What `build` returned.
        data: A few rows; a user's own training loop does train on them.

    Returns:
        Whether the fit called `model.fit`.
    """
    calls: list[bool] = []

    def fit(*_: Any, **__: Any) -> None:
        calls.append(True)
        raise _DryRunOver

    offered = {"epochs": 1, "initial_epoch": 0, "batch_size": len(keras.tree.flatten(data[1])[0])}
    model.fit = fit
    try:
        hypermodel.fit(hp, model, *data[:2], **_arguments(hypermodel, data, [], offered | _weights(data)))
    except _DryRunOver:
        pass
    except Exception as error:
        # What it asked for before is recorded; trials will report what is wrong.
        traceback.print_exception(error)
    finally:
        del model.fit
    return bool(calls)


def _weights(data: Batch) -> dict[str, Any]:
    return {"sample_weight": data[2]} if len(data) == 3 else {}


def _arguments(
    hypermodel: Any, validation: Batch | None, callbacks: list[Callable[..., Any]], offered: dict[str, Any]
) -> dict[str, Any]:
    """Returns what keras-tuner would pass, and those of `offered` that the fit has a parameter for."""
    parameters = inspect.signature(hypermodel.fit).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    usual = {"callbacks": callbacks} | ({} if validation is None else {"validation_data": validation})
    return {k: v for k, v in usual.items() if takes_all or k in parameters} | {
        k: v for k, v in offered.items() if k in parameters
    }
