"""Keras without a tensor library, for the driver: keras-tuner and Keras's data sets need no tensors.

`KERAS_BACKEND=numpy` is the lightest backend, but since Keras 3 it imports JAX for a few of its functions
(FFT, convolutions), none of which the driver calls. To need neither TensorFlow (5 s) nor JAX (600 MB),
Keras is imported with stand-ins for JAX's modules, which are removed afterwards.

Keras and keras-tuner also import pandas, Matplotlib, scikit-learn and most of SciPy if they are installed. That takes
a second, while worker processes import TensorFlow on the same cores. So these packages are hidden, except for the
parts of SciPy that Keras needs; keras-tuner gets SciPy and scikit-learn when its Gaussian process uses them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mnist_sweep.common.importing import hidden

_OPTIONAL = frozenset({"IPython", "matplotlib", "pandas", "requests", "sklearn"})
_LAZY = ("scipy", "sklearn")


class _StandIn(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            # SciPy, in another thread, may check whether something is a `jax.Array`.
            return type(name, (), {})
        # It imports asyncio, so it is imported only after the workers have started.
        from unittest.mock import MagicMock

        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if _is_jax(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: a stand-in has no code."""


def _is_jax(name: str) -> bool:
    return name.partition(".")[0] in ("jax", "jaxlib")


@contextmanager
def _without_jax() -> Iterator[None]:
    # A copy of the list, because another thread may be importing MLflow.
    real = {name: module for name, module in list(sys.modules.items()) if _is_jax(name)}
    for name in real:
        del sys.modules[name]
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            if _is_jax(name):
                del sys.modules[name]
        sys.modules.update(real)


class _LazyPackage(ModuleType):
    """A package whose modules are imported on first use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return importlib.import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError:
            return getattr(importlib.import_module(self.__name__), name)


def _restore_hidden() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("keras_tuner."):
            for package in _LAZY:
                if vars(module).get(package, module) is None and importlib.util.find_spec(package) is not None:
                    setattr(module, package, _LazyPackage(package))


def load(module: str = "keras_tuner") -> Any:
    """Imports keras-tuner or a part of Keras without TensorFlow.

    If Keras is loaded already (in a worker, or in a user's notebook), it is used unchanged.

    Args:
        module: `keras_tuner`, `keras` or one of their submodules.

    Returns:
        The module.
    """
    if "keras" in sys.modules:
        return importlib.import_module(module)
    backend = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "numpy"
    try:
        with _without_jax(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with hidden(_OPTIONAL):
                importlib.import_module("keras")
            with hidden(_OPTIONAL | set(_LAZY)):
                found = importlib.import_module(module)
            _restore_hidden()
            return found
    finally:
        # Worker processes inherit the environment, and use another backend.
        if backend is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = backend
