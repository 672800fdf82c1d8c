"""Damages files as disks, downloads and editors do."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Returns a file's content after one to three mishaps: cut off, bits flipped, parts overwritten, added or lost."""
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


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Returns a function that damages a file: cuts it, flips bits, splices parts, writes large numbers into it."""
    kinds = draw(st.lists(st.sampled_from(["cut", "flip", "splice", "large", "text", "swap"]), min_size=1, max_size=4))
    at = [(draw(st.floats(0, 1)), draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8))) for _ in kinds]

    def mutated(raw: bytes) -> bytes:
        for kind, (one, other, text) in zip(kinds, at, strict=True):
            content, i, j = bytearray(raw), int(one * len(raw)), int(other * len(raw))
            if kind == "cut":
                del content[i:]
            elif kind == "flip" and content:
                content[min(i, len(raw) - 1)] ^= text[0] or 1
            elif kind == "splice":
                content[i:i] = content[j : j + 200]
            elif kind == "large":
                content[i : i + 4] = b"\xff\xff\xff\x7f"
            elif kind == "text":
                content[i : i + len(text)] = text
            else:
                content[i : i + 30], content[j : j + 30] = content[j : j + 30], content[i : i + 30]
            raw = bytes(content)
        return raw

    return mutated
