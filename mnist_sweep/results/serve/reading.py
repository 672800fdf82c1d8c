"""What a client sent → an image, within limits that protect the machine."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from PIL.Image import Image
    from starlette.requests import Request

Array = npt.NDArray[Any]

# So that 512 × 512 numbers of three digits fit.
MOST_BYTES = 2 * 1024 * 1024
MOST_NUMBERS_A_SIDE = 512
MOST_PIXELS_A_SIDE = 2048
SECONDS_TO_SEND = 15.0
PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG"}
JSON = "application/json"


async def read(request: Request) -> tuple[str, bytes]:
    """Reads a request's body.

    Args:
        request: Its body is `{"image": [[…]]}`, or a picture, as its content type says.

    Returns:
        The content type, and the body.

    Raises:
        HTTPException: 408 the body took too long, 413 it is too large, 415 it is of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and kind not in PICTURES:
        raise HTTPException(415, f"Content-Type must be {JSON}, {' or '.join(PICTURES)}")
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            return kind, await _body(request)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {SECONDS_TO_SEND:.0f} s") from None


def decode(kind: str, body: bytes) -> Image | Array:
    """Makes an image of a body.

    Args:
        kind: Its content type, as `read` gives it.
        body: The body.

    Returns:
        A picture, or an array (H, W) or (H, W, C), float64 in 0..1.

    Raises:
        HTTPException: 400 the JSON cannot be parsed, 422 there is no image in it, or one that is too large.
    """
    return _of_json(body) if kind == JSON else _of_file(body, PICTURES[kind])


async def _body(request: Request) -> bytes:
    # What the client says of its length may be missing or a lie: what arrives is counted.
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not declared.isdigit() or int(declared) <= MOST_BYTES:
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"the body has more than {MOST_BYTES} bytes")


def _of_json(body: bytes) -> Array:
    try:
        # Python's own parser takes NaN and Infinity, and raises RecursionError on deep nesting.
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {_line(error)}") from None
    if not isinstance(content, dict) or set(content) != {"image"}:
        raise HTTPException(422, 'the body must be {"image": [[…], …]}')
    rows = content["image"]
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], list):
        raise HTTPException(422, "image must be a list of rows of numbers")
    if max(len(rows), len(rows[0])) > MOST_NUMBERS_A_SIDE:
        raise HTTPException(422, f"image has more than {MOST_NUMBERS_A_SIDE} rows or columns")
    # Before NumPy sees them: for texts it would take room for the longest, as often as there are values.
    if not _are_numbers(rows):
        raise HTTPException(422, "image must hold nothing but numbers")
    try:
        image = np.array(rows)
    except (ValueError, OverflowError):
        raise HTTPException(422, "image's rows must all be as long") from None
    # Whole numbers beyond 64 bits give another type than these.
    if image.dtype.kind not in "iuf":
        raise HTTPException(422, "image must hold nothing but numbers")
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
        shape = " × ".join(map(str, image.shape))
        raise HTTPException(422, f"image is {shape}; it must be height × width, or height × width × 1 or 3")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255):
        raise HTTPException(422, "image's numbers must lie in 0..255")
    return image / 255


def _are_numbers(value: object) -> bool:
    return all(map(_are_numbers, value)) if isinstance(value, list) else type(value) in (int, float)


def _of_file(body: bytes, kind: str) -> Image:
    from PIL import Image, ImageOps

    try:
        picture = Image.open(io.BytesIO(body), formats=(kind,))
        if max(picture.size) <= MOST_PIXELS_A_SIDE:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception:  # Damaged files raise whatever they come upon.
        raise HTTPException(422, f"the body is no {kind} that can be read") from None
    width, height = picture.size
    raise HTTPException(422, f"the picture is {width} × {height}; at most {MOST_PIXELS_A_SIDE} a side are taken")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
