"""Functions that return data, as users write them for `data.loader`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

ROWS, TRAINED, VALIDATED = 300, 200, 50


def rows(seed: int = 0):
    """300 images of 6×6 with a bright stripe, whose place is the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, ROWS)
    images = random.integers(0, 90, (ROWS, 6, 6), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i, 2 * label] += 150
    return images, labels


def parts(x, y):
    ends = [0, TRAINED, TRAINED + VALIDATED, ROWS]
    return [(x[begin:end], y[begin:end]) for begin, end in itertools.pairwise(ends)]


def arrays():
    train, validation, test = parts(*rows())
    return train, validation, test


def tensors(batch=32, shuffle=True, endless=False):
    """A tf.data.Dataset for each part."""
    import tensorflow as tf

    made = [tf.data.Dataset.from_tensor_slices(part) for part in parts(*rows())]
    if shuffle:
        made[0] = made[0].shuffle(TRAINED)
    if endless:
        made[0] = made[0].repeat()
    return tuple(one.batch(batch) for one in made) if batch else tuple(made)


def sized(batch_size):
    return tensors(batch_size)


def without_test():
    return tensors()[:2]


def regression():
    """Numbers to predict, far from 0, from 36 numbers, with weights."""
    import tensorflow as tf

    x, _ = rows()
    flat = x.reshape(ROWS, -1).astype(np.float32) / 50 - 1
    y = flat[:, 0] * 100 + 5000
    made = []
    for (a, b), (w, _) in zip(parts(flat, y), parts(np.ones(ROWS, np.float32), y), strict=True):
        made.append(tf.data.Dataset.from_tensor_slices((a, b, w)).batch(32))
    return dict(zip(("train", "validation", "test"), made, strict=True))


def batches(labels_from=0, one_hot=False):
    """A keras.utils.PyDataset for each part, which shuffles after each epoch."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self, x: Any, y: Any, shuffle: bool) -> None:
            super().__init__()
            self.x, self.y, self.shuffle = x, y, shuffle
            self.order, self.random = np.arange(len(x)), np.random.default_rng(0)

        def __len__(self) -> int:
            return -(-len(self.x) // 32)

        def __getitem__(self, index: int) -> Any:
            some = self.order[index * 32 : (index + 1) * 32]
            y = np.eye(3)[self.y[some]] if one_hot else self.y[some] + labels_from
            return self.x[some], y

        def on_epoch_end(self) -> None:
            if self.shuffle:
                self.random.shuffle(self.order)

    (train, validation, test) = parts(*rows())
    return {"train": Batches(*train, True), "validation": Batches(*validation, False), "test": Batches(*test, False)}


def two_inputs():
    """Two inputs by name."""
    import tensorflow as tf

    made = []
    for x, y in parts(*rows()):
        made.append(tf.data.Dataset.from_tensor_slices(({"image": x, "table": x[:, 0].astype("float32")}, y)).batch(32))
    return tuple(made)


def fails_later(after=3):
    """A PyDataset that fails in its fourth epoch."""
    made = batches()
    train = made["train"]
    kind = type(train)

    class Failing(kind):  # type: ignore[misc, valid-type]
        ends = 0

        def __getitem__(self, index: int) -> Any:
            if self.ends >= after:
                raise ValueError("the server of the pictures is gone")
            return super().__getitem__(index)

        def on_epoch_end(self) -> None:
            self.ends += 1

    return {**made, "train": Failing(train.x, train.y, True)}


class _Loader:
    """Looks like a loader of Grain, of single rows."""

    def __init__(self, x: Any, y: Any) -> None:
        self._rows = list(zip(x, y, strict=True))

    def __iter__(self) -> Any:
        return iter(self._rows)


_Loader.__module__ = "grain.fake"


def like_grain():
    return tuple(_Loader(*part) for part in parts(*rows()))


def endless():
    return tensors(endless=True)


def empty():
    train, validation, test = tensors()
    return train.take(0), validation, test


def one_part():
    return tensors()[0]


def dicts():
    import tensorflow as tf

    x, y = rows()
    made = tf.data.Dataset.from_tensor_slices({"image": x, "label": y}).batch(32)
    return made, made
