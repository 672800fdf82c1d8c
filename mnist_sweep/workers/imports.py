"""Imports what a worker needs in half of the time, as all the world waits for it at a sweep's start.

`import tensorflow` also imports Keras, and that what its wrappers and its plots could need. Measured on one machine, in
seconds of CPU: `import tensorflow` 2.6; all of `MODULES`, without the garbage collector, 2.4; without `_OPTIONAL`, 1.6.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# What a worker's first trial needs; the first of them imports TensorFlow and Keras.
MODULES = ("mnist_sweep.training.fit", "mnist_sweep.training.executions", "mnist_sweep.workers.process")
# What Keras and TensorFlow do without where it is not installed: wrappers for scikit-learn, pictures of images, data
# frames as data, a file editor for notebooks; each is imported with them where it is. pyarrow, which pandas brings,
# also starts a thread, which no process should have that forks.
_OPTIONAL = ("sklearn", "matplotlib", "pandas", "IPython", "pyarrow")


def load(modules: Sequence[str] = MODULES, *, own_code: bool) -> None:
    """Imports modules; those that are there already cost nothing.

    Args:
        modules: Their names.
        own_code: Whether code of the user's will run, which may use anything that Keras has; without, Keras takes some
            packages for not installed. They can still be imported afterwards.
    """
    # What is imported stays: to look through it again and again for garbage takes a quarter of the time.
    gc.disable()
    try:
        with _hidden(() if own_code else _OPTIONAL):
            for module in modules:
                importlib.import_module(module)
    finally:
        # In a process that is forked, the collector would also copy every page that it marks something on.
        gc.freeze()
        gc.enable()


@contextmanager
def _hidden(packages: Sequence[str]) -> Iterator[None]:
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
