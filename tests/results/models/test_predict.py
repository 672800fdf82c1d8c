"""What `predict` prints. The model is faked, so that TensorFlow is not needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_sweep.cli.main import main
from mnist_sweep.common.errors import UserError
from mnist_sweep.data import images as data
from mnist_sweep.data.profile import measure
from mnist_sweep.results.models import predict
from mnist_sweep.results.models.preprocessing import Prepared


class Model:
    """The best model of a sweep, whose run has some artifacts."""

    sweep, trial = "quick/2025-01-01_10-00-00", 3
    run = SimpleNamespace(
        info=SimpleNamespace(run_id="abc"), data=SimpleNamespace(tags={"data.image": "28x28x1", "data.classes": "10"})
    )

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts

    def on_the_same_data(self) -> list[Any]:
        return []

    def config(self, folder: Path, groups: Any) -> dict[str, Any]:
        return {}

    def what(self, name: str) -> str:
        return name

    def fetch(self, name: str, folder: Path) -> Path:
        if not (self.artifacts / name).exists():
            raise UserError(f"no artifact {name}")
        return self.artifacts / name


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that reads everything as a 4, or perhaps a 9."""
    model = Model(tmp_path / "artifacts")
    model.artifacts.mkdir()

    def predicted(model: Any, found: dict[Path, Prepared], folder: Path) -> np.ndarray:
        answer = np.where(np.arange(10) == 4, 0.8, np.where(np.arange(10) == 9, 0.2, 0))
        return np.tile(answer, (len(found), 1))

    monkeypatch.setattr(predict, "find_trial", lambda what, trial, uri: model)
    monkeypatch.setattr(predict, "_predicted", predicted)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.fixture
def image_files(model: Model, digits: Path) -> data.Images:
    """`a/four.png`, another `b/four.png`, and `blank.png`, in the working directory."""
    loaded = data.load("mnist", str(digits))
    for folder, number in (("a", 80), ("b", 81)):
        Path(folder).mkdir()
        Image.fromarray(loaded.x_test[number, ..., 0]).save(f"{folder}/four.png")
    Image.new("L", (90, 90), 200).save("blank.png")
    return loaded


def run_predict(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["predict", *arguments])
    return (end.value.code, *capsys.readouterr())


def test_a_row_has_the_digit_its_probability_the_second_and_remarks(model, image_files, capsys) -> None:
    measure(image_files.x_train, image_files.y_train).save(model.artifacts / "data_profile.npz")
    code, printed, errors = run_predict(capsys, "a/four.png", "blank.png")
    assert (code, errors) == (0, "")
    rows = [line.split() for line in printed.splitlines() if ".png" in line]
    assert rows[0][:5] == ["a/four.png", "4", "0.8000", "9", "(0.2000)"]
    assert rows[1] == ["blank.png", "?", "nothing", "is", "drawn"]
    assert "cannot be judged" not in printed


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_without_a_profile_images_are_read_and_likeness_is_not_judged(model, image_files, capsys, damage) -> None:
    if damage == "damaged":
        (model.artifacts / "data_profile.npz").write_bytes(b"PK no archive")
    light = 255 - image_files.x_train[:64]
    np.savez(model.artifacts / "sample_predictions.npz", images=light)
    code, printed, _ = run_predict(capsys, "a/four.png", "--save-input", "seen")
    assert code == 0
    assert "Whether an image looks like the training images cannot be judged" in printed
    # The sample of training images shows that they are dark on light.
    assert np.asarray(Image.open("seen/four.png"))[0, 0] == 255


def test_what_the_model_saw_is_saved_under_unique_names(model, image_files, capsys) -> None:
    code, _, _ = run_predict(capsys, "a/four.png", "--save-input", "seen", "b/four.png")
    assert code == 0
    assert sorted(path.name for path in Path("seen").iterdir()) == ["four-2.png", "four.png"]
    assert run_predict(capsys, "a/four.png", "--save-input", "blank.png")[2].startswith(
        "mnist_sweep: --save-input=blank.png: "
    )


def test_if_no_image_can_be_read_no_model_is_loaded(model, image_files, capsys) -> None:
    code, printed, errors = run_predict(capsys, "gone.png", "a")
    assert (code, printed) == (2, "")
    assert [line.split(":")[1] for line in errors.splitlines()] == [" gone.png", " a"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a/four.png"], (None, None)),
        (["quick", "a/four.png"], ("quick", None)),
        (["quick/2026-11-28_04-49-18", "3", "a/four.png"], ("quick/2026-11-28_04-49-18", 3)),
        (["models:/quick@champion", "a/four.png"], ("models:/quick@champion", None)),
        (["a/four.png", "--model", "quick", "--trial", "3"], ("quick", 3)),
        (["a/four.png", "--trial", "3"], (None, 3)),
    ],
)
def test_a_sweep_and_a_trial_may_precede_the_images(model, image_files, capsys, monkeypatch, given, expected) -> None:
    taken = []
    monkeypatch.setattr(predict, "find_trial", lambda what, trial, uri: taken.append((what, trial)) or model)
    assert run_predict(capsys, *given)[0] == 0
    assert taken == [expected]


def test_a_sweep_without_images_is_refused(model, capsys) -> None:
    message = "mnist_sweep: predict: name at least one file: a picture, a table or an .npz file\n"
    assert run_predict(capsys, "quick", "3")[2] == message
