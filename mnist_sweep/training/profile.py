"""What a data set's images look like: measured where they lie, used to judge pictures that come later."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.files import write_whole

Array = NDArray[Any]


@dataclass(frozen=True)
class Profile:
    """What training images look like.

    Attributes:
        shape: Height, width and channels of an image.
        drawn: Whether the images are strokes on a plain ground, centred by their mass, as MNIST's are.
        background: The ground's brightness, in 0..1.
        size: The longer side of what is drawn, in pixels; 0 where `drawn` is false.
        centre: The row and column of its centre of mass.
    """

    shape: tuple[int, int, int]
    drawn: bool
    background: float
    size: float
    centre: tuple[float, float]

    def save(self, path: Path) -> None:
        """Writes a `.npz` file without Python objects."""
        write_whole(
            path, lambda target: np.savez_compressed(target, **{k: np.asarray(v) for k, v in asdict(self).items()})
        )
