"""Training by a user's own `HyperModel.fit(self, hp, model, *args, **kwargs)`, as keras-tuner would call it.

Such a fit may draw its batches, and tune their size, as it likes. So it gets arrays, and goes on from no saved state.
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
from mnist_sweep.data.images import Array
from mnist_sweep.training import backends
from mnist_sweep.training.custom_model import Built, failed, what

Data = tuple[Array, Array]


class Ended(BaseException):
    """Leaves a user's fit that would train longer than its trial."""


class Skipped(BaseException):
    """Leaves a user's fit that is only asked for its hyperparameters."""


def train(built: Built, data: Data, validation: Data | None, training: Training, epochs: int, guide: Any) -> None:
    """Lets a user's fit train a model to the trial's last epoch at most.

    What it leaves open when it calls `model.fit`, is filled in: epochs, batch size, validation images, our callback.

    Args:
        built: The model.
        data: The training images and labels, as the model wants them.
        validation: The same for the validation; None where there are none.
        training: The trial's training settings.
        epochs: The last epoch to train.
        guide: Our callback: it counts the epochs in `progress.epoch`, and is `ended` when there are to be no more.

    Raises:
        UserError: The user's code fails, or tells the callbacks of no epoch.
    """
    model, first = built.model, guide.progress.epoch
    keras_fit = model.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        trained = guide.progress.epoch
        if guide.ended:
            raise Ended
        given = inspect.signature(keras_fit).bind_partial(*args, **kwargs).arguments
        if isinstance(given.get("x"), np.ndarray) or keras.ops.is_tensor(given.get("x")):
            given.setdefault("batch_size", training.batch_size)
        if validation is not None and not given.get("validation_split"):
            given.setdefault("validation_data", validation)
        begin = given.setdefault("initial_epoch", first if trained == first else 0)
        given["epochs"] = min(given.get("epochs", epochs), begin + epochs - trained)
        given.setdefault("verbose", 0)
        others = given.get("callbacks") or []
        others = list(others) if isinstance(others, list | tuple) else [others]
        given["callbacks"] = [*(c for c in others if c is not guide), guide]
        return keras_fit(**given)

    offered = {"epochs": epochs, "initial_epoch": first, "batch_size": training.batch_size}
    guide.set_model(model)
    model.fit = fit
    try:
        built.hypermodel.fit(built.hp, model, *data, **_arguments(built.hypermodel, validation, [guide], offered))
    except Ended:
        pass
    except (UserError, MemoryError, backends.Errors):
        raise
    except Exception as error:
        raise failed(built.name, "its fit raised", error) from error
    finally:
        del model.fit
    if guide.progress.epoch == first and not guide.ended:
        raise UserError(f"{what(built.name)}: its fit tells the callbacks of no epoch; pass them on to model.fit")


def ask(hypermodel: Any, hp: Any, model: keras.Model, data: Data) -> bool:
    """Runs a user's fit as far as it goes without training, so that it asks for its hyperparameters.

    Args:
        hypermodel: Whose fit it is.
        hp: Notes what it asks for.
        model: What `build` returned.
        data: A few images and labels, on which a training loop of the user's own does train.

    Returns:
        Whether it came to `model.fit`.
    """
    came: list[bool] = []

    def fit(*_: Any, **__: Any) -> None:
        came.append(True)
        raise Skipped

    offered = {"epochs": 1, "initial_epoch": 0, "batch_size": len(data[0])}
    model.fit = fit
    try:
        hypermodel.fit(hp, model, *data, **_arguments(hypermodel, data, [], offered))
    except Skipped:
        pass
    except Exception as error:
        # What it asked for until then is known; what is wrong, trials will tell.
        traceback.print_exception(error)
    finally:
        del model.fit
    return bool(came)


def _arguments(
    hypermodel: Any,
    validation: Data | None,
    callbacks: list[Callable[..., Any]],
    offered: dict[str, Any],
) -> dict[str, Any]:
    """What keras-tuner would pass on, and of `offered` what the fit has a parameter for: many fits pass their own."""
    parameters = inspect.signature(hypermodel.fit).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    usual = {"callbacks": callbacks} | ({} if validation is None else {"validation_data": validation})
    return {k: v for k, v in usual.items() if takes_all or k in parameters} | {
        k: v for k, v in offered.items() if k in parameters
    }
