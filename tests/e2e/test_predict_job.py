"""`predict` with the best model of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnist_sweep


@pytest.fixture
def image_files(digits: Path, tmp_path: Path) -> list[Path]:
    """A large dark 0 on light, a 1 from the data set, two digits, and a text file."""
    with np.load(digits) as arrays:
        x = arrays["x_test"]
    large = [Image.fromarray(255 - x[i]).resize((280, 280)) for i in (0, 100)]
    large[0].save(tmp_path / "zero.jpg", quality=80)
    Image.fromarray(x[20]).save(tmp_path / "one.png")
    Image.fromarray(np.hstack([np.asarray(image) for image in large])).save(tmp_path / "two digits.png")
    (tmp_path / "text.png").write_text("no image")
    return [tmp_path / name for name in ("zero.jpg", "text.png", "one.png", "two digits.png")]


@pytest.mark.slow
def test_digits_in_images_are_recognized_and_doubts_are_reported(
    swept, run_here, image_files: list[Path], tmp_path: Path
) -> None:
    folder, _ = swept
    seen = tmp_path / "seen"
    done = run_here(
        folder, "predict", *map(str, image_files), "--model", "four", "--format", "json", "--save-input", str(seen)
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"mnist_sweep: {image_files[1]}: is not an image that can be read; give a PNG, JPEG, BMP, GIF or WebP\n"
    )
    output = json.loads(done.stdout)
    tested = mnist_sweep.load_runs("four", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    assert output["model"]["run_id"] == tested[tested["metrics.test_accuracy"].notna()]["run_id"].item()
    zero, one, two = output["predictions"]
    assert [Path(answer["file"]).name for answer in (zero, one, two)] == ["zero.jpg", "one.png", "two digits.png"]
    assert (zero["digit"], one["digit"]) == (0, 1)
    assert sum(zero["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert zero["notes"][0] == "dark on light: inverted"
    assert "wider than any training image: is it one digit?" in two["doubts"]
    assert sorted(path.name for path in seen.iterdir()) == ["one.png", "two digits.png", "zero.png"]
    assert Image.open(seen / "zero.png").size == (28, 28)


@pytest.mark.slow
def test_pictures_of_any_size_are_read_as_the_model_was_trained_on_them(run, work: Path) -> None:
    rng = np.random.default_rng(0)
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (work / "pictures" / name).mkdir(parents=True)
        for i in range(24):
            size = 40 + int(rng.integers(30)), 50
            noise = rng.integers(-25, 26, (size[1], size[0], 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(work / "pictures" / name / f"{i}.jpg", quality=95)
    done = run(
        work, "data=folder", "data.path=pictures", "data.image_size=[16,24]", "data.resize=pad", "model.units=16",
        "training.epochs=15", "training.batch_size=8", "name=colours", "workers.count=1", published=True,
        XDG_CACHE_HOME=str(work / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "open a picture and see what the model predicts" in done.stdout
    Image.new("RGB", (900, 300), (200, 20, 40)).save(work / "rose.png")
    predicted = run(
        work, "predict", "colours", "rose.png", "pictures/blue/0.jpg", "--save-input", "seen", "--format=json"
    )
    assert predicted.returncode == 0, predicted.stderr
    output = json.loads(predicted.stdout)
    assert output["model"]["classes"] == ["blue", "red"]
    assert [one["class"] for one in output["predictions"]] == ["red", "blue"]
    assert output["predictions"][0]["notes"] == ["padded and scaled from 900 × 300 to 24 × 16"]
    seen = np.asarray(Image.open(work / "seen" / "rose.png"))
    assert seen.shape == (16, 24, 3)
    assert seen[0].max() == 0
    assert "confusion_matrix.png" in {path.name for path in work.glob("mlruns/**/*.png")}
