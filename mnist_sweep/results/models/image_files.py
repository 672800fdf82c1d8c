"""Reads image files that may be damaged, huge or malicious."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line, os_reason, printable
from mnist_sweep.data.pictures import How, draft

# Pillow's names. It opens other formats, too, but EPS starts Ghostscript, and few are as well tested against damage.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
# More than cameras and phones produce. Larger files are refused before they are decoded.
_MOST_BYTES = 64 * 2**20
_MOST_PIXELS = 2**26
# A progressive JPEG refines the whole image in each scan. Cameras and programs write about 10 scans; a small file with
# thousands would take hours.
_MOST_SCANS = 100
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)


class UnreadableError(ValueError):
    """An image cannot be read. The text follows the image's name: `is 60000 × 60000; …`."""


def read(path: Path, how: How | None = None) -> Image.Image:
    """Reads an image file. If it has several images, or is an animation, it reads the first one.

    A malicious image can take very long. `ImageDecoder` limits the time.

    Args:
        path: A PNG, JPEG, BMP, GIF or WebP file.
        how: As for `decode`.

    Raises:
        UserError: The file cannot be read, or is too large.
    """
    name = printable(str(path))
    try:
        return decode(_content(path), how=how)
    except UnreadableError as error:
        raise UserError(f"{name}: {error}") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({os_reason(error)})") from None


def decode(
    content: bytes, formats: tuple[str, ...] = FORMATS, most_a_side: int | None = None, how: How | None = None
) -> Image.Image:
    """Decodes the content of an image file.

    Args:
        content: The file's bytes.
        formats: The formats to accept, some of `FORMATS`.
        most_a_side: The most pixels of the longer side; None for no limit but the one on all pixels.
        how: What the training pictures were decoded for, so that this one is decoded alike; None for all its pixels.

    Raises:
        UnreadableError: The image cannot be decoded, or is too large.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, but the limit here is lower.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=formats)
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise UnreadableError(f"is {width} × {height}; at most {_MOST_PIXELS // 10**6} million pixels are read")
            if most_a_side is not None and max(width, height) > most_a_side:
                raise UnreadableError(f"is {width} × {height}; at most {most_a_side} pixels a side are read")
            if content.startswith(b"\xff\xd8") and _has_too_many_scans(content):
                raise UnreadableError(f"is a JPEG of more than {_MOST_SCANS} scans, which takes too long to read")
            if how is not None:
                draft(image, how)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        known = [name.replace("WEBP", "WebP") for name in formats]
        one_of = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
        raise UnreadableError(f"is not an image that can be read; give a {one_of}") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"is too large; at most {_MOST_PIXELS // 10**6} million pixels are read") from None
    except MemoryError:
        raise UnreadableError("cannot be read (it takes too much memory)") from None
    except Exception as error:  # A damaged file can raise any error.
        raise UnreadableError(f"cannot be read ({first_line(error, 200)})") from None


def _content(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a pipe that nothing writes to would block for ever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableError("is not a regular file")
        # Some files report a size of 0.
        content = b"" if about.st_size > _MOST_BYTES else file.read(_MOST_BYTES + 1)
        if max(about.st_size, len(content)) > _MOST_BYTES:
            raise UnreadableError(f"is larger than {_MOST_BYTES // 2**20} MiB")
        return content


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Counts the scans of the first image of a JPEG file (ITU-T T.81, annex B)."""
    scans, place = 0, 2
    while scans <= _MOST_SCANS:
        # A scan's data, which may precede the next marker, never contains a marker's bytes.
        found = _MARKER.search(jpeg, place)
        if found is None or found[1] == b"\xd9":
            return False
        scans += found[1] == b"\xda"
        # These two markers have no content. After all others comes the length of theirs.
        alone = found[1] in (b"\x01", b"\xd8")
        place = found.end() + (0 if alone else max(2, int.from_bytes(jpeg[found.end() : found.end() + 2], "big")))
    return True
