"""What an export leaves in its folder, and which formats there are; the models themselves are tests/training's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.errors import UserError
from mnist_sweep.results import export, formats
from mnist_sweep.results.converting import Checked


@pytest.fixture(autouse=True)
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the right names in place of models."""

    def convert(tracked: Any, config: Any, wanted: list[formats.Format], source: Path, target: Path) -> list[Checked]:
        for format in wanted:
            path = target / format.file
            if format.name == "savedmodel":
                (path / "variables").mkdir(parents=True)
                path /= "variables/index"
            path.write_text(f"{format.name} of trial {tracked.trial}")
        about = {"float32": 0.9375, "int8": 0.9125, "loss": 0.025, "images": "80 images", "calibration": "9 images"}
        return [
            Checked(format, target / format.file, 1e-7, format.tolerance, 0.0015, {} if format.tolerance else about)
            for format in wanted
        ]

    monkeypatch.setattr(export, "convert", convert)


def exported(sweep: str, wanted: str, to: Path) -> dict[str, Any]:
    export.export(sweep, None, to, [formats.FORMATS[name] for name in wanted.split(",")])
    manifest: dict[str, Any] = json.loads((to / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(p.name for p in to.iterdir() if p.name != "manifest.json")
    return manifest


def test_the_manifest_tells_what_each_file_is_and_how_it_is_used(project, new: str, tmp_path: Path, capsys) -> None:
    manifest = exported(new, "keras,savedmodel,tflite-int8", tmp_path)
    assert manifest["trial"] == 1
    assert manifest["scores"]["test_accuracy"] == 0.8125
    assert "0..255" in manifest["input"]
    keras, folder, int8 = manifest["files"].values()
    assert keras["bytes"] == len("keras of trial 1")
    assert keras["largest_difference"] == 1e-7
    assert keras["allowed_difference"] == 1e-5
    assert keras["use"][-1] == "probabilities = model(images, training=False)"
    assert list(folder["sha256"]) == ["variables/index"]
    assert int8["accuracy"]["loss"] == 0.025
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"exported trial 1 of {new} to {tmp_path}"
    assert next(line for line in lines if "int8" in line).split()[1:] == [
        "22", "B", "1.0e-07", "1.5", "ms", "0.9375", "→", "0.9125",
    ]  # fmt: skip


def test_formats_of_the_same_model_are_added_and_replaced(project, new: str, tmp_path: Path) -> None:
    exported(new, "h5,savedmodel", tmp_path)
    (tmp_path / "savedmodel" / "stale").touch()
    manifest = exported(new, "tflite,savedmodel", tmp_path)
    assert list(manifest["files"]) == ["model.h5", "savedmodel", "model.tflite"]
    assert not (tmp_path / "savedmodel" / "stale").exists()


def test_files_of_another_model_do_not_stay_beside_a_new_one(project, old: str, new: str, tmp_path: Path) -> None:
    exported(old, "h5,savedmodel", tmp_path)
    assert list(exported(new, "tflite", tmp_path)["files"]) == ["model.tflite"]


def test_nothing_else_in_the_folder_is_touched(project, old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"run_id": "1", "files": {"../mine": {}, "notes.txt": {}}}))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model.onnx").touch()
    export.export(new, None, tmp_path, [formats.FORMATS["h5"]])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "model.h5", "model.onnx", "notes.txt"]


def test_a_model_of_the_users_own_is_imported_before_keras_loads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.touch()
    about = export._about(Checked(formats.FORMATS["keras"], path, 0.0, 1e-5, 0.1), {"builder": "mine.models:build"})
    assert about["use"][0].startswith("import mine.models  #")


@pytest.mark.parametrize("name", ["model.keras", "savedmodel"])
def test_what_no_export_wrote_is_not_replaced(project, new: str, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / "mine.txt" if name == "savedmodel" else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("of years")
    with pytest.raises(UserError, match=f": holds {name}, which no export wrote; give another folder"):
        exported(new, "h5,keras,savedmodel", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "of years"


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("h5,tflit", "--format=tflit: there is no such format; did you mean 'tflite'?"),
        (" ,", "--format= ,: name at least one of h5, keras, savedmodel, tflite, tflite-int8, onnx"),
    ],
)
def test_formats_that_do_not_exist_are_refused(written: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        formats.chosen(written)
    assert str(error.value) == complaint


def test_formats_come_once_and_in_an_order_of_their_own() -> None:
    assert [f.name for f in formats.chosen("TFLite, h5,tflite,savedmodel")] == ["h5", "savedmodel", "tflite"]


def test_a_missing_extra_is_told_before_anything_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda package: None if package == "tf2onnx" else object())
    with pytest.raises(UserError, match=r"^--format=onnx: needs tf2onnx; pip install onnx onnxruntime tf2onnx$"):
        formats.chosen("h5,onnx")
