"""Pictures of any size as a model sees them."""

from __future__ import annotations

import io
import math
import os
import re
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz
from mnist_sweep.common.text import first_line, printable
from mnist_sweep.data import profile as profiles
from mnist_sweep.data.profile import Drawing, Profile
from mnist_sweep.journal.files import PROFILE_FILE, SAMPLE_FILE
from mnist_sweep.results.models.ink import find_ink

if TYPE_CHECKING:
    from mnist_sweep.results.models.tracked import TrackedModel

Array = NDArray[Any]

# By Pillow's names. Others are not opened: EPS starts Ghostscript, and few are as well tested against damaged files.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
# More than cameras and telephones make. What is larger is refused before anything is decoded.
_MOST_BYTES = 64 * 2**20
_MOST_PIXELS = 2**26
# A progressive JPEG refines the whole picture in each scan: cameras and programs write about 10, and a small file with
# thousands would take hours.
_MOST_SCANS = 100
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
# Pixels along the longer side, to which larger pictures are reduced first.
_LARGEST = 512
NOTHING = "nothing is drawn"
# Fewer training images than this part are as unlike their kind as a picture that is remarked on; and how likely, beside
# the first class, a second one is that makes the first doubtful. So, with a model that reads 98.0 % of MNIST's test
# digits right, 2.4 % of them are remarked on (1.4 % of those read right, 53 % of the others), and of 200 each 78 % of
# letters, 78 % of digits turned by 60 or 90 degrees, 97 % of photographs and 99 % of pairs of digits.
_RARE = 0.01
_RIVAL = 0.5
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


class UnreadableError(ValueError):
    """A picture that cannot be read; the text goes on after its name: `is 60000 × 60000; …`."""


def read(path: Path) -> Image.Image:
    """Reads a picture; of several in one file, or of an animation, the first.

    How long that takes is not bounded, as the picture decides it: see `PictureReader`.

    Args:
        path: A PNG, JPEG, BMP, GIF or WebP.

    Raises:
        UserError: It cannot be read, or is too large.
    """
    name = printable(str(path))
    try:
        return decode(_content(path))
    except UnreadableError as error:
        raise UserError(f"{name}: {error}") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or first_line(error)})") from None


def decode(content: bytes, formats: tuple[str, ...] = FORMATS, most_a_side: int | None = None) -> Image.Image:
    """Makes a picture of a file's content.

    Args:
        content: The file's bytes.
        formats: Those that it may be of, some of `FORMATS`.
        most_a_side: The most pixels along the longer side; None for any number, within the limit for all of them.

    Raises:
        UnreadableError: It cannot be read, or is too large.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own limit warns, and this one is lower.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=formats)
            width, height = picture.size
            if width * height > _MOST_PIXELS:
                raise UnreadableError(f"is {width} × {height}; at most {_MOST_PIXELS // 10**6} million pixels are read")
            if most_a_side is not None and max(width, height) > most_a_side:
                raise UnreadableError(f"is {width} × {height}; at most {most_a_side} pixels a side are read")
            if content.startswith(b"\xff\xd8") and _has_too_many_scans(content):
                raise UnreadableError(f"is a JPEG of more than {_MOST_SCANS} scans, which takes too long to read")
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return picture
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        known = [name.replace("WEBP", "WebP") for name in formats]
        one_of = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
        raise UnreadableError(f"is not a picture that can be read; give a {one_of}") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"is too large; at most {_MOST_PIXELS // 10**6} million pixels are read") from None
    except MemoryError:
        raise UnreadableError("cannot be read (it takes too much memory)") from None
    except Exception as error:  # Damaged files raise whatever they come upon.
        raise UnreadableError(f"cannot be read ({first_line(error, 200)})") from None


def prepare(picture: Image.Image | Array, shape: tuple[int, int, int], profile: Profile | None = None) -> Prepared:
    """Makes of a picture what a model sees.

    Where the training images are strokes on a plain ground, sized and centred as MNIST's are (`Profile.drawing`), the
    ink is told from the paper, dark on light or light on dark; its bounding box is scaled, with anti-aliasing and in
    its proportions, to the size that it has in the training images (MNIST: 20 × 20), and put with its centre of mass
    where theirs is (MNIST: the centre of 28 × 28), as Y. LeCun, C. Cortes and C. Burges describe it: *The MNIST
    database of handwritten digits*, http://yann.lecun.com/exdb/mnist/. For a model that was trained on other images,
    photographs say, a picture is only scaled to its size.

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
    drawing = profile.drawing if profile is not None else _like_mnist(shape)
    if drawing is not None:
        return _as_drawn(pixels, shape, drawing, notes)
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


def _content(path: Path) -> bytes:
    # A pipe that nobody writes to would be waited for without end.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableError("is not a regular file")
        # Some files do not say how long they are.
        content = b"" if about.st_size > _MOST_BYTES else file.read(_MOST_BYTES + 1)
        if max(about.st_size, len(content)) > _MOST_BYTES:
            raise UnreadableError(f"is larger than {_MOST_BYTES // 2**20} MiB")
        return content


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Counts the scans of the first picture of a JPEG file (ITU-T T.81, annex B)."""
    scans, place = 0, 2
    while scans <= _MOST_SCANS:
        # A scan's data, which may come before the next marker, has no such bytes in it.
        found = _MARKER.search(jpeg, place)
        if found is None or found[1] == b"\xd9":
            return False
        scans += found[1] == b"\xda"
        # Of these two nothing follows; all others say how long they are.
        alone = found[1] in (b"\x01", b"\xd8")
        place = found.end() + (0 if alone else max(2, int.from_bytes(jpeg[found.end() : found.end() + 2], "big")))
    return True


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
        whole = 65535.0
        if not picture.mode.startswith("I;16"):
            top = max(float(np.max(picture.getextrema())), 1.0)
            whole = 65535.0 if 255 < top <= 65535 else 255.0 if 1 < top <= 255 and picture.mode == "F" else top
        if picture.mode.startswith("I;16"):
            picture = picture.convert("I")
        return np.clip(np.asarray(_shrunk(picture.convert("F")), dtype=np.float64) / whole, 0, 1)
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("PA", "La", "RGBa"):
        picture = picture.convert("RGBA")
    if picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    return np.asarray(_shrunk(picture)) / 255


def _shrunk(picture: Image.Image) -> Image.Image:
    """The picture, no larger than need be; it is large, so nothing of it is copied before."""
    scale = _LARGEST / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


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
    grey: Array = pixels @ np.array([0.299, 0.587, 0.114])
    return grey


def _resized(plane: Array, height: int, width: int) -> Array:
    if plane.shape == (height, width):
        return plane
    picture = Image.fromarray(plane.astype(np.float32), mode=None)
    # Pillow's filters widen as a picture shrinks, which anti-aliases it.
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)


# ---- strokes ----------------------------------------------------------------------------------------------------


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

    ink = find_ink(pixels)
    if not ink.where.any() and ink.plain:
        doubts.append(NOTHING)
        return prepared(np.zeros((height, width)))
    if not ink.where.any():
        doubts.append("no plain background that strokes would stand out from")
        whole = _resized(_grey(pixels), height, width)
        rim = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
        return prepared(1 - whole if rim.mean() > 0.5 else whole)
    mask = ink.where
    if ink.dark != light:
        notes.append(f"{'dark on light' if ink.dark else 'light on dark'}: inverted")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    edges = [rows[0] == 0, rows[-1] == len(mask) - 1, columns[0] == 0, columns[-1] == mask.shape[1] - 1]
    # A small picture is rather cut close, as training images are.
    if 0 < sum(edges) < 3 and max(mask.shape) > max(height, width):
        doubts.append("touches the edge of the picture: a part may be missing")
    cut = np.where(mask, ink.amount, 0)[box]
    scale = drawing.size / max(cut.shape)
    small = _resized(cut, max(1, round(cut.shape[0] * scale)), max(1, round(cut.shape[1] * scale)))
    small = np.clip(small / min(1.0, max(float(small.max()), 1e-6)), 0, 1)
    if scale != 1:
        notes.append(f"cut out and scaled from {cut.shape[1]} × {cut.shape[0]} to {small.shape[1]} × {small.shape[0]}")
    return prepared(_placed(small, (height, width), drawing.centre))


def _placed(small: Array, frame: tuple[int, int], centre: tuple[float, float]) -> Array:
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


# ---- doubts -----------------------------------------------------------------------------------------------------


def profile_of(model: TrackedModel, folder: Path) -> Profile | None:
    """What a model's training images look like, as far as MLflow has it.

    Args:
        model: The model.
        folder: Where to put the files that are fetched for it.

    Returns:
        The profile. Without `likeness` where none was logged, as before there were any: how images are drawn is then
        told by the sample of them that every trial has. None where there is no sample either.
    """
    try:
        return Profile.load(model.fetch(PROFILE_FILE, folder))
    except (UserError, ValueError):
        pass
    try:
        return profiles.measure(read_npz(model.fetch(SAMPLE_FILE, folder), SAMPLE_FILE)["images"])
    except (UserError, ValueError, KeyError, IndexError):
        return None


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
    if NOTHING in doubts:
        return doubts
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    if profile is not None and profile.drawing is not None:
        doubts += _oddly_drawn(prepared.image[..., 0], profile.drawing)
    if profile is not None and profile.likeness is not None:
        rarity = profile.likeness.rarity(prepared.image, int(first))
        if rarity < _RARE:
            others = f"all but 1 in {round(1 / rarity)}" if rarity else "every one"
            doubts.append(f"odder than {others} of the training images of a {first}")
    if probabilities[second] > _RIVAL * probabilities[first]:
        doubts.append(f"the model hesitates between {first} and {second}")
    return doubts


def _oddly_drawn(image: Array, drawing: Drawing) -> list[str]:
    ink = np.abs(image - drawing.background)
    share, (height, width) = float(ink.mean()), profiles.extent(ink)
    doubts = []
    if share > 1.1 * drawing.ink[1]:
        doubts.append("more ink than in any training image")
    if share < 0.9 * drawing.ink[0]:
        doubts.append("less ink than in any training image")
    aspect = width / max(height, 1)
    if aspect > 1.1 * drawing.aspect[1]:
        doubts.append("wider than any training image: is it one digit?")
    if aspect < 0.9 * drawing.aspect[0]:
        doubts.append("narrower than any training image")
    count = profiles.pieces(ink)
    if count > drawing.pieces:
        doubts.append(f"in {count} pieces, where training images have at most {drawing.pieces}")
    return doubts
