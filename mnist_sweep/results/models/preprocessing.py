"""Turns an image of any size into what a model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import pictures
from mnist_sweep.data.images import Array
from mnist_sweep.data.profile import Drawing, Profile
from mnist_sweep.results.models.foreground import find_foreground

NOTHING = "nothing is drawn"
# Larger images are first reduced to this many pixels along the longer side.
_LARGEST = 512
# The longer side of a digit in MNIST, and the side of its images.
_DIGIT, _FRAME = 20, 28


@dataclass(frozen=True)
class Prepared:
    """An image as a model sees it.

    Attributes:
        image: (H, W, C), float32 in 0..1.
        notes: What was done to it, a short sentence each.
        doubts: What is wrong with the original image, a short sentence each; `why_doubtful` includes them.
    """

    image: Array
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def prepare(
    image: Image.Image | Array,
    shape: tuple[int, int, int],
    profile: Profile | None = None,
    resize: pictures.Resize | None = None,
) -> Prepared:
    """Turns an image into what a model takes.

    If the training images are drawings on a plain background, sized and centred like MNIST's (`Profile.drawing`), the
    drawing is separated from the background, whether it is dark on light or light on dark. Its bounding box is scaled,
    with anti-aliasing and without distortion, to the size that drawings have in the training images (MNIST: 20 × 20),
    and its centre of mass is placed where theirs is (MNIST: the centre of 28 × 28), as Y. LeCun, C. Cortes and
    C. Burges describe it: *The MNIST database of handwritten digits*, http://yann.lecun.com/exdb/mnist/. For a model of
    other images, such as photographs, the image is only scaled.

    Args:
        image: An image of any mode and size; or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 in 0..255 or
            float in 0..1.
        shape: The height, width and channels (1 or 3) that the model takes.
        profile: What the training images look like; None if unknown: a model of one channel is then assumed to be
            trained on images like MNIST's.
        resize: How the training pictures were made to fit: this one then is made so, too, whatever is on it.

    Raises:
        UserError: The model takes images of another number of channels.
    """
    if shape[2] not in (1, 3):
        raise UserError(f"the model takes images of {shape[2]} channels; an image file has 1 or 3")
    notes: list[str] = []
    if resize is not None:
        return _as_in_training(image, pictures.How(shape[0], shape[1], shape[2] == 1, resize, exact=False))
    pixels = _pixels(image, notes)
    drawing = profile.drawing if profile is not None else _like_mnist(shape)
    if drawing is not None:
        return _as_drawn(pixels, shape, drawing, notes)
    height, width = pixels.shape[:2]
    if (height, width) != shape[:2]:
        stretched = abs(math.log(width / height * shape[0] / shape[1])) > 0.05
        how = "stretched" if stretched else "scaled"
        notes.append(f"{how} from {width} × {height} to {shape[1]} × {shape[0]}")
    pixels = _resized(pixels, shape[0], shape[1])
    if shape[2] == 1:
        pixels = _grey(pixels)[..., np.newaxis]
    return Prepared(np.clip(pixels, 0, 1).astype(np.float32), notes)


def _as_in_training(image: Image.Image | Array, how: pictures.How) -> Prepared:
    if not isinstance(image, Image.Image):
        pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    width, height = image.size
    done = {"crop": "cropped and scaled", "pad": "padded and scaled", "stretch": "stretched"}[how.resize]
    if width * how.height == height * how.width:
        done = "scaled"
    same = (height, width) == (how.height, how.width)
    notes = [] if same else [f"{done} from {width} × {height} to {how.width} × {how.height}"]
    return Prepared(pictures.fitted(image, how).astype(np.float32) / np.float32(255), notes)


# ---- pixels -----------------------------------------------------------------------------------------------------


def _pixels(image: Image.Image | Array, notes: list[str]) -> Array:
    """An image as (H, W, 3), float64 in 0..1, reduced if it is large."""
    if isinstance(image, Image.Image):
        pixels = _from_image(image)
    else:
        pixels = np.asarray(image)
        pixels = pixels / 255 if pixels.dtype == np.uint8 else np.clip(pixels.astype(np.float64), 0, 1)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[2] in (2, 4):
        pixels = _opaque(pixels, notes)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    height, width = pixels.shape[:2]
    scale = _LARGEST / max(height, width)
    return pixels if scale >= 1 else _resized(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def _from_image(image: Image.Image) -> Array:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits a pixel: Pillow would cut the values off at 255 instead of scaling them.
        whole = 65535.0
        if not image.mode.startswith("I;16"):
            top = max(float(np.max(image.getextrema())), 1.0)
            whole = 65535.0 if 255 < top <= 65535 else 255.0 if 1 < top <= 255 and image.mode == "F" else top
        if image.mode.startswith("I;16"):
            image = image.convert("I")
        return np.clip(np.asarray(_shrunk(image.convert("F")), dtype=np.float64) / whole, 0, 1)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    return np.asarray(_shrunk(image)) / 255


def _shrunk(image: Image.Image) -> Image.Image:
    """The image, reduced if it is large, before any copy is made of it."""
    scale = _LARGEST / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _opaque(pixels: Array, notes: list[str]) -> Array:
    """Puts a background behind a transparent image that the rest stands out from."""
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    if (alpha > 0.99).all():
        return colours
    weight = alpha.sum()
    light = weight > 0 and (colours * alpha).sum() / (weight * colours.shape[2]) > 0.5
    notes.append(f"transparent: put on {'black' if light else 'white'}")
    return colours * alpha + (0.0 if light else 1.0) * (1 - alpha)


def _grey(pixels: Array) -> Array:
    """Luma (ITU-R BT.601), as Pillow computes it."""
    grey: Array = pixels @ np.array([0.299, 0.587, 0.114])
    return grey


def _resized(pixels: Array, height: int, width: int) -> Array:
    """Resizes (H, W) or (H, W, C), with anti-aliasing."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.ndim == 3:
        return np.stack([_resized(plane, height, width) for plane in np.moveaxis(pixels, -1, 0)], axis=-1)
    image = Image.fromarray(pixels.astype(np.float32), mode=None)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)


# ---- drawings ---------------------------------------------------------------------------------------------------


def _like_mnist(shape: tuple[int, int, int]) -> Drawing | None:
    if shape[2] != 1:
        return None
    height, width = shape[:2]
    size = round(_DIGIT * min(height, width) / _FRAME)
    return Drawing(0, size, (height / 2, width / 2), (0, 1), (0, math.inf), height * width)


def _as_drawn(pixels: Array, shape: tuple[int, int, int], drawing: Drawing, notes: list[str]) -> Prepared:
    height, width = shape[:2]
    light = drawing.background > 0.5
    doubts: list[str] = []

    def prepared(ink: Array) -> Prepared:
        image = (1 - ink if light else ink).astype(np.float32)
        return Prepared(image[..., np.newaxis], notes, doubts)

    found = find_foreground(pixels)
    mask = found.mask
    if not mask.any() and found.plain:
        doubts.append(NOTHING)
        return prepared(np.zeros((height, width)))
    if not mask.any():
        doubts.append("no plain background that a drawing would stand out from")
        whole = _resized(_grey(pixels), height, width)
        rim = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
        return prepared(1 - whole if rim.mean() > 0.5 else whole)
    if found.dark != light:
        notes.append(f"{'dark on light' if found.dark else 'light on dark'}: inverted")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    edges = [rows[0] == 0, rows[-1] == len(mask) - 1, columns[0] == 0, columns[-1] == mask.shape[1] - 1]
    # Small images are often cropped closely, like the training images.
    if 0 < sum(edges) < 3 and max(mask.shape) > max(height, width):
        doubts.append("touches the edge of the image: a part may be missing")
    cut = np.where(mask, found.amount, 0)[box]
    scale = drawing.size / max(cut.shape)
    small = _resized(cut, max(1, round(cut.shape[0] * scale)), max(1, round(cut.shape[1] * scale)))
    small = np.clip(small / min(1.0, max(float(small.max()), 1e-6)), 0, 1)
    if scale != 1:
        notes.append(f"cut out and scaled from {cut.shape[1]} × {cut.shape[0]} to {small.shape[1]} × {small.shape[0]}")
    return prepared(_placed(small, (height, width), drawing.centre))


def _placed(small: Array, frame: tuple[int, int], centre: tuple[float, float]) -> Array:
    """Puts a drawing into an empty frame, with its centre of mass as close to `centre` as whole pixels allow."""
    whole = np.zeros(frame)
    corner = []
    for axis in (0, 1):
        mass = small.sum(axis=1 - axis)
        middle = float((mass * np.arange(len(mass))).sum() / mass.sum())
        # Never beyond the frame's edge, where a part would be lost.
        corner.append(min(max(math.ceil(centre[axis] - middle - 0.5), 0), max(frame[axis] - small.shape[axis], 0)))
    part = small[: frame[0], : frame[1]]
    whole[corner[0] : corner[0] + part.shape[0], corner[1] : corner[1] + part.shape[1]] = part
    return whole
