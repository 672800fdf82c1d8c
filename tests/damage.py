"""Damaged files, as disks, downloads and editors make them."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file's content after one to three mishaps: cut off, bits flipped, parts overwritten, moved, doubled or lost."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(("cut", "flip", "overwrite", "insert", "lose", "double", "zero")))
        if kind == "cut":
            del content[at:]
        elif kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            content[at : at + length] = draw(st.binary(min_size=1, max_size=64))
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=64))
        elif kind == "lose":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + 16 * length]
        else:
            content[at : at + length] = bytes(length)
    return bytes(content)
