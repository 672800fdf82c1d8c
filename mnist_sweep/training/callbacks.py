"""The callbacks of `training.callbacks`: what they may do in an epoch that is one compiled program, and their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError, did_you_mean, machine_fault
from mnist_sweep.common.text import first_line
from mnist_sweep.config.trial_config import Callback
from mnist_sweep.training import user_code

_ALLOWED = {"on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"}
# What belongs to one run of a callback.
_NOT_STATE = {"params", "_model", "validation_data"}

State = dict[str, Any]


class Callbacks:
    """The callbacks of one trial.

    Attributes:
        stopped: Which callback has ended the training, else "".
    """

    def __init__(self, configs: Sequence[Callback]) -> None:
        """Creates them.

        Raises:
            UserError: One cannot be created, or needs to be called within an epoch.
        """
        self._all = [(config, _made(config)) for config in configs]
        self.stopped = ""

    def begin(self, model: keras.Model, epochs: int, states: Sequence[State]) -> None:
        """Starts the training.

        Args:
            model: The compiled model.
            epochs: The last epoch to train.
            states: What `states` returned after the last finished epoch; empty at the start.
        """
        model.stop_training = False
        for i, (config, callback) in enumerate(self._all):
            callback.set_params({"epochs": epochs, "verbose": 0})
            callback.set_model(model)
            self._call(config, callback.on_train_begin)
            if i < len(states):
                if getattr(callback, "monitor_op", callback) is None:
                    # Keras's callbacks otherwise do this, and change the sign of `min_delta`, after their first epoch.
                    callback._set_monitor_op()
                vars(callback).update(states[i])

    def epoch_begin(self, epoch: int) -> None:
        """Tells them that an epoch, counted from 0, begins."""
        for config, callback in self._all:
            self._call(config, callback.on_epoch_begin, epoch)

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Tells them the metrics of an epoch, counted from 0."""
        for config, callback in self._all:
            monitored = getattr(callback, "monitor", None)
            if isinstance(monitored, str) and monitored not in metrics:
                raise UserError(
                    f"{_setting(config)}: monitors {monitored}, which is not logged{did_you_mean(monitored, metrics)}"
                )
            self._call(config, callback.on_epoch_end, epoch, dict(metrics))
            if callback.model.stop_training and not self.stopped:
                self.stopped = f"stopped by {config.name}"

    def end(self) -> None:
        """Tells them that the training has ended."""
        for config, callback in self._all:
            self._call(config, callback.on_train_end)

    def states(self) -> list[State]:
        """Returns each one's attributes that are numbers, texts, or lists and dicts of them."""
        return [
            {
                name: _plain(value)
                for name, value in vars(callback).items()
                if name not in _NOT_STATE and _is_plain(value)
            }
            for _, callback in self._all
        ]

    def _call(self, config: Callback, method: Any, *arguments: Any) -> None:
        try:
            method(*arguments)
        except Exception as error:
            if machine_fault(error) is not None:
                raise
            module = config.name.partition(":")[0]
            raise user_code.code_error(_setting(config), module, f"its {method.__name__} raised", error) from error


def _setting(config: Callback) -> str:
    return f"training.callbacks={config.name}"


def _made(config: Callback) -> keras.callbacks.Callback:
    setting = _setting(config)
    module, colon, name = config.name.partition(":")
    kind: Any = getattr(user_code.load(setting, module), name, None) if colon else getattr(keras.callbacks, module)
    if not callable(kind):
        raise UserError(f"{setting}: {module} has no class {name}")
    try:
        callback = kind(**config.arguments)
    except Exception as error:
        if colon:
            raise user_code.code_error(setting, module, "raised", error) from error
        raise UserError(f"{setting}: {first_line(error)}") from error
    if not isinstance(callback, keras.callbacks.Callback):
        raise UserError(f"{setting}: is {type(callback).__name__}; it must be a keras.callbacks.Callback")
    base = keras.callbacks.Callback
    hooks = [hook for hook in dir(base) if hook.startswith("on_") and hook not in _ALLOWED]
    used = [hook for hook in hooks if getattr(type(callback), hook) is not getattr(base, hook)]
    if used:
        raise UserError(
            f"{setting}: overrides {used[0]}, which is never called: an epoch is one compiled program; use "
            "on_epoch_begin or on_epoch_end, or a hypermodel with a fit of its own"
        )
    return callback


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, bool | int | float | str | np.number | np.bool_)


def _plain(value: Any) -> Any:
    """Returns a value without NumPy's types."""
    if isinstance(value, list):
        return list(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.item() if isinstance(value, np.number | np.bool_) else value
