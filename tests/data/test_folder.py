"""Pictures in a folder per class: how they are read, what is refused, and the cache of decoded pictures."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import shipped
from mnist_sweep.data import picture_cache, pictures
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.picture_cache import Cache
from mnist_sweep.data.pictures import How
from mnist_sweep.data.sources import Request, load

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 6, 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist_sweep" / "pictures"


def picture(path: Path, *, grey: bool = False, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Writes a random picture, and returns its pixels."""
    pixels = RNG.integers(0, 256, size if grey else (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a folder with five pictures of each of two classes."""
    folder = tmp_path / "pictures"
    for name in ("cat", "dog"):
        for number in range(5):
            picture(folder / name / f"{number}.png")
    return folder


def read(folder: Path, **options: Any) -> LoadedData:
    given = {**shipped.values("data/folder"), "path": str(folder), **options}
    return load(Request.of(given, None))


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, **options)
    start = f"data.path={folder}: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(start)


def everything(data: LoadedData) -> set[bytes]:
    assert data.test is not None
    return {image.tobytes() for rows in (data.train, data.test) for image in rows.x}


# ---- folders ----------------------------------------------------------------------------------------------------


def test_classes_are_called_like_their_folders(root: Path) -> None:
    written = {np.asarray(Image.open(path)).tobytes() for path in root.rglob("*.png")}
    data = read(root)
    assert (data.name, data.source, data.notes) == ("folder", str(root), ())
    assert data.schema.image == (HEIGHT, WIDTH, 3)
    assert data.schema.target.names == ("cat", "dog")
    assert everything(data) == written
    assert data.train.x.dtype == np.uint8
    assert np.bincount(data.train.targets).tolist() == [4, 4]


@pytest.mark.parametrize(("validation", "test"), [("validation", "test"), ("val", "Testing"), ("valid", None)])
def test_parts_may_be_folders_above(root: Path, validation: str, test: str | None) -> None:
    parent = root.with_name("parts")
    for name in filter(None, ("train", validation, test)):
        shutil.copytree(root, parent / name)
    data = read(parent)
    assert data.validation is not None
    assert len(data.validation) == 10
    assert (len(data.train), len(data.test or ())) == ((10, 10) if test else (8, 2))
    (note,) = data.notes
    assert note.endswith("validates on the 10 pictures in its validation folder, not on data.validation_split")


def test_a_class_may_be_called_like_a_part(root: Path) -> None:
    (root / "dog").rename(root / "train")
    assert read(root).schema.target.names == ("cat", "train")


def test_classes_that_are_numbers_are_in_their_order_and_may_have_folders_within(tmp_path: Path) -> None:
    for name in ("10", "9", "b", "a"):
        for number in range(2):
            picture(tmp_path / "p" / name / f"of {number}" / "1.png")
    assert read(tmp_path / "p").schema.target.names == ("9", "10", "a", "b")


def test_what_hides_in_folders_is_ignored(root: Path) -> None:
    digest = read(root).digest()
    for name in (".DS_Store", "Thumbs.db", "cat/.hidden.png", "cat/thumbs.db", ".git/x/a.png", "__MACOSX/cat/1.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("nothing")
    data = read(root)
    assert (data.digest(), data.notes) == (digest, ())


def test_files_next_to_the_classes_are_not_read_and_told(root: Path) -> None:
    (root / "README.md").write_text("cats and dogs")
    (note,) = read(root).notes
    assert note.endswith("not read, as no class's folder holds it: README.md")


def test_faulty_folders_are_refused(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    assert refused(empty) == "no such folder"
    empty.mkdir()
    assert refused(empty) == "has no folders with pictures; put those of each class into a folder of its own"
    assert refused(root / "cat" / "1.png").startswith("is a file, but data=folder needs a folder with a folder")
    assert refused(root / "cat") == "has no folders with pictures; put those of each class into a folder of its own"
    picture(root / "0.png")
    assert refused(root).startswith("1 file cannot be read as pictures: 0.png (is in no class's folder); remove it")
    (root / "0.png").unlink()
    (root / "bird").mkdir()
    assert refused(root) == "its folder bird is empty; add pictures, or remove it"
    picture(root / "bird" / "1.png")
    assert refused(root).startswith("the class bird has only one picture to train on; at least two are needed")
    for name in ("bird", "cat"):
        shutil.rmtree(root / name)
    assert refused(root).startswith("there is only one class, dog; at least two folders")


def test_faulty_parts_are_refused(root: Path) -> None:
    parent = root.with_name("parts")
    shutil.copytree(root, parent / "test")
    assert refused(parent) == "has a folder test with classes in it, but no such folder train"
    shutil.copytree(root, parent / "train")
    picture(parent / "test" / "zebra" / "1.png")
    message = refused(parent)
    assert message == "test/zebra/1.png is of the class zebra, which has no pictures to train on; there are cat, dog"
    shutil.copytree(root, parent / "Testing")
    assert refused(parent) == "has both Testing and test; keep one of them"


# ---- files ------------------------------------------------------------------------------------------------------


def test_unreadable_files_are_named_and_counted_unless_they_are_to_be_skipped(root: Path) -> None:
    written = everything(read(root))
    whole = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "a.txt").write_text("a cat")
    (root / "cat" / "b.png").write_bytes(b"no picture")
    (root / "dog" / "c.jpg").write_bytes(b"")
    (root / "dog" / "d.png").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(root / "dog" / "e.png")
    message = refused(root)
    assert message.startswith(
        "4 files cannot be read as pictures: cat/a.txt (is not a PNG, JPEG, BMP, GIF or WebP file), "
    )
    assert message.endswith(" and 1 more; remove them, or write data.skip_unreadable=true")
    data = read(root, skip_unreadable=True)
    assert everything(data) == written
    (note,) = data.notes
    assert "5 files skipped, as data.skip_unreadable=true: cat/a.txt, cat/b.png, dog/c.jpg and 2 more" in note
    for name in ("cat/a.txt", "cat/b.png", "dog/c.jpg", "dog/e.png"):
        (root / name).unlink()
    assert refused(root).startswith("1 file cannot be read as pictures: dog/d.png (")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".gif", ".webp"])
def test_formats_are_read(root: Path, suffix: str) -> None:
    for path in list(root.rglob("*.png")):
        image = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30) if "cat" in str(path) else (30, 200, 30))
        image.save(path.with_suffix(suffix))
        if suffix != ".png":
            path.unlink()
    data = read(root)
    assert data.schema.image == (HEIGHT, WIDTH, 3)
    red, green = data.train.x[..., 0].astype(int), data.train.x[..., 1].astype(int)
    assert ((red > green + 100).all(axis=(1, 2)) == (data.train.targets == 0)).all()


def test_sizes_that_differ_need_a_size(root: Path) -> None:
    picture(root / "dog" / "tall.png", size=(30, 10))
    assert refused(root) == (
        "the pictures differ in size: cat/0.png is 8 × 6, but dog/tall.png is 10 × 30; set "
        "data.image_size=[height,width], such as data.image_size=[96,96]"
    )
    assert read(root, image_size=[12, 10]).schema.image == (12, 10, 3)


def test_grey_and_coloured_pictures_are_told_apart(root: Path) -> None:
    grey = picture(root / "dog" / "grey.png", grey=True)
    assert refused(root) == (
        "1 picture is grey, such as dog/grey.png, and 10 in colour, such as cat/0.png; write data.color=rgb or "
        "data.color=grey to read all of them alike"
    )
    assert np.repeat(grey[..., None], 3, axis=2).tobytes() in everything(read(root, color="rgb"))
    assert read(root, color="grey").schema.image == (HEIGHT, WIDTH, 1)
    assert grey.tobytes() in everything(read(root, color="grey"))


def test_all_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    for number in range(8):
        picture(tmp_path / "p" / "ab"[number % 2] / f"{number}.png", grey=True)
    assert read(tmp_path / "p").schema.image == (HEIGHT, WIDTH, 1)


# ---- pixels -----------------------------------------------------------------------------------------------------


def decoded(path: Path, *, grey: bool = False, size: tuple[int, int] | None = None, resize: Any = "crop") -> Any:
    head = pictures.head(path)
    height, width = size or (head.height, head.width)
    return pictures.pixels(path, How(height, width, grey, resize, exact=size is None))


def test_resizing_keeps_the_middle_or_everything(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, :10], pixels[:, 10:20], pixels[:, 20:] = 50, 150, 250
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = {way: decoded(tmp_path / "a.png", grey=True, size=(30, 30), resize=way)[..., 0] for way in ("crop", "pad")}
    assert set(found["crop"][:, 5:25].ravel()) == {150}
    assert (found["pad"][0] == 0).all()
    np.testing.assert_array_equal(found["pad"][10:20], pixels)
    stretched = decoded(tmp_path / "a.png", grey=True, size=(30, 30), resize="stretch")[..., 0]
    np.testing.assert_array_equal(stretched, np.repeat(pixels, 3, axis=0))


def test_a_photograph_is_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert pictures.head(tmp_path / "a.jpg") == pictures.Head(16, 8, grey=False)
    upright = decoded(tmp_path / "a.jpg")
    assert upright.shape == (16, 8, 3)
    assert upright[:8].min() > 250
    assert upright[8:].max() < 5


def test_large_photographs_are_decoded_at_a_smaller_size(tmp_path: Path) -> None:
    pixels = np.zeros((640, 640, 3), np.uint8)
    pixels[:, :320] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    small = decoded(tmp_path / "a.jpg", size=(32, 32))
    assert small[:, :14].min() > 240
    assert small[:, 18:].max() < 15


@pytest.mark.parametrize(("ink", "background"), [(255, 0), (0, 255)])
def test_transparent_pictures_stand_out_from_their_background(tmp_path: Path, ink: int, background: int) -> None:
    pixels = np.full((4, 4, 4), ink, np.uint8)
    pixels[..., 3] = 0
    pixels[1, 1, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = decoded(tmp_path / "a.png")
    assert found[1, 1].tolist() == [ink] * 3
    assert found[0, 0].tolist() == [background] * 3


def test_palettes_and_wide_pixels_become_bytes(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(decoded(tmp_path / "wide.png", grey=True)[..., 0], pixels)
    assert pictures.head(tmp_path / "wide.png").grey
    image = Image.fromarray(pixels % 2)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "palette.png")
    assert not pictures.head(tmp_path / "palette.png").grey
    assert set(map(tuple, decoded(tmp_path / "palette.png").reshape(-1, 3))) == {(255, 0, 0), (0, 0, 255)}
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "grey.png")
    assert pictures.head(tmp_path / "grey.png").grey
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert decoded(tmp_path / "cmyk.jpg")[0, 0, 0] > 200


# ---- the cache --------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Returns a list that every decoded picture is added to."""
    found: list[Path] = []
    real = pictures.pixels

    def pixels(path: Path, how: How) -> Any:
        found.append(path)
        return real(path, how)

    monkeypatch.setattr(pictures, "pixels", pixels)
    return found


def test_pictures_are_decoded_once(root: Path, counted: list[Path]) -> None:
    digest = read(root).digest()
    assert read(root).digest() == digest
    assert len(counted) == 10


def test_changed_files_and_options_are_decoded_again(root: Path, counted: list[Path]) -> None:
    digests = {read(root).digest(), read(root, color="grey").digest(), read(root, image_size=[4, 4]).digest()}
    picture(root / "cat" / "1.png")
    digests |= {read(root).digest()}
    picture(root / "cat" / "9.png")
    digests |= {read(root).digest()}
    assert len(digests) == 5
    assert len(counted) == 10 + 10 + 10 + 10 + 11


def test_the_cache_may_be_deleted_or_damaged(root: Path, cache: Path, counted: list[Path]) -> None:
    data = read(root)
    digest = data.digest()
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    (entry / "pixels.npy").write_bytes((entry / "pixels.npy").read_bytes()[:50])
    assert read(root).digest() == digest
    shutil.rmtree(cache)
    assert read(root).digest() == digest
    assert len(counted) == 30


def test_without_a_place_for_the_cache_pictures_are_read_all_the_same(root: Path, cache: Path) -> None:
    digest = read(root).digest()
    shutil.rmtree(cache)
    cache.write_text("a file")
    assert read(root).digest() == digest


def test_what_is_old_too_much_or_was_left_by_a_killed_process_is_removed(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    names = [f"cat/{number}.png" for number in range(5)]
    one = 5 * HEIGHT * WIDTH * 3 + 200

    def use(version: int, most: int) -> Path:
        how = How(HEIGHT, WIDTH, False, "crop", exact=True)
        Cache(folder, most).read(root, names, {"version": version}, lambda: (how, {}))
        time.sleep(0.01)
        entries = [path for path in folder.iterdir() if (path / "pixels.npy").exists()]
        return max(entries, key=lambda path: path.stat().st_mtime)

    entries = [use(version, 3 * one) for version in range(3)]
    os.utime(entries[1], (time.time() - 100 * 86400,) * 2)
    killed = folder / f"{picture_cache.PARTIAL}123"
    killed.mkdir()
    assert use(0, 3 * one) == entries[0]
    entries.append(use(3, 3 * one))
    assert [entry.exists() for entry in entries] == [True, False, True, True]
    assert not killed.exists()
    use(4, 2 * one)
    assert [entry.exists() for entry in entries] == [False, False, False, True]


def test_of_several_readers_at_once_one_decodes(root: Path, counted: list[Path]) -> None:
    digests: list[str] = []
    readers = [threading.Thread(target=lambda: digests.append(read(root).digest())) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(set(digests)) == 1
    assert len(digests) == 4
    assert len(counted) == 10
