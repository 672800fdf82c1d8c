"""Training as Keras has it: `model.fit` on arrays, with its defaults. What people put keras-tuner and Optuna around.

`python -m benchmarks.search_quality.keras_fit OVERRIDES` measures it on one thread, for `record.py`: it reads settings
as JSON, a line each, and prints the seconds of each.
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

_EPOCHS = 6


class KerasFit:
    """Builds, compiles and trains a setting. The models are those of this program."""

    def __init__(self, settings: Settings) -> None:
        """Loads the images.

        Args:
            settings: For the data, the part to be validated on, and the seed of the split.
        """
        from mnist_sweep.data import images as data

        images = data.split(data.load(settings.data.name), settings.data.validation_split, settings.seed)
        self._x, self._y = data.to_float(images.x_train), images.y_train
        self._validation = data.to_float(images.x_val), images.y_val
        self._classes = images.classes

    def compiled(self, config: TrialConfig) -> Any:
        """The model of a setting, ready to train."""
        import keras

        from mnist_sweep.training import model as models

        assert config.optimizer is not None
        keras.utils.set_random_seed(config.training.seed)
        steps = models.batches(len(self._x), config.training.batch_size)
        model = models.build(config, self._x.shape[1:], self._classes)
        optimizer = models.optimizer(config.optimizer, steps * config.training.epochs)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def arguments(self, config: TrialConfig) -> dict[str, Any]:
        """What `fit` is given: images, validation images, batch size; no progress bar, which costs time."""
        return {
            "x": self._x,
            "y": self._y,
            "validation_data": self._validation,
            "batch_size": config.training.batch_size,
            "verbose": 0,
        }

    def seconds(self, config: TrialConfig) -> tuple[float, float]:
        """How long a setting takes.

        Returns:
            Seconds of an epoch; and beside the epochs, for building and tracing.
        """
        import keras

        times: list[float] = []
        begun = time.perf_counter()
        keras.utils.clear_session()
        model = self.compiled(config)
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()))
        model.fit(**self.arguments(config), epochs=_EPOCHS, callbacks=[note])
        epoch = statistics.median(later - earlier for earlier, later in pairwise(times))
        return epoch, times[0] - begun - epoch


def main() -> None:
    """Measures the settings on standard input, after a first one that is not counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="the space, as on this program's command line")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from mnist_sweep.training.fit import configure

    configure(1, gpu=False)
    settings = check_settings(compose.defaults(quote_sweeps(options.overrides)))
    space, training = Space(settings.trial), KerasFit(settings)
    configs = [check_trial(space.config(json.loads(line))) for line in sys.stdin]
    training.seconds(configs[0])
    for config in configs:
        print(json.dumps(training.seconds(config)), flush=True)


if __name__ == "__main__":
    main()
