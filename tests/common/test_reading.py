"""Files from outside: every error is one line, and takes bounded time and memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import resource
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from damage import mutations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_sweep.common import reading
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import RefusedError
from mnist_sweep.common.text import format_size
from mnist_sweep.data import images as data
from mnist_sweep.data import sources
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.profile import Profile, measure

_RNG = np.random.default_rng(0)
GOOD = {
    "x_train": (_RNG.random((40, 8, 8)) * 255).astype("uint8"),
    "y_train": np.arange(40) % 4,
    "x_test": (_RNG.random((8, 8, 8)) * 255).astype("uint8"),
    "y_test": np.arange(8) % 4,
}
IDX = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte",
}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape: str, kind: str = "|u1", order: str = "False") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * ((64 - (10 + len(text) + 1) % 64) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, **other: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for key, value in {**{key: npy(value) for key, value in GOOD.items()}, **other}.items():
            file.writestr(f"{key}.npy", value)


def patched(path: Path, local: int, central: int, value: int) -> None:
    """Overwrites a byte of every entry's headers."""
    raw = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        i = 0
        while (i := raw.find(mark, i)) >= 0:
            raw[i + at] = value
            i += 4
    path.write_bytes(raw)


def encrypted(path: Path) -> None:
    archive(path)
    patched(path, 6, 8, 1)


def odd_method(path: Path) -> None:
    archive(path)
    patched(path, 8, 10, 77)


def damaged_lzma(path: Path) -> None:
    archive(path, zipfile.ZIP_LZMA)
    raw = bytearray(path.read_bytes())
    raw[60:90] = b"\xff" * 30
    path.write_bytes(raw)


def zeros(path: Path, method: int, images: int, labels: int) -> None:
    """Writes an archive of black images, a thousand times smaller than the images."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
        for key, count, side in (("x_train", images, 28), ("x_test", 8, 28)):
            with file.open(f"{key}.npy", "w", force_zip64=True) as entry:
                entry.write(header(f"({count}, {side}, {side})"))
                for start in range(0, count, 4000):
                    entry.write(bytes(side * side * min(4000, count - start)))
        for key, count in (("y_train", labels), ("y_test", 8)):
            file.writestr(f"{key}.npy", npy(np.arange(count) % 4))


def long_header(path: Path) -> None:
    """Writes a header that NumPy would read completely before it checks its length."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for key in GOOD:
            with file.open(f"{key}.npy", "w") as entry:
                entry.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 3_000_000_000))
                entry.write(bytes(50_000_000))


def lying_size(path: Path) -> None:
    """Writes an entry whose size in the archive's tables is smaller than its inflated data."""
    archive(path, x_train=header("(4000, 28, 28)") + bytes(4000 * 784))
    raw = bytearray(path.read_bytes())
    whole = struct.pack("<I", len(header("(4000, 28, 28)")) + 4000 * 784)
    short = struct.pack("<I", len(header("(4000, 28, 28)")) + 40 * 64)
    raw = bytearray(bytes(raw).replace(whole, short))
    path.write_bytes(bytes(raw).replace(header("(4000, 28, 28)"), header("(40, 8, 8)")))


# How to make each file, and a part of the error about it.
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shape of terabytes": (
        lambda p: archive(p, x_train=header("(1000000000000, 28, 28)") + b"abc"),
        "(x_train should have 784000000000000 bytes, but has 3)",
    ),
    "shape beyond 64 bits": (
        lambda p: archive(p, x_train=header("(99999999999999999999, 28, 28)") + b"abc"),
        "bytes, but has 3)",
    ),
    "negative shape": (lambda p: archive(p, x_train=header("(-40, 8, 8)") + bytes(2560)), "(its header is damaged)"),
    "shape of text": (lambda p: archive(p, x_train=header("('a', 8)") + bytes(2560)), "(its header is damaged)"),
    "nested header": (
        lambda p: archive(p, x_train=b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000),
        "(its header is damaged)",
    ),
    "nested signs": (
        lambda p: archive(p, x_train=b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"-" * 8999 + b"1"),
        "(its header is damaged)",
    ),
    "header of gigabytes": (long_header, "(its header is damaged)"),
    "header that is cut off": (lambda p: archive(p, x_train=b"\x93NUMPY\x01\x00"), "(its header is damaged)"),
    "version 9": (lambda p: archive(p, x_train=b"\x93NUMPY\x09\x00" + bytes(80)), "version 9.0"),
    "no array": (lambda p: archive(p, x_train=b""), "x_train is not an array"),
    "fields": (
        lambda p: archive(p, x_train=npy(np.zeros(3, dtype=[("a", "f4"), ("b", "i2")]))),
        "(its header is damaged)",
    ),
    "texts": (lambda p: archive(p, x_train=npy(np.full((40, 8, 8), "a"))), "images must be numbers"),
    "objects": (
        lambda p: archive(p, x_train=header("(2,)", "|O") + b"\x80\x04N."),
        "(it contains Python objects, not numbers)",
    ),
    "encrypted": (encrypted, "(x_train is encrypted)"),
    "odd method": (odd_method, "(That compression method is not supported)"),
    "damaged LZMA": (damaged_lzma, "(Corrupt input data)"),
    "lying size": (lying_size, "cannot be read as .npz ("),
    "labels for a few of the images": (
        lambda p: zeros(p, zipfile.ZIP_DEFLATED, 600_000, 40),
        "x_train has 600,000 images, but y_train has 40 labels",
    ),
    "more than memory": (
        lambda p: zeros(p, zipfile.ZIP_DEFLATED, 2_000_000, 2_000_000),
        "memory",
    ),
    "a pipe": (os.mkfifo, "is a pipe, not a file"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "is a device, not a file"),
    "itself": (lambda p: p.symlink_to(p), "no such file or folder"),
    "nowhere": (lambda p: p.symlink_to("nowhere"), "no such file or folder"),
}


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))


_PROGRAM = """
import sys
from mnist_sweep.common.errors import UserError
from mnist_sweep.data import sources
for path in sys.argv[1:]:
    try:
        print("read", sources.load(sources.Request("npz", path)).digest())
    except UserError as error:
        print(error)
"""


def test_a_bad_archive_is_a_one_line_error_in_little_memory(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.npz" for number in range(len(BAD))]
    for (make, _), path in zip(BAD.values(), paths, strict=True):
        make(path)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, paths)],
        capture_output=True, text=True, timeout=120, preexec_fn=_limited, env=environment,
    )  # fmt: skip
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(BAD)
    for (kind, (_, reason)), path, line in zip(BAD.items(), paths, lines, strict=True):
        assert line.startswith((f"data.path={path}: ", "data=npz: needs more memory")), (kind, line)
        assert reason in line, (kind, line)


def loaded(path: Path) -> LoadedData:
    return sources.load(sources.Request("npz", str(path)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_compress_well_are_read(tmp_path: Path, method: int) -> None:
    zeros(tmp_path / "black.npz", method, 60_000, 60_000)
    assert loaded(tmp_path / "black.npz").train.x.shape == (60_000, 28, 28, 1)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<f4", ">f4", ">i8", "?", "<U3", "<c8"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, shape: tuple[int, ...], kind: str, order: Any) -> None:
    array = np.asarray(np.random.default_rng(1).integers(0, 2, shape)).astype(kind, order=order)
    np.savez_compressed(tmp_path / "a.npz", a=array, b=array)
    found = reading.read_npz(tmp_path / "a.npz", "a.npz")
    np.testing.assert_array_equal(found["a"], array, strict=True)
    assert list(found) == ["a", "b"]


def test_arrays_that_do_not_fit_into_memory_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "a.npz")
    size = sum(array.nbytes for array in GOOD.values())
    monkeypatch.setattr(reading, "_free_memory", lambda: 2 * size)
    assert loaded(tmp_path / "a.npz").schema.target.size == 4
    monkeypatch.setattr(reading, "_free_memory", lambda: 2 * size - 1)
    with pytest.raises(RefusedError) as caught:
        loaded(tmp_path / "a.npz")
    assert str(caught.value) == (
        f"data.path={tmp_path}/a.npz: needs 6.912 kB of memory, but this machine has 6.911 kB free"
    )


# ---- IDX --------------------------------------------------------------------------------------------------------


def idx_files(folder: Path) -> None:
    for name, file in IDX.items():
        array = GOOD[name].astype(np.uint8)
        raw = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()
        (folder / file).write_bytes(gzip.compress(raw) if file.endswith(".gz") else raw)


@pytest.mark.parametrize(
    ("sizes", "content", "reason"),
    [
        ((40, 8, 8), bytes(50_000_000), "should have 2560 bytes, but has more"),
        ((2**32 - 1,) * 3, b"", "needs 1.585e+17 TB of memory, but this machine has "),
        ((40, 8, 8), bytes(100), "should have 2560 bytes, but has 100"),
    ],
)
def test_gzipped_idx_files_are_read_no_further_than_their_header_says(
    tmp_path: Path, sizes: tuple[int, ...], content: bytes, reason: str
) -> None:
    idx_files(tmp_path)
    path = tmp_path / IDX["x_train"]
    path.write_bytes(gzip.compress(struct.pack(">4I", 2051, *sizes) + content))
    with pytest.raises(UserError) as caught:
        data.load("mnist", str(tmp_path))
    assert str(caught.value).startswith(f"data.path={path}: {reason}")


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_a_folder_of_idx_files_with_something_else_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    idx_files(tmp_path)
    path = tmp_path / IDX["y_test"]
    path.unlink()
    with contextlib.ExitStack() as opened:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            opened.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        with pytest.raises(UserError) as caught:
            data.load("mnist", str(tmp_path))
    assert str(caught.value) == f"data.path={path}: is a {kind}, not a file"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_pipe_in_kerass_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = {"mnist": "mnist.npz", "fashion_mnist": "fashion-mnist/train-images-idx3-ubyte.gz"}[name]
    path = tmp_path / "datasets" / file
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(UserError) as caught:
        data.load(name)
    assert str(caught.value) == (f"data={name}: Keras's copy cannot be read; delete it ({path}: is a pipe, not a file)")


# ---- text -------------------------------------------------------------------------------------------------------


def laughs(line: str) -> str:
    lines = [f"a{i}: &a{i} " + line.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 12)]
    return "\n".join(["a0: &a0 {k: 1}", *lines])


YAMLS = {
    "a billion laughs": (laughs("[{}]"), "has more than 50000 values with its aliases expanded"),
    "a billion merged keys": (laughs("{{<<: [{}]}}"), "has more than 50000 values with its aliases expanded"),
    "too many values": ("[" + "1," * 60_000 + "]", "has more than 50000 values with its aliases expanded"),
    "nested lists": ("[" * 100_000, "is nested more than 50 levels deep"),
    "nested mappings": ("{a: " * 100_000, "is nested more than 50 levels deep"),
    "nested lines": ("\n".join(" " * i + "a:" for i in range(900)), "is nested more than 50 levels deep"),
    "itself": ("a: &a [*a]", "a refers to itself"),
    "a number of an hour": ("a: 1" + ":1" * 100_000, "has a value of 200001 characters; quote it if it is text"),
    "a number with a tag": ("a: !!int '1" + ":1" * 100_000 + "'", "has a value of 200001 characters; quote it if"),
    "3 MB": ("a: " + "x" * 3_000_000, "is larger than 1 MB, the limit for such a file"),
    "Latin 1": (b"a: caf\xe9", "is not UTF-8 text (byte 0xe9 at 6)"),
    "a null byte": (b"a: \0", "is not valid YAML ("),
    "code": (
        "!!python/object/apply:os.system [exit]",
        "is not valid YAML (could not determine a constructor for the tag",
    ),
    "a date that there is not": ("a: 2026-13-45", "is not valid YAML (month must be in 1..12)"),
    "a truth that there is not": ("a: !!bool perhaps", "is not valid YAML ('perhaps')"),
    "an alias of nothing": ("a: *b", "is not valid YAML (found undefined alias"),
    "two documents": ("a: 1\n---\nb: 2", "is not valid YAML (expected a single document"),
    "open": ("a: [1", "is not valid YAML ("),
}


@pytest.mark.parametrize(("content", "reason"), YAMLS.values(), ids=YAMLS)
def test_a_bad_yaml_file_is_a_one_line_error(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        reading.read_yaml(path, "a.yaml")
    assert str(caught.value).startswith(f"a.yaml: {reason}")
    assert "\n" not in str(caught.value)


def test_ordinary_yaml_is_read(tmp_path: Path) -> None:
    text = "\ufeffa: &all {b: [1, 2.5, true, null], 'c': é}\nd: *all\ne: {<<: *all, f: " + "'" + "x" * 9_000 + "'}\n"
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert reading.read_yaml(tmp_path / "a.yaml", "a") == yaml.safe_load(text)


# ---- anything at all --------------------------------------------------------------------------------------------


_FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@pytest.fixture
def only_user_errors() -> Callable[[], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def checked() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 3000

    return checked


@given(mutation=mutations(), method=st.sampled_from([0, 8, 12, 14]))
@_FUZZ
def test_any_archive_is_read_or_gives_a_one_line_error(tmp_path: Path, only_user_errors, mutation, method) -> None:
    path = tmp_path / "a.npz"
    archive(path, method)
    path.write_bytes(mutation(path.read_bytes()))
    with only_user_errors():
        loaded(path)


@given(mutation=mutations(), name=st.sampled_from(list(IDX)))
@_FUZZ
def test_any_idx_file_is_read_or_gives_a_one_line_error(tmp_path: Path, only_user_errors, mutation, name) -> None:
    idx_files(tmp_path)
    path = tmp_path / IDX[name]
    path.write_bytes(mutation(path.read_bytes()))
    with only_user_errors():
        data.load("mnist", str(tmp_path))


@given(mutation=mutations(), size=st.sampled_from([0, 2**31, 2**32 - 1, 61, 4]), axis=st.integers(0, 2))
@_FUZZ
def test_any_size_in_a_gzipped_header_is_read_or_gives_a_one_line_error(
    tmp_path, only_user_errors, mutation, size, axis
) -> None:
    idx_files(tmp_path)
    path = tmp_path / IDX["x_train"]
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[4 + 4 * axis : 8 + 4 * axis] = struct.pack(">I", size)
    path.write_bytes(gzip.compress(mutation(bytes(raw))))
    with only_user_errors():
        data.load("mnist", str(tmp_path))


_CONFIG = yaml.safe_dump({"model": {"kind": "mlp", "units": [1, 2], "x": "1 2"}, "data": {"path": None}, "seed": 1})


@given(mutation=mutations())
@_FUZZ
def test_any_config_is_read_or_gives_a_one_line_error(tmp_path: Path, only_user_errors, mutation) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(mutation(f"a: &a [1]\nb: *a\n{_CONFIG}".encode()))
    with only_user_errors():
        reading.read_yaml(path, "config.yaml")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("profile") / "data_profile.npz"
    images = np.random.default_rng(3).random((60, 12, 12, 1)).astype(np.float32)
    measure(images, np.arange(60) % 3).save(path)
    return path.read_bytes()


@given(mutation=mutations())
@_FUZZ
def test_any_profile_works_or_gives_a_one_line_error(tmp_path: Path, profile: bytes, mutation) -> None:
    path = tmp_path / "data_profile.npz"
    path.write_bytes(mutation(profile))
    try:
        found = Profile.load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: is not a profile of images (")
        return
    if found.likeness is not None:
        found.likeness.rarity(np.zeros((12, 12, 1), np.float32), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"codes": np.zeros((60, 2))},
        {"classes": np.full(60, 7)},
        {"usual": np.zeros(3)},
        {"mean": np.full(392, np.nan)},
        {"distances": np.zeros((60, 1))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_profile_whose_arrays_do_not_fit_together_is_refused(tmp_path: Path, profile: bytes, change) -> None:
    arrays = dict(np.load(io.BytesIO(profile)))
    np.savez(tmp_path / "p.npz", **arrays)
    assert Profile.load(tmp_path / "p.npz").likeness is not None
    changed = {f"likeness.{name}": value for name, value in change.items()}
    np.savez(tmp_path / "p.npz", **{**arrays, **changed})
    with pytest.raises(ValueError, match="its arrays do not fit together"):
        Profile.load(tmp_path / "p.npz")


# ---- digests ----------------------------------------------------------------------------------------------------


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(bytes(3_000_000))
    digest = reading.digest_of(path)
    reading.check_digest(path, digest, "model.h5", "train it again")
    reading.check_digest(path, "", "model.h5", "train it again")
    raw = bytearray(path.read_bytes())
    raw[2_000_000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError) as caught:
        reading.check_digest(path, digest, "model.h5", "train it again")
    assert str(caught.value) == "model.h5: was changed or damaged since it was written; train it again"
    path.unlink()
    with pytest.raises(UserError, match=r"^model\.h5: no such file$"):
        reading.check_digest(path, digest, "model.h5", "train it again")


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000_000, "1 MB"), (3_136_000_000, "3.136 GB"), (5 * 10**15, "5,000 TB")],
)
def test_sizes_have_units(amount: int, text: str) -> None:
    assert format_size(amount) == text
