"""Finds and calls the user's function that returns data (`data.loader`)."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from mnist_sweep.common.code_errors import code_error, import_error
from mnist_sweep.common.errors import UserError, did_you_mean

Function = Callable[..., Any]
_BATCH_SIZE = "batch_size"


def setting(loader: str) -> str:
    """Returns the config key and its value, with which messages start."""
    return f"data.loader={loader}"


def find(loader: str, load: Callable[[str, str], ModuleType]) -> Function:
    """Imports a user's function.

    Args:
        loader: `package.module:function`.
        load: Imports a module, given `setting` and its name.

    Raises:
        UserError: It cannot be imported.
    """
    module, _, name = loader.partition(":")
    found = getattr(loaded := load(setting(loader), module), name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    if found is not None:
        raise UserError(f"{setting(loader)}: is of type {type(found).__name__}; name a function that returns the data")
    names = [known for known, value in vars(loaded).items() if callable(value) and not known.startswith("_")]
    raise UserError(f"{setting(loader)}: {module} has no function {name}{did_you_mean(name, names)}")


def plain_import(about: str, module: str) -> ModuleType:
    """Imports a module of the user's.

    Args:
        about: The start of an error's message.
        module: Its name.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except SystemExit as error:
        ends = code_error(about, module, "ends the process when it is imported", error)
        raise UserError(f'{ends}; move what reads the command line below `if __name__ == "__main__":`') from error
    except Exception as error:
        raise import_error(about, module, error) from error


def takes_batch_size(function: Function, arguments: Mapping[str, Any]) -> bool:
    """Returns whether a function has a parameter for the batch size that the user has not set."""
    if _BATCH_SIZE in arguments:
        return False
    try:
        return _BATCH_SIZE in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def call(function: Function, loader: str, arguments: Mapping[str, Any], batch_size: int) -> Any:
    """Calls a user's function.

    Args:
        function: The function.
        loader: Its name, for messages.
        arguments: Its keyword arguments.
        batch_size: What it gets for `batch_size`, if it has such a parameter.

    Raises:
        UserError: It does not take these arguments, or raises an error.
    """
    given = {**arguments, **({_BATCH_SIZE: batch_size} if takes_batch_size(function, arguments) else {})}
    _check_arguments(function, loader, given)
    try:
        return function(**given)
    except SystemExit as error:
        raise failed(loader, "ends the process", error) from error
    except MemoryError:
        raise
    except Exception as error:
        raise failed(loader, "raised", error) from error


def failed(loader: str, problem: str, error: BaseException) -> UserError:
    """Describes an error in the function, or in what it has returned, in one line with its place."""
    return code_error(setting(loader), loader.partition(":")[0], problem, error)


def _check_arguments(function: Function, loader: str, given: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # A function without a signature, such as one of C.
        return
    known = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        for name in given:
            if name not in known:
                raise UserError(
                    f"data.arguments.{name}: {setting(loader)} has no parameter {name}{did_you_mean(name, known)}"
                )
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or one.default is not one.empty or one.name in given:
            continue
        if one.kind is one.POSITIONAL_ONLY:
            raise UserError(f"{setting(loader)}: needs the positional argument {one.name}; give it a default")
        raise UserError(f"{setting(loader)}: needs the argument {one.name}; write +data.arguments.{one.name}=…")


def seed(number: int) -> None:
    """Seeds the random numbers of Python, NumPy, Keras and PyTorch, of those that are imported."""
    random.seed(number)
    np.random.seed(number)
    if (keras := sys.modules.get("keras")) is not None:
        keras.utils.set_random_seed(number)
    elif (tensorflow := sys.modules.get("tensorflow")) is not None:
        tensorflow.random.set_seed(number)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(number)
