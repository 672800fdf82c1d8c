"""Pictures of any size as a model sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_sweep.errors import UserError

if TYPE_CHECKING:
    from mnist_sweep.training.profile import Profile

Array = NDArray[Any]

# Pixels along the longer side, to which larger pictures are reduced first.
_LARGEST = 1024
# What stands out less from the paper than this, in 0..1, or than so many times its noise, is no ink.
_FAINTEST, _NOISES = 0.08, 6.0
# Pieces with less ink than this part of the whole are specks.
_SPECK = 0.01
# MNIST's own frame, for where nothing tells another: the longer side of a digit, and the side of an image.
_DIGIT, _FRAME = 20, 28


@dataclass(frozen=True)
class Prepared:
    """A picture as a model sees it.

    Attributes:
        image: (H, W, C), float32 in 0..1.
        notes: What was done to it, a plain sentence each.
        doubts: What is wrong with the picture itself, a plain sentence each; `why_doubtful` repeats them.
    """

    image: Array
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def read(path: Path) -> Image.Image:
    """Reads a picture.

    Args:
        path: A PNG, a JPEG, or another format that Pillow knows.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise UserError(f"{path}: is no picture that can be read; give a PNG or a JPEG") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason})") from None


def prepare(picture: Image.Image | Array, shape: tuple[int, int, int], profile: Profile | None = None) -> Prepared:
    """Makes of a picture what a model sees.

    Where the training images are strokes on a plain ground, centred as MNIST's are (`Profile.drawn`), the ink is told
    from the paper, dark on light or light on dark; its bounding box is scaled, with anti-aliasing and in its
    proportions, to the size that the training images have (MNIST: 20 × 20), and put with its centre of mass where
    theirs is (MNIST: the centre of 28 × 28), as `Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten
    digits <http://yann.lecun.com/exdb/mnist/>`_ describes. Other pictures are only scaled to the model's size.

    Args:
        picture: A picture, of any mode and size; or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 in 0..255
            or float in 0..1.
        shape: The model's: height, width and channels, of which there are 1 or 3.
        profile: What the training images look like; None where that is not known: then a model of one channel is taken
            to have been trained on images like MNIST's.

    Raises:
        UserError: No picture fits the model.
    """
    if shape[2] not in (1, 3):
        raise UserError(f"the model takes images of {shape[2]} channels; a picture has 1 or 3")
    notes: list[str] = []
    pixels = _pixels(picture, notes)
    if profile.drawn if profile is not None else shape[2] == 1:
        return _as_drawn(pixels, shape, profile, notes)
    height, width = pixels.shape[:2]
    if (height, width) != shape[:2]:
        stretched = abs(math.log(width / height * shape[0] / shape[1])) > 0.05
        how = "stretched" if stretched else "scaled"
        notes.append(f"{how} from {width} × {height} to {shape[1]} × {shape[0]}")
    pixels = np.stack([_resized(pixels[..., i], shape[0], shape[1]) for i in range(3)], axis=-1)
    if shape[2] == 1:
        pixels = _grey(pixels)[..., np.newaxis]
    return Prepared(np.clip(pixels, 0, 1).astype(np.float32), notes)


# ---- reading ----------------------------------------------------------------------------------------------------


def _pixels(picture: Image.Image | Array, notes: list[str]) -> Array:
    """A picture as (H, W, 3), float64 in 0..1, no larger than need be."""
    if isinstance(picture, Image.Image):
        pixels = _from_picture(picture, notes)
    else:
        pixels = np.asarray(picture)
        pixels = pixels / 255 if pixels.dtype == np.uint8 else np.clip(pixels.astype(np.float64), 0, 1)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[2] in (2, 4):
        pixels = _opaque(pixels, notes)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    height, width = pixels.shape[:2]
    if max(height, width) > _LARGEST:
        scale = _LARGEST / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = np.stack([_resized(pixels[..., i], *size) for i in range(3)], axis=-1)
    return pixels


def _from_picture(picture: Image.Image, notes: list[str]) -> Array:
    if picture.mode.startswith("I") or picture.mode == "F":
        # 16 bits a pixel, which Pillow would cut off at 255 instead of scaling them.
        pixels = np.asarray(picture, dtype=np.float64)
        top = max(float(pixels.max()), 1.0)
        whole = 65535.0 if 255 < top <= 65535 else 255.0 if 1 < top <= 255 and picture.mode == "F" else top
        return np.clip(pixels / (65535.0 if picture.mode.startswith("I;16") else whole), 0, 1)
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("PA", "La", "RGBa"):
        picture = picture.convert("RGBA")
    if picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    return np.asarray(picture) / 255


def _opaque(pixels: Array, notes: list[str]) -> Array:
    """Puts paper behind what is transparent, against which the rest stands out."""
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    if (alpha > 0.99).all():
        return colours
    weight = alpha.sum()
    light = weight > 0 and (colours * alpha).sum() / (weight * colours.shape[2]) > 0.5
    notes.append(f"transparent: put on {'black' if light else 'white'}")
    return colours * alpha + (0.0 if light else 1.0) * (1 - alpha)


def _grey(pixels: Array) -> Array:
    """Luma (ITU-R BT.601), as Pillow computes it."""
    return pixels @ np.array([0.299, 0.587, 0.114])


def _resized(plane: Array, height: int, width: int) -> Array:
    if plane.shape == (height, width):
        return plane
    picture = Image.fromarray(plane.astype(np.float32), mode=None)
    # Pillow's filters widen as a picture shrinks, which anti-aliases it.
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)


# ---- strokes ----------------------------------------------------------------------------------------------------


def _as_drawn(pixels: Array, shape: tuple[int, int, int], profile: Profile | None, notes: list[str]) -> Prepared:
    height, width = shape[:2]
    size = profile.size if profile is not None else round(_DIGIT * min(height, width) / _FRAME)
    centre = profile.centre if profile is not None else (height / 2, width / 2)
    light = profile is not None and profile.background > 0.5
    doubts: list[str] = []

    def prepared(ink: Array) -> Prepared:
        image = (1 - ink if light else ink).astype(np.float32)
        return Prepared(np.repeat(image[..., np.newaxis], shape[2], axis=2), notes, doubts)

    ink, dark, mask = _ink(pixels)
    if not mask.any():
        doubts.append("nothing is drawn")
        return prepared(np.zeros((height, width)))
    if dark != light:
        notes.append(f"{'dark on light' if dark else 'light on dark'}: inverted")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    edges = [rows[0] == 0, rows[-1] == len(mask) - 1, columns[0] == 0, columns[-1] == mask.shape[1] - 1]
    if 0 < sum(edges) < 3:
        doubts.append("touches the edge of the picture; a part of it may be missing")
    cut = np.where(mask, ink, 0)[box]
    scale = size / max(cut.shape)
    small = _resized(cut, max(1, round(cut.shape[0] * scale)), max(1, round(cut.shape[1] * scale)))
    small = np.clip(small / min(1.0, max(float(small.max()), 1e-6)), 0, 1)
    if scale != 1:
        notes.append(f"cut out and scaled from {cut.shape[1]} × {cut.shape[0]} to {small.shape[1]} × {small.shape[0]}")
    return prepared(_placed(small, (height, width), centre, notes))


def _placed(small: Array, frame: tuple[int, int], centre: tuple[float, float], notes: list[str]) -> Array:
    """Puts ink into an empty frame, its centre of mass at `centre` as nearly as whole pixels allow."""
    whole = np.zeros(frame)
    corner = []
    for axis in (0, 1):
        mass = small.sum(axis=1 - axis)
        middle = float((mass * np.arange(len(mass))).sum() / mass.sum())
        # Moved no further than up to the frame's edge, so that nothing is lost.
        corner.append(min(max(math.ceil(centre[axis] - middle - 0.5), 0), max(frame[axis] - small.shape[axis], 0)))
    part = small[: frame[0], : frame[1]]
    whole[corner[0] : corner[0] + part.shape[0], corner[1] : corner[1] + part.shape[1]] = part
    return whole


def _ink(pixels: Array) -> tuple[Array, bool, Array]:
    """Tells ink from paper.

    Args:
        pixels: (H, W, 3), in 0..1.

    Returns:
        How much ink there is, (H, W) in 0..1; whether it is darker than the paper; and where it is, (H, W).
    """
    from scipy import ndimage

    away = pixels - _paper(pixels)
    strength = np.abs(away).max(axis=2)
    # The ink's colour, told by what stands out most: the rest counts as far as it goes the same way.
    strongest = strength >= np.quantile(strength, 0.99)
    direction = away[strongest].mean(axis=0)
    length = float(np.linalg.norm(direction))
    dark = bool(direction.sum() < 0)
    nothing = np.zeros(strength.shape), dark, np.zeros(strength.shape, dtype=bool)
    if length == 0:
        return nothing
    amount = away @ (direction / length) / math.sqrt(3)
    noise = 1.4826 * float(np.median(np.abs(amount)))
    floor = max(_FAINTEST, _NOISES * noise)
    if not (amount > floor).any():
        return nothing
    full = float(np.quantile(amount[amount > max(floor, 0.5 * amount.max())], 0.5))
    # A small picture's grey pixels are strokes' edges, a large one's are rather blurs and a JPEG's ripples.
    faint = 0.02 if max(pixels.shape) <= 64 else 0.2
    weak, strong = amount > max(faint * full, 3 * noise), amount > max(0.4 * full, floor)
    pieces, count = ndimage.label(weak, np.ones((3, 3)))
    inked = ndimage.sum_labels(np.where(strong, amount, 0), pieces, np.arange(1, count + 1))
    kept = np.flatnonzero(inked > _SPECK * inked.sum()) + 1
    return np.clip(amount / full, 0, 1), dark, np.isin(pieces, kept)


def _paper(pixels: Array) -> Array:
    """The paper's colour at each pixel, as smooth as a shadow: a quadratic in the place, fitted to where no ink is.

    Found from the edges, which paper mostly surrounds, and then from all that is of its colour.
    """
    height, width = pixels.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    smooth = np.concatenate([plane, (x * y)[..., None], (x * x)[..., None], (y * y)[..., None]], axis=-1)
    edge = np.zeros((height, width), dtype=bool)
    rim = max(1, min(height, width) // 50)
    edge[:rim] = edge[-rim:] = edge[:, :rim] = edge[:, -rim:] = True
    step = max(1, max(height, width) // 128)
    terms, colours = plane[edge], pixels[edge]
    fitted = _robust_fit(terms, colours)
    paper = plane @ fitted
    for _ in range(3):
        sample = (slice(None, None, step), slice(None, None, step))
        away = np.abs(pixels - paper)[sample].max(axis=2)
        spread = 1.4826 * float(np.median(np.abs(pixels - paper)[edge].max(axis=1)))
        near = away <= max(3 * spread, 0.02)
        if near.sum() < 0.1 * near.size:
            break
        fitted = np.linalg.lstsq(smooth[sample][near], pixels[sample][near], rcond=None)[0]
        paper = smooth @ fitted
    return paper


def _robust_fit(terms: Array, values: Array) -> Array:
    """Least absolute deviations, by reweighted least squares."""
    weights = np.ones(len(terms))
    for _ in range(15):
        root = np.sqrt(weights)[:, None]
        fitted = np.linalg.lstsq(terms * root, values * root, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(values - terms @ fitted).max(axis=1), 1e-3)
    return fitted


# ---- doubts -----------------------------------------------------------------------------------------------------


def why_doubtful(prepared: Prepared, probabilities: Array, profile: Profile | None = None) -> list[str]:
    """Why a prediction may be wrong.

    Args:
        prepared: What the model saw.
        probabilities: (classes,), what it said.
        profile: What the training images look like; None where that is not known.

    Returns:
        A plain sentence each; none where there is no reason to doubt.
    """
    doubts = list(prepared.doubts)
    first, second = np.argsort(probabilities)[::-1][:2]
    if probabilities[second] > 0.5 * probabilities[first]:
        doubts.append(f"the model hesitates between {first} and {second}")
    return doubts
