"""Decodes picture files into arrays of bytes, with Pillow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import open_file
from mnist_sweep.common.text import first_line

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[Any]
Resize = Literal["crop", "pad", "stretch"]

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_GREY = ("1", "L", "LA", "La")
# The orientations of EXIF that exchange height and width.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112


class UnreadableError(Exception):
    """A file that cannot be read as a picture; the message says why."""


@dataclass(frozen=True)
class Head:
    """What a picture's file says before its pixels.

    Attributes:
        height: In pixels, as it is shown, which a photograph's orientation decides.
        width: As `height`.
        grey: Whether it has shades of grey only.
    """

    height: int
    width: int
    grey: bool


@dataclass(frozen=True)
class How:
    """How pictures become arrays.

    Attributes:
        height: The height of the arrays.
        width: The width of the arrays.
        grey: Whether they have one channel, else red, green and blue.
        resize: What happens to a picture of another shape: `crop` its longer side, `pad` the shorter one with black, or
            `stretch` it.
        exact: Whether all pictures must have this size.
    """

    height: int
    width: int
    grey: bool
    resize: Resize
    exact: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, 1 if self.grey else 3


def threads() -> int:
    """Returns how many threads decode at once: Pillow leaves Python's lock while it decodes."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def head(path: Path) -> Head:
    """Reads the start of a picture's file.

    Raises:
        UnreadableError: It is no picture.
    """
    with _Opened(path) as image:
        height, width = image.height, image.width
        turned = _is_turned(image)
        grey = image.mode in _GREY or image.mode.startswith("I") or _has_grey_palette(image)
        return Head(width, height, grey) if turned else Head(height, width, grey)


def _is_turned(image: Image.Image) -> bool:
    # Without this, Pillow would decode a PNG to look for it.
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:
        # The metadata are damaged, which does not matter.
        return False


def pixels(path: Path, how: How) -> Array:
    """Decodes a picture; of an animated one, the first frame.

    Args:
        path: The file.
        how: The size and the colours.

    Returns:
        (height, width, channels), uint8.

    Raises:
        UnreadableError: It is no picture, is damaged, or has another size.
    """
    with _Opened(path) as image:
        if not how.exact:
            draft(image, how)
        return fitted(_upright(image), how)


def draft(image: Image.Image, how: How) -> None:
    """Lets a large JPEG be decoded at an eighth to a half of its size, but at least twice the wanted one."""
    if image.format == "JPEG":
        side = 2 * max(how.height, how.width)
        image.draft(None, (side, side))


def fitted(image: Image.Image, how: How) -> Array:
    """Makes an upright picture fit.

    Returns:
        (height, width, channels), uint8.

    Raises:
        UnreadableError: It has another size, and must not.
    """
    from PIL import Image, ImageOps

    shown = _opaque(image, "L" if how.grey else "RGB")
    size = (how.width, how.height)
    if shown.size != size:
        if how.exact:
            raise UnreadableError(f"is {shown.width} × {shown.height}, not {how.width} × {how.height}")
        # Averages where it makes smaller, so that lines do not break up.
        method = Image.Resampling.BILINEAR
        if how.resize == "crop":
            shown = ImageOps.fit(shown, size, method)
        elif how.resize == "pad":
            shown = ImageOps.pad(shown, size, method, color=0)
        else:
            shown = shown.resize(size, method)
    return np.asarray(shown, dtype=np.uint8).reshape(how.shape)


class _Opened:
    """Opens a picture's file, and says in one line what is wrong with it or with its pixels."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Image.Image:
        from PIL import Image

        try:
            self._file = open_file(self._path, "")
        except UserError as error:
            raise UnreadableError(str(error).removeprefix(": ")) from None
        try:
            self._image = Image.open(self._file, formats=_FORMATS)
        except BaseException as error:
            self._file.close()
            self.__exit__(type(error), error, None)
            raise
        return self._image

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        from PIL import Image, UnidentifiedImageError

        self._file.close()
        if isinstance(error, UnidentifiedImageError):
            raise UnreadableError("is not a PNG, JPEG, BMP, GIF or WebP file") from None
        if isinstance(error, Image.DecompressionBombError):
            raise UnreadableError("has too many pixels") from None
        # Besides OSError, what Pillow's decoders raise on damaged files: SyntaxError, ValueError, struct.error …
        if isinstance(error, Exception) and not isinstance(error, UnreadableError | MemoryError):
            raise UnreadableError(first_line(error, 80)) from None


def _has_grey_palette(image: Image.Image) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    colors = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """Returns a picture without a palette and without transparency."""
    from PIL import Image

    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow would cut the values off at 255 instead of scaling them.
        image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257), 0, 255).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "black" if _is_light(image) else "white")
        image = Image.alpha_composite(background, image).convert("RGB")
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _is_light(image: Image.Image) -> bool:
    """Whether the opaque part of a picture stands out from black rather than from white, as `predict` decides it."""
    pixels = np.asarray(image, dtype=np.float32)
    alpha = pixels[..., 3:]
    return bool((pixels[..., :3] * alpha).sum() > 0.5 * 255 * 3 * alpha.sum())


def _upright(image: Image.Image) -> Image.Image:
    """Returns a picture as it is shown, if its file says so in a way that Pillow understands."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # The metadata are damaged; if the pixels are, decoding them fails again.
        return image
