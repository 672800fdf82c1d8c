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
