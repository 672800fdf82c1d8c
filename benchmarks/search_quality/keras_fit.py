"""Training with Keras's own `model.fit`, its defaults and arrays: what people use keras-tuner and Optuna with.

`python -m benchmarks.search_quality.keras_fit OVERRIDES` measures it on one thread, for `record.py`. It reads
configurations as JSON, one per line, and prints the seconds of each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import TrialConfig, check_trial
from mnist_sweep.data import sources
from mnist_sweep.data.dataset import split
from mnist_sweep.data.images import to_float

_EPOCHS = 6


def composed(overrides: list[str]) -> tuple[Settings, Space]:
    """Returns the settings and the search space of a command line of this program."""
    settings = check_settings(compose.defaults(quote_sweeps(overrides)))
    return settings, Space(settings.trial)


class KerasFit:
    """Builds, compiles and trains the models of this program's configurations."""

    def __init__(self, settings: Settings) -> None:
        """Loads the images, and splits them as the settings say."""
        loaded = sources.load(sources.Request(settings.data.name))
        images = split(loaded, settings.data.validation_split, settings.seed)
        self._x, self._y = to_float(images.train.x), images.train.targets
        self._validation = to_float(images.validation.x), images.validation.targets
        self._schema = loaded.schema

    def compiled(self, config: TrialConfig) -> Any:
        """Returns the model of a configuration, ready to train."""
        import keras

        from mnist_sweep.training import model as models

        assert config.optimizer is not None
        keras.utils.set_random_seed(config.training.seed)
        steps = models.batches(len(self._x), config.training.batch_size)
        model = models.build(config, self._schema)
        optimizer = models.optimizer(config.optimizer, steps * config.training.epochs)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def arguments(self, config: TrialConfig) -> dict[str, Any]:
        """Returns the arguments of `fit`, without a progress bar, which costs time."""
        return {
            "x": self._x,
            "y": self._y,
            "validation_data": self._validation,
            "batch_size": config.training.batch_size,
            "verbose": 0,
        }

    def seconds(self, config: TrialConfig) -> tuple[float, float]:
        """Returns the seconds of an epoch, and those of building and tracing."""
        import keras

        times: list[float] = []
        start = time.perf_counter()
        keras.utils.clear_session()
        model = self.compiled(config)
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()))
        model.fit(**self.arguments(config), epochs=_EPOCHS, callbacks=[note])
        epoch = statistics.median(later - earlier for earlier, later in pairwise(times))
        return epoch, times[0] - start - epoch


def main() -> None:
    """Measures the configurations on standard input, after a first one that does not count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="the space, as on this program's command line")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from mnist_sweep.training.fit import configure

    configure(1, gpu=False)
    settings, space = composed(options.overrides)
    training = KerasFit(settings)
    configs = [check_trial(space.config(json.loads(line))) for line in sys.stdin]
    training.seconds(configs[0])
    for config in configs:
        print(json.dumps(training.seconds(config)), flush=True)


if __name__ == "__main__":
    main()
