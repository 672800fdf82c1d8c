"""What is learned by reading a stream once, and which streams are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import loaders
import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import returned, stream_scan
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.schema import Target

X, Y = loaders.rows()


class Batches:
    """Yields batches; passes as a loader of Grain, so that no library is needed."""

    def __init__(self, x: Any, y: Any, size: int = 32, more: Any = None, endless: bool = False) -> None:
        self.x, self.y, self.size, self.more, self.endless = x, y, size, more, endless

    def __iter__(self) -> Iterator[Any]:
        while True:
            for begin in range(0, len(self.y), self.size):
                end = begin + self.size
                yield (self.x[begin:end], self.y[begin:end], *([] if self.more is None else [self.more[begin:end]]))
            if not self.endless:
                return


Batches.__module__ = "grain.made_up"


def scanned(value: Any, wanted: Any = None, **options: Any) -> LoadedData:
    parts = returned.streams(value, "data.loader=mine:load")
    assert parts is not None
    given = stream_scan.Options(**{"classes": None, "count": True, "steps_per_epoch": None, **options})
    arguments: dict[str, Any] = {"wanted": wanted, "takes_batch_size": False, "tell": lambda _: None}
    return stream_scan.scan(parts, "mine:load", {}, given, **arguments)


def both(x: Any = X, y: Any = Y, **more: Any) -> tuple[Batches, Batches]:
    return Batches(x[:200], y[:200], **more), Batches(x[200:], y[200:])


def test_rows_classes_and_the_scale_of_pixels_are_learned() -> None:
    data = scanned(both())
    assert data.schema.image == (6, 6, 1)
    assert data.schema.target == Target("classes", 3)
    stream = data.stream
    assert stream is not None
    assert stream.rows == {"train": 200, "val": 100}
    assert (stream.steps, stream.batch_size, stream.parts) == (7, 32, ("train", "val"))
    assert stream.counts == tuple(np.bincount(Y[:200]))
    assert (stream.inputs["x"].white, stream.inputs["x"].axis) == (255, True)
    assert any("has no test part, so the winner is not tested" in note for note in data.notes)
    assert np.array_equal(data.train.x[..., 0], X[:200])


def test_the_scale_is_the_same_for_floats_and_for_16_bits() -> None:
    assert scanned(both(X.astype(np.float32))).stream.inputs["x"].white == 255  # type: ignore[union-attr]
    assert scanned(both(X / np.float32(255))).stream.inputs["x"].white == 1  # type: ignore[union-attr]
    assert scanned(both(X.astype(np.uint16) * 257)).stream.inputs["x"].white == 65535  # type: ignore[union-attr]
    standardized = scanned(both((X.astype(np.float32) - 80) / 60))
    assert (standardized.schema.image, standardized.schema.inputs["x"].kind) == (None, "array")


def test_targets_of_every_kind_are_told_apart() -> None:
    flat = X.reshape(300, -1) - np.float32(9)
    assert scanned(both(flat, Y + 1)).stream.labels == (1, 2, 3)  # type: ignore[union-attr]
    assert scanned(both(flat, np.eye(3)[Y])).stream.one_hot  # type: ignore[union-attr]
    labels = scanned(both(flat, (flat[:, :4] > 80).astype(int)))
    assert labels.schema.target == Target("labels", 4)
    numbers = scanned(both(flat, flat[:, 0] * 10 + 0.5)).stream
    assert numbers is not None
    assert numbers.mean == pytest.approx([(flat[:200, 0] * 10 + 0.5).mean()], rel=1e-5)
    named = scanned(both(flat, Y), classes=["left", "middle", "right", "none"])
    assert named.schema.target == Target("classes", 4, ("left", "middle", "right", "none"))


def test_only_the_first_rows_are_kept_and_read_if_the_rest_is_not_counted() -> None:
    x, y = np.tile(X, (10, 1, 1)), np.tile(Y, 10)
    counted = scanned((Batches(x, y), Batches(X, Y)))
    assert counted.stream is not None
    assert (counted.stream.rows["train"], len(counted.train)) == (3000, 1024)
    first = scanned((Batches(x, y), Batches(X, Y)), count=False, classes=3)
    assert first.stream is not None
    assert (first.stream.rows, first.stream.steps, first.stream.counts) == ({"val": 300}, None, ())
    assert counted.digest() != first.digest()


def test_the_digest_changes_with_the_rows_but_not_with_their_order() -> None:
    order = np.random.default_rng(0).permutation(200)
    train = Batches(X[:200][order], Y[:200][order])
    assert scanned((train, Batches(X[200:], Y[200:]))).digest() == scanned(both()).digest()
    assert scanned((Batches(X[:199], Y[:199]), Batches(X[200:], Y[200:]))).digest() != scanned(both()).digest()


def test_an_endless_stream_needs_the_batches_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    data = scanned(both(endless=True), steps_per_epoch=10)
    assert data.stream is not None
    assert (data.stream.steps, data.stream.rows["train"]) == (10, 296)
    monkeypatch.setattr(stream_scan, "_LONGEST", 0.01)
    with pytest.raises(UserError, match=r"its training part has not ended after .* set data.steps_per_epoch"):
        scanned(both(endless=True))


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (Batches(X, Y), {}, "returned a stream without a validation part; return (train, validation)"),
        ({"train": Batches(X, Y), "test": Batches(X, Y)}, {}, "returned a stream without a validation part"),
        ((Batches(X, Y), (X, Y)), {}, "returned a tuple of 2 as its validation part; return a tf.data.Dataset"),
        ((Batches(X[:0], Y[:0]), Batches(X, Y)), {}, "its training part is empty"),
        ((Batches(X, Y), Batches(X[:0], Y[:0])), {}, "its validation part is empty"),
        ((Batches(X, Y), Batches(X, Y + 1)), {}, "y_val has class 3, which y_train does not have"),
        (
            (Batches(X, Y), Batches(X[:, 1:], Y)),
            {},
            "training images are (6, 6, 1), but validation images are (5, 6, 1)",
        ),
        (both(np.where(X > 200, np.nan, X)), {}, "x contains NaN or infinite values in batch 1"),
        (both(X.astype(str)), {}, "x has type <U3; a stream must yield numbers"),
        (both(np.zeros((300, 3, 40, 40), np.uint8)), {}, "x has its channels first; move them to the end"),
        (both(X, np.zeros((300, 6, 6))), {}, "its targets have shape (32, 6, 6)"),
        (both(), {"classes": 2}, "data.classes=2: the training targets range from 0 to 2"),
        (both(np.tile(X, (10, 1, 1)), np.tile(Y, 10)), {"count": False}, ""),
    ],
)
def test_what_cannot_be_trained_on_is_a_line(value: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        scanned((Batches(np.tile(X, (10, 1, 1)), np.tile(Y, 10)), Batches(X, Y)) if not message else value, **options)
    assert (message or "data.count=false: only the first rows are read; set data.classes") in str(error.value)


def test_an_element_must_be_inputs_and_targets() -> None:
    class Dicts(Batches):
        def __iter__(self) -> Iterator[Any]:
            yield {"image": X, "label": Y}

    Dicts.__module__ = "grain.made_up"
    with pytest.raises(UserError, match=r"yields a dict; it must yield \(inputs, targets\)"):
        scanned((Dicts(X, Y), Batches(X, Y)))
