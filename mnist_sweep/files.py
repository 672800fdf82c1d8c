"""Files that appear only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, content: str | Callable[[Path], object], *, flush: bool = True) -> None:
    """Writes to a temporary file, flushes it to the disk, and gives it its name.

    Args:
        path: The file; one that is there is replaced.
        content: Its text, or what writes it to the path that it is given.
        flush: Whether to wait for the disk; without, a power cut may leave a file that cannot be read.

    Raises:
        OSError: It cannot be written; the file is then as it was.
    """
    # The suffix stays last, as Keras and NumPy tell the format by it.
    temporary = path.with_name(f"partial-{path.name}")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        if flush:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
