"""Decodes the body of a request into an image, in the process that reads images. It does not import the server."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image
from pydantic_core import from_json

from mnist_sweep.common.text import first_line
from mnist_sweep.data.images import Array
from mnist_sweep.data.pictures import How
from mnist_sweep.results.models.image_files import UnreadableError
from mnist_sweep.results.models.image_files import decode as decode_image

MOST_NUMBERS_A_SIDE = 512
MOST_PIXELS_A_SIDE = 2048
# From content types to Pillow's names.
IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG"}
JSON = "application/json"


class NotJsonError(ValueError):
    """The body cannot be parsed."""


def decode(kind: str, body: bytes, how: How | None = None) -> Image | Array:
    """Decodes a body.

    Args:
        kind: Its content type, `JSON` or one of `IMAGES`.
        body: The body.
        how: As for `image_files.decode`.

    Returns:
        An image, or an array (H, W) or (H, W, C), float64 in 0..1.

    Raises:
        NotJsonError: The JSON cannot be parsed.
        UnreadableError: The body is not an image, or one that is too large.
    """
    return _from_json(body) if kind == JSON else _from_file(body, IMAGES[kind], how)


def _from_json(body: bytes) -> Array:
    try:
        # Python's own parser accepts NaN and Infinity, and raises RecursionError on deep nesting.
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise NotJsonError(f"the body is not JSON: {first_line(error, 200)}") from None
    if not isinstance(content, dict) or set(content) != {"image"}:
        raise UnreadableError('the body must be {"image": [[…], …]}')
    rows = content["image"]
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], list):
        raise UnreadableError("image must be a list of rows of numbers")
    if max(len(rows), len(rows[0])) > MOST_NUMBERS_A_SIDE:
        raise UnreadableError(f"image has more than {MOST_NUMBERS_A_SIDE} rows or columns")
    # Checked before NumPy sees them: it would reserve the length of the longest text for each value.
    if not _are_numbers(rows):
        raise UnreadableError("image must contain only numbers")
    try:
        image = np.array(rows)
    except (ValueError, OverflowError):
        raise UnreadableError("image's rows must all have the same length") from None
    # Integers of more than 64 bits give another type.
    if image.dtype.kind not in "iuf":
        raise UnreadableError("image must contain only numbers")
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
        shape = " × ".join(map(str, image.shape))
        raise UnreadableError(f"image is {shape}; it must be height × width, or height × width × 1 or 3")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255):
        raise UnreadableError("image's numbers must be in 0..255")
    return image / 255


def _are_numbers(value: object) -> bool:
    return all(map(_are_numbers, value)) if isinstance(value, list) else type(value) in (int, float)


def _from_file(body: bytes, kind: str, how: How | None) -> Image:
    try:
        return decode_image(body, (kind,), MOST_PIXELS_A_SIDE, how)
    except UnreadableError as error:
        raise UnreadableError(f"the image {error}") from None
