"""Imports what a worker needs in half of the time, as all the world waits for it at a sweep's start.

`import tensorflow` also imports Keras, and that what its wrappers and its plots could need. Measured on one machine, in
seconds of CPU: `import tensorflow` 2.6; all of `MODULES`, without the garbage collector, 2.4; without `_OPTIONAL`, 1.6.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence

from mnist_sweep.common.importing import hidden, without_collector

# What a worker's first trial needs; the first of them imports TensorFlow and Keras.
MODULES = ("mnist_sweep.training.fit", "mnist_sweep.training.executions", "mnist_sweep.workers.process")
# What Keras and TensorFlow do without where it is not installed: wrappers for scikit-learn, pictures of images, data
# frames as data, a file editor for notebooks; each is imported with them where it is. pyarrow, which pandas brings,
# also starts a thread, which no process should have that forks.
_OPTIONAL = ("sklearn", "matplotlib", "pandas", "IPython", "pyarrow")


def load(modules: Sequence[str] = MODULES, *, custom_code: bool) -> None:
    """Imports modules; those that are there already cost nothing.

    Args:
        modules: Their names.
        custom_code: Whether a user's code will run, which may use anything that Keras has; without, Keras takes some
            packages for not installed. They can still be imported afterwards.
    """
    with without_collector():
        try:
            with hidden(() if custom_code else _OPTIONAL):
                for module in modules:
                    importlib.import_module(module)
        finally:
            # In a process that is forked, the collector would also copy every page that it marks something on.
            gc.freeze()
