"""Malicious and damaged images: none hangs, fills the memory, or starts a program."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from processes import gone

from mnist_sweep.common.errors import UserError
from mnist_sweep.results.models import image_files
from mnist_sweep.results.models.image_decoder import DecodingError, ImageDecoder
from mnist_sweep.results.models.preprocessing import prepare

SHAPE = (28, 28, 1)
MIB = 2**20
# The memory of the process with NumPy, SciPy and Pillow, and with the largest image.
SMALL, LARGE = 300 * MIB, 1200 * MIB


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    with ImageDecoder(20) as started:
        yield started


def process(decoder: ImageDecoder) -> psutil.Process:
    return psutil.Process(decoder._process.pid)


def peak(decoder: ImageDecoder) -> int:
    """The most memory that the process has used, in bytes."""
    status = Path(f"/proc/{decoder._process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def saved(kind: str, *, mode: str = "RGB", size: tuple[int, int] = (24, 20), **how: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **how)
    return file.getvalue()


def several(kind: str) -> bytes:
    """An animation whose first frame is black."""
    frames = [Image.new("L", (60, 60), shade) for shade in (0, 100, 200)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def png(
    width: int, height: int, bits: int = 8, kind: int = 0, data: bytes = b"", *before: tuple[bytes, bytes]
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *before, (b"IDAT", data), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(MIB, count - done))) for done in range(0, count, MIB)]
    return b"".join([*parts, packer.flush()])


def jpeg_of_scans(count: int) -> bytes:
    plain = saved("JPEG", mode="L", size=(64, 64), progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * count + plain[-2:]


def webp_canvas(side: int) -> bytes:
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes([16, 0, 0, 0]) + (side - 1).to_bytes(3, "little") * 2
    body = b"WEBP" + chunk + saved("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int, compression: int, data: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + head + bytes(1024) + data


def gif(side: int, *blocks: bytes) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\0;"
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b"".join(blocks) + frame


def as_kind(kind: str) -> bytes:
    return saved(kind, mode="L")


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: png(13_000, 13_000, 1, 0, zeros(13_000 * 1626)), "is 13000 × 13000; at most 67 million pixels"),
        (lambda: png(2**31 - 1, 2**31 - 1, data=zeros(9)), "is too large"),
        (lambda: png(0, 5, data=zeros(9)), ""),
        (lambda: gif(65_535), "is too large"),
        (lambda: bmp(2**31 - 1, 2**31 - 1, 0, b""), "is too large"),
        (lambda: bmp(9000, 9000, 1, b"\1\7"), "is 9000 × 9000"),
        (lambda: webp_canvas(16_383), "is too large"),
        (lambda: webp_canvas(2**24), ""),
        (lambda: png(9, 9, 8, 0, zeros(90), (b"zTXt", b"a\0\0" + zeros(2**28))), "too large"),
        (lambda: png(9, 9, 8, 0, zeros(90), (b"iCCP", b"a\0\0" + zeros(2**28))), "too large"),
        (lambda: png(9, 9, 8, 0, zeros(90), *[(b"zTXt", b"a\0\0" + zeros(MIB - 1))] * 99), "Too much memory"),
        (lambda: jpeg_of_scans(2000), "is a JPEG of more than 100 scans"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image that can be"),
        (lambda: as_kind("TIFF"), "give a PNG, JPEG, BMP, GIF or WebP"),
        (lambda: as_kind("PPM"), "is not an image"),
        (lambda: as_kind("ICO"), "is not an image"),
        (lambda: as_kind("TGA"), "is not an image"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (lambda: b"", "is not an image"),
        (lambda: saved("PNG")[:-40], "cannot be read ("),
        (lambda: saved("JPEG")[:300], "cannot be read ("),
    ],
)  # fmt: skip
def test_an_image_that_is_too_large_or_not_an_image_is_refused_in_one_line(
    decoder: ImageDecoder, tmp_path: Path, content: Callable[[], bytes], why: str
) -> None:
    path = tmp_path / "a\x1b[31m\n.png"
    path.write_bytes(content())
    with pytest.raises(UserError) as refused:
        decoder.read_file(path, SHAPE, None)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/a\\x1b[31m")
    assert why in message
    assert message.replace("\n", "").isprintable()
    assert peak(decoder) < SMALL


@pytest.mark.parametrize("content", [lambda: png(8192, 8192, 8, 6, zeros(8192 * (4 * 8192 + 1)))])
def test_the_largest_image_takes_limited_memory(tmp_path: Path, content: Callable[[], bytes]) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(content())
    with ImageDecoder(60) as decoder:
        assert decoder.read_file(path, SHAPE, None).image.shape == SHAPE
        assert peak(decoder) < LARGE


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (Path.mkdir, "cannot be read (Is a directory)"),
        (lambda path: path.symlink_to(path), "cannot be read ("),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "cannot be read ("),
        (lambda path: (path.write_bytes(b""), os.truncate(path, 2**40)), "is larger than 64 MiB"),
        (lambda path: None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_path_that_is_not_a_regular_file_does_not_block(
    monkeypatch, tmp_path: Path, make: Callable, why: str
) -> None:
    # A socket's path has to be short.
    monkeypatch.chdir(tmp_path)
    make(Path("x.png"))
    with pytest.raises(UserError) as refused:
        image_files.read(Path("x.png"))
    assert str(refused.value).startswith("x.png: ")
    assert why in str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "MPO"])
def test_the_first_image_of_an_animation_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "several"
    path.write_bytes(several(kind))
    assert np.asarray(image_files.read(path).convert("L")).max() < 20


def test_jpegs_as_cameras_write_them_have_few_scans(tmp_path: Path) -> None:
    # Exif data, comments and whatever follows the image may contain the bytes of a scan's marker.
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 300
    content = saved("JPEG", size=(200, 200), progressive=True, exif=exif, comment=b"\xff\xda" * 300)
    path.write_bytes(content + b"\xff\xda" * 300)
    assert image_files.read(path).size == (200, 200)
    assert not image_files._has_too_many_scans(content)


# ---- the process ------------------------------------------------------------------------------------------------


def test_an_image_that_takes_too_long_ends_the_process_and_the_next_one_is_read(tmp_path: Path) -> None:
    slow, fine = tmp_path / "slow.bmp", tmp_path / "fine.png"
    slow.write_bytes(bmp(8192, 8192, 1, b"\1\7" * 30_000_000))
    fine.write_bytes(saved("PNG"))
    with ImageDecoder(1) as decoder:
        before = process(decoder)
        with pytest.raises(UserError, match=r"slow\.bmp: takes more than 1 s to read"):
            decoder.read_file(slow, SHAPE, None)
        assert gone([before])
        assert decoder.read_file(fine, SHAPE, None).image.shape == SHAPE


@pytest.mark.parametrize("busy", [True, False])
def test_a_killed_process_is_replaced(tmp_path: Path, busy: bool) -> None:
    slow, fine = tmp_path / "slow.bmp", tmp_path / "fine.png"
    slow.write_bytes(bmp(8192, 8192, 1, b"\1\7" * 30_000_000))
    fine.write_bytes(saved("PNG"))
    with ImageDecoder(60) as decoder:
        decoder.read_file(fine, SHAPE, None)
        if busy:
            threading.Timer(0.3, decoder._process.kill).start()
            with pytest.raises(UserError, match=r"slow\.bmp: cannot be read \(the process that opened it ended"):
                decoder.read_file(slow, SHAPE, None)
        else:
            decoder._process.kill()
            decoder._process.wait()
        assert decoder.read_file(fine, SHAPE, None).image.shape == SHAPE


def test_closing_ends_a_process_that_is_reading_an_image(tmp_path: Path) -> None:
    decoder = ImageDecoder(60)
    decoder.read_body("image/png", saved("PNG"), SHAPE, None)
    ended = process(decoder)
    os.kill(ended.pid, signal.SIGSTOP)
    threading.Timer(0.3, decoder.close).start()
    with pytest.raises(DecodingError, match="is shutting down"):
        decoder.read_body("image/png", saved("PNG"), SHAPE, None)
    assert gone([ended])


def test_the_process_does_not_outlive_the_program_that_started_it() -> None:
    code = (
        "import os\n"
        "from mnist_sweep.results.models.image_decoder import ImageDecoder\n"
        "print(ImageDecoder(5)._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert not psutil.pid_exists(pid) or gone([psutil.Process(pid)])


# ---- damage -----------------------------------------------------------------------------------------------------

WHOLE = [
    *(saved(kind, mode=mode) for kind in image_files.FORMATS for mode in ("L", "RGB")),
    *(saved(kind, mode=mode) for kind in ("PNG", "GIF", "BMP") for mode in ("P", "1")),
    *(saved(kind, mode="RGBA") for kind in ("PNG", "WEBP")),
    *(several(kind) for kind in ("PNG", "GIF", "WEBP")),
    saved("JPEG", progressive=True),
    saved("JPEG", mode="CMYK"),
]
_EXTREME = st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An image some of whose bytes were replaced, removed or added."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 8) | st.integers(0, len(content)))
        content[at : at + length] = draw(st.binary(max_size=8) | _EXTREME)
    return bytes(content)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged() | st.binary(max_size=200))
def test_any_bytes_give_an_image_or_an_error_of_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        prepared = prepare(image_files.read(path), SHAPE)
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
        assert str(error).isprintable()
    else:
        assert prepared.image.shape == SHAPE
        assert np.isfinite(prepared.image).all()
