"""Images as a model sees them, and what makes its answer doubtful."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import images as data
from mnist_sweep.data import pictures
from mnist_sweep.data.profile import Profile, measure
from mnist_sweep.results.models import image_files
from mnist_sweep.results.models.doubts import why_doubtful
from mnist_sweep.results.models.image_files import read
from mnist_sweep.results.models.preprocessing import prepare

SHAPE = (28, 28, 1)
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def known(digits: Path) -> tuple[Array, NDArray[np.int64], Profile]:
    """Digits, their classes, and the profile of other digits."""
    images = data.load("mnist", str(digits))
    return images.x_test[..., 0], images.y_test, measure(images.x_train, images.y_train)


def sure(label: int) -> NDArray[np.float64]:
    return np.where(np.arange(10) == label, 0.91, 0.01)


def large(digit: Array) -> Image.Image:
    return Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC)


def inverted(image: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(image))


def off_centre(image: Image.Image) -> Image.Image:
    paper = Image.new(image.mode, (700, 500), 255)
    paper.paste(image, (390, 20))
    return paper


def on_paper(image: Image.Image) -> Image.Image:
    """Blue ink on grainy, yellowish paper, with light from the left."""
    ink = np.asarray(off_centre(inverted(image)))[..., None] / 255
    shadow = np.linspace(30, -30, 700)[None, :, None]
    grain = np.random.default_rng(1).normal(0, 5, (500, 700, 3))
    pixels = (np.array([225, 220, 190]) + shadow) * ink + np.array([40, 50, 140]) * (1 - ink) + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def transparent(image: Image.Image) -> Image.Image:
    ink = Image.new("RGBA", image.size, (20, 0, 90, 0))
    ink.putalpha(image)
    return ink


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)


def sideways(image: Image.Image) -> Image.Image:
    """Rotated, with the rotation in its Exif data, as phones write photographs."""
    turned = image.rotate(90)
    turned.getexif()[0x0112] = 6
    return turned


@pytest.mark.parametrize(
    "way",
    [
        large,
        lambda digit: inverted(large(digit)),
        lambda digit: off_centre(inverted(large(digit))),
        lambda digit: on_paper(large(digit)),
        lambda digit: transparent(large(digit)),
        lambda digit: sixteen_bits(large(digit)),
        lambda digit: large(digit).convert("P"),
        lambda digit: large(digit).convert("LA"),
        lambda digit: np.asarray(large(digit)),
        lambda digit: np.asarray(large(digit))[..., None] / 255,
    ],
    ids=["large", "dark", "off_centre", "paper", "transparent", "16bit", "palette", "alpha", "array", "floats"],
)
def test_a_digit_looks_like_the_training_images_however_it_is_drawn(known, way: Callable) -> None:
    digits, _, profile = known
    for digit in digits[::40]:
        prepared = prepare(way(digit), SHAPE, profile)
        assert prepared.image.shape == SHAPE
        assert prepared.image.dtype == np.float32
        assert np.corrcoef(prepared.image.ravel(), digit.ravel())[0, 1] > 0.85
        assert prepared.doubts == []


def test_an_image_of_the_data_set_is_left_unchanged(known) -> None:
    digits, _, profile = known
    same = [np.abs(prepare(digit, SHAPE, profile).image[..., 0] - digit / 255).max() < 0.05 for digit in digits[::4]]
    assert np.mean(same) > 0.5
    assert all(np.corrcoef(prepare(d, SHAPE, profile).image.ravel(), d.ravel())[0, 1] > 0.7 for d in digits[::10])


def test_the_notes_say_what_was_done(known) -> None:
    digits, _, profile = known
    assert prepare(off_centre(inverted(large(digits[0]))), SHAPE, profile).notes[0] == "dark on light: inverted"
    assert prepare(large(digits[0]), SHAPE, profile).notes[0].startswith("cut out and scaled from ")
    assert "put on white" in prepare(transparent(large(digits[0])), SHAPE, profile).notes[0]


def test_models_trained_on_dark_digits_on_light_get_such_digits(known) -> None:
    digits, labels, _ = known
    profile = measure(255 - digits[..., None], labels)
    assert profile.drawing is not None
    assert profile.drawing.background == 1
    prepared = prepare(large(digits[3]), SHAPE, profile)
    assert prepared.notes[0] == "light on dark: inverted"
    assert prepared.image[0, 0, 0] == 1
    assert np.corrcoef(prepared.image.ravel(), digits[3].ravel())[0, 1] < -0.9


def test_photographs_are_only_scaled() -> None:
    rng = np.random.default_rng(2)
    profile = measure(rng.random((90, 8, 8, 3)).astype(np.float32), np.arange(90) % 3)
    assert profile.drawing is None
    image = Image.fromarray(np.full((40, 40, 3), (255, 0, 51), np.uint8))
    prepared = prepare(image, (8, 8, 3), profile)
    assert prepared.image[0, 0] == pytest.approx([1, 0, 0.2])
    assert prepared.notes == ["scaled from 40 × 40 to 8 × 8"]
    assert prepare(image.resize((80, 40)), (8, 8, 3), profile).notes == ["stretched from 80 × 40 to 8 × 8"]
    assert prepare(image, (8, 8, 1), profile).image[0, 0] == pytest.approx([0.299 + 0.114 * 0.2])
    with pytest.raises(UserError, match="the model takes images of 2 channels"):
        prepare(image, (8, 8, 2), profile)


def test_without_a_profile_a_model_of_one_channel_is_assumed_to_be_trained_on_mnist(known) -> None:
    digits, _, profile = known
    image = inverted(large(digits[20]))
    np.testing.assert_allclose(prepare(image, SHAPE).image, prepare(image, SHAPE, profile).image, atol=0.01)


def test_real_digits_are_rarely_doubtful(known) -> None:
    digits, labels, profile = known
    pairs = zip(digits[::2], labels[::2], strict=True)
    doubtful = [why_doubtful(prepare(digit, SHAPE, profile), sure(label), profile) for digit, label in pairs]
    assert np.mean([bool(d) for d in doubtful]) < 0.06


def test_images_that_are_not_a_digit_are_doubtful(known) -> None:
    digits, _, profile = known
    rng = np.random.default_rng(3)
    two = Image.fromarray(np.hstack([np.asarray(large(digits[30])), np.asarray(large(digits[90]))]))
    strange = {
        "nothing is drawn": np.full((200, 200), 240, np.uint8),
        "no plain background": rng.integers(0, 256, (64, 64), dtype=np.uint8),
        "wider than any": two,
        "touches the edge": inverted(large(digits[30])).crop((0, 150, 280, 280)),
        "pieces, where": Image.fromarray(np.kron(rng.random((9, 9)) < 0.15, np.ones((30, 30))).astype(np.uint8) * 255),
    }
    for reason, image in strange.items():
        doubts = why_doubtful(prepare(image, SHAPE, profile), sure(8), profile)
        assert any(reason in doubt for doubt in doubts), (reason, doubts)


def test_a_misread_digit_looks_unlike_the_training_images_of_that_class(known) -> None:
    digits, labels, profile = known
    sevens = [why_doubtful(prepare(d, SHAPE, profile), sure(6), profile) for d in digits[labels == 7]]
    assert np.mean([any("of the training images of a 6" in doubt for doubt in doubts) for doubts in sevens]) > 0.8


def test_an_answer_is_doubtful_if_the_model_hesitates(known) -> None:
    digits, labels, profile = known
    prepared = prepare(digits[labels == 4][0], SHAPE, profile)
    torn = np.where(np.isin(np.arange(10), [4, 9]), [0.5 if i == 4 else 0.4 for i in range(10)], 0.0125)
    assert why_doubtful(prepared, torn, profile) == ["the model hesitates between 4 and 9"]
    assert why_doubtful(prepared, sure(4), profile) == []
    assert why_doubtful(prepared, sure(4), None) == []


def test_images_are_turned_upright_and_bad_files_are_named(known, tmp_path: Path) -> None:
    digits, _, profile = known
    path = tmp_path / "photo.jpg"
    turned = sideways(large(digits[50]))
    turned.save(path, exif=turned.getexif())
    assert np.corrcoef(prepare(read(path), SHAPE, profile).image.ravel(), digits[50].ravel())[0, 1] > 0.85
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"photo\.jpg: cannot be read \(.*truncated"):
        read(path)
    path.write_text("no image")
    with pytest.raises(UserError, match=r"photo\.jpg: is not an image that can be read"):
        read(path)
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file"):
        read(tmp_path / "gone.png")


# ---- pictures that were made to fit in training -----------------------------------------------------------------


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("name", "channels"), [("a.png", 3), ("a.jpg", 3), ("a.jpg", 1), ("turned.jpg", 3)])
def test_a_picture_is_read_exactly_as_those_that_the_model_was_trained_on(tmp_path, resize, name, channels):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)).resize((260, 180))
    exif = Image.Exif()
    exif[0x0112] = 6 if name == "turned.jpg" else 1
    image.save(tmp_path / name, exif=exif)
    how = pictures.How(24, 40, channels == 1, resize, exact=False)
    given = image_files.read(tmp_path / name, how)
    prepared = prepare(given, how.shape, None, resize)
    expected = pictures.pixels(tmp_path / name, how)
    np.testing.assert_array_equal(np.rint(prepared.image * 255), expected)
    assert "to 40 × 24" in prepared.notes[0]


def test_an_array_is_made_to_fit_like_a_picture():
    drawn = np.zeros((20, 40, 1))
    drawn[5:15] = 1
    prepared = prepare(drawn, (10, 10, 1), None, "pad")
    assert prepared.image.shape == (10, 10, 1)
    assert prepared.image[0].max() == 0
    assert prepared.image.max() == 1
