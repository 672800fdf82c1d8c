"""Imports a user's module in a worker, and says what it does that a module should not do when it is imported."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from mnist_sweep.common.code_errors import code_error as code_error
from mnist_sweep.common.code_errors import import_error
from mnist_sweep.common.errors import UserError, machine_fault
from mnist_sweep.common.text import first_line
from mnist_sweep.journal.files import MODEL_FILE
from mnist_sweep.training import saved

# An import that takes longer is announced to the user.
SECONDS = 10.0
# Announces something to the user; the worker process sends it to the driver.
announce: Callable[[str], None] = print


def load(setting: str, module: str) -> ModuleType:
    """Imports a user's module.

    If that takes more than `SECONDS`, it is announced.

    Args:
        setting: The config key and its value, with which messages start: `model.builder=own:build`.
        module: The module's full name.

    Raises:
        UserError: It cannot be imported, or it trains a model.
    """
    slow = threading.Timer(SECONDS, lambda: announce(f"{setting}: importing {module} takes long"))
    slow.daemon = True
    slow.start()
    try:
        with _refusing_to_train(setting):
            return importlib.import_module(module)
    except UserError:
        # What it had defined so far must not pass as the module.
        sys.modules.pop(module, None)
        raise
    except SystemExit as error:
        ends = code_error(setting, module, "ends the process when it is imported", error)
        raise UserError(f'{ends}; move what reads the command line below `if __name__ == "__main__":`') from error
    except Exception as error:
        raise import_error(setting, module, error) from error
    finally:
        slow.cancel()


def check_loadable(model: keras.Model, setting: str) -> None:
    """Checks that a model can be loaded again after it was saved, which hours of training would depend on.

    Args:
        model: The model, built.
        setting: The config key and its value, with which the message starts.

    Raises:
        UserError: It cannot be saved, or not be loaded.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MODEL_FILE
            model.save(path, include_optimizer=False)
            saved.load(path)
    except Exception as error:
        if machine_fault(error):
            raise
        line = first_line(error.__cause__ or error)
        if isinstance(error, OSError):
            raise UserError(f"{setting}: its model cannot be saved ({line})") from error
        raise UserError(
            f"{setting}: the saved model cannot be loaded again ({line}); "
            "decorate custom layers with @keras.saving.register_keras_serializable(), and avoid Lambda layers"
        ) from error


@contextlib.contextmanager
def _refusing_to_train(setting: str) -> Iterator[None]:
    """Raises a `UserError` if a model is trained: every worker would train it again before its first trial."""
    refused: list[UserError] = []

    def train(*_: Any, **__: Any) -> None:
        frames = [frame for frame in traceback.extract_stack()[:-1] if not _is_librarys(frame.filename)]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "a module"
        refused.append(
            UserError(
                f'{setting}: {where} trains a model when it is imported; move that below `if __name__ == "__main__":`'
            )
        )
        raise refused[0]

    # In the class itself, before those from which it inherits the methods.
    keras.Model.fit = keras.Model.train_on_batch = train
    try:
        yield
    except Exception:
        if refused:
            raise refused[0] from None
        raise
    finally:
        del keras.Model.fit, keras.Model.train_on_batch
    if refused:
        # keras-tuner's `search` catches errors.
        raise refused[0]


def _is_librarys(file: str) -> bool:
    return "importlib" in file or "site-packages" in file
