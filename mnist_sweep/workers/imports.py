"""Imports what a worker needs in less time, as the start of a sweep waits for it.

`import tensorflow` also imports Keras, and Keras imports what its wrappers and plots might need. Measured on one
machine, in seconds of CPU: `import tensorflow` 2.6; all of `MODULES`, without the garbage collector, 2.4; also without
`_OPTIONAL`, 1.6.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence

from mnist_sweep.common.importing import hidden, without_collector

# What a worker's first trial needs; the first module imports TensorFlow and Keras.
MODULES = ("mnist_sweep.training.fit", "mnist_sweep.training.executions", "mnist_sweep.workers.process")
# What Keras and TensorFlow import if it is installed, but do not need: wrappers for scikit-learn, plots of images, data
# frames as data, a file editor for notebooks. pyarrow, which pandas imports, also starts a thread, which a process that
# forks should not have.
_OPTIONAL = ("sklearn", "matplotlib", "pandas", "IPython", "pyarrow")


def load(modules: Sequence[str] = MODULES, *, custom_code: bool) -> None:
    """Imports modules.

    Args:
        modules: Their names.
        custom_code: Whether user code will run, which may use any part of Keras. Otherwise some optional packages
            look as if they were not installed. They can still be imported afterwards.
    """
    with without_collector():
        try:
            with hidden(() if custom_code else _OPTIONAL):
                for module in modules:
                    importlib.import_module(module)
        finally:
            # In a forked process, the collector would also copy every page with an object that it marks.
            gc.freeze()
