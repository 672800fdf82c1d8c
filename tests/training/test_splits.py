"""Splits into training and validation images."""

from __future__ import annotations

import numpy as np

from mnist_sweep.data.schema import ONLY


def test_a_fold_trains_on_every_image_that_it_does_not_validate_on(dataset) -> None:
    from mnist_sweep.training.splits import Splits

    split = Splits(dataset).fold(2, 3)
    assert sorted([*split.training, *split.validation]) == list(range(400))
    images, _ = split.batch(split.shuffled(seed=1, epoch=0), 0, 400, train=True)
    drawn = {image.tobytes() for image in np.round(np.asarray(images) * 255).astype(np.uint8)}
    held_out = {image.tobytes() for image in np.asarray(split.inputs[ONLY])[split.validation]}
    assert (len(drawn), len(held_out)) == (len(split.training), len(split.validation))
    assert not drawn & held_out
