"""How training images are changed at random, so that a model sees more of them than there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from mnist_sweep.config.checks import Strict

_Share = Annotated[float, Field(ge=0, le=1)]
_Alpha = Annotated[float, Field(ge=0, le=100)]


# The steps that move pixels.
GEOMETRY = ("shift", "rotation", "zoom")
# The steps that leave everything in an image where it is, and those that mix images with their targets.
SAME_PLACE = ("brightness", "contrast")
MIXES = ("mixup", "cutmix")


class AugmentConfig(Strict):
    """`augment=…`: what happens to the images of a training batch, in this order. 0 or null leaves a step out.

    Attributes:
        shift: The largest shift, as a share of the image's height and width.
        rotation: The largest rotation, as a share of a full turn.
        zoom: The largest change of the size, as a share of it.
        fill: What comes into an image from outside of it.
        flip: How half of the images are mirrored.
        brightness: The largest change of all pixels, as a share of the range from black to white.
        contrast: The largest change of the pixels' distance from their mean, as a share of it.
        rand_augment: The strength of two random operations of Keras's `RandAugment`.
        mixup: The alpha of MixUp: blends each image, and its target, with another one.
        cutmix: The alpha of CutMix: replaces a rectangle of each image by that of another one, and a share of its
            target.
    """

    shift: _Share
    rotation: _Share
    zoom: Annotated[float, Field(ge=0, lt=1)]
    fill: Literal["constant", "nearest", "reflect", "wrap"]
    flip: Literal["horizontal", "vertical", "both"] | None
    brightness: _Share
    contrast: _Share
    rand_augment: _Share
    mixup: _Alpha
    cutmix: _Alpha

    @property
    def steps(self) -> dict[str, Any]:
        """The steps that change images, by name, with their strengths."""
        return used(self.model_dump())

    @property
    def mixes(self) -> bool:
        """Whether images and their targets are mixed."""
        return bool(self.mixup or self.cutmix)


def used(augment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the steps that change images, by name; sweeps included.

    Args:
        augment: The group `augment` of a config.
    """
    return {name: value for name, value in augment.items() if name != "fill" and value not in (None, 0)}


# Sweeps of versions without augmentation.
NONE = AugmentConfig(
    shift=0.0,
    rotation=0.0,
    zoom=0.0,
    fill="nearest",
    flip=None,
    brightness=0.0,
    contrast=0.0,
    rand_augment=0.0,
    mixup=0.0,
    cutmix=0.0,
)


def doubts(augment: Mapping[str, Any], data: str) -> Iterator[str]:
    """Yields what is most likely a mistake, in lines.

    Args:
        augment: The group `augment` of a config.
        data: The name of the data.
    """
    if augment.get("flip") and data in ("mnist", "mnist_5k"):
        yield "augment.flip mirrors digits, which makes other signs of most of them; augment=light suits digits"
