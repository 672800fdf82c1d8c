"""What an export writes to its folder, and the formats. tests/training tests the models themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.schema import Input, Schema, Target
from mnist_sweep.results.models import export, formats
from mnist_sweep.results.models.conversion import Checked
from mnist_sweep.results.models.purpose import Purpose


@pytest.fixture(autouse=True)
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes files with the right names instead of models."""

    def convert(run: Any, config: Any, wanted: list[formats.Format], source: Path, target: Path) -> list[Checked]:
        for format in wanted:
            path = target / format.file
            if format.name == "savedmodel":
                (path / "variables").mkdir(parents=True)
                path /= "variables/index"
            path.write_text(f"{format.name} of trial {run.trial}")
        about = {"float32": 0.9375, "int8": 0.9125, "loss": 0.025, "images": "80 images", "calibration": "9 images"}
        return [
            Checked(format, target / format.file, 1e-7, format.tolerance, 0.0015, {} if format.tolerance else about)
            for format in wanted
        ]

    monkeypatch.setattr(export, "convert", convert)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def exported(sweep: str, wanted: str, to: Path) -> dict[str, Any]:
    export.export(sweep, None, None, to, [formats.FORMATS[name] for name in wanted.split(",")])
    manifest: dict[str, Any] = json.loads((to / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(p.name for p in to.iterdir() if p.name != "manifest.json")
    return manifest


def test_the_manifest_describes_each_file_and_how_to_use_it(project, new: str, tmp_path: Path, capsys) -> None:
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


UNITS = "as in the training data: predictions are not scaled"


@pytest.mark.parametrize(
    ("task", "target", "column", "told", "output"),
    [
        (
            "classification",
            Target("classes", 3, ("a", "b", "c")),
            "species",
            {"task": "classification", "classes": ["a", "b", "c"], "column": "species"},
            "float32, the probability of each class: a, b, c, shape (N, 3)",
        ),
        (
            "binary",
            Target("classes", 2, ("no", "yes")),
            "",
            {"task": "binary", "classes": ["no", "yes"]},
            "float32, the probability of the second class, yes, shape (N, 1)",
        ),
        (
            "multilabel",
            Target("labels", 12),
            "",
            {"task": "multilabel", "labels": [str(i) for i in range(12)]},
            "float32, the probability of each label: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 … as in target, shape (N, 12)",
        ),
        (
            "regression",
            Target("numbers", 1, ("price",)),
            "",
            {
                "task": "regression",
                "numbers": ["price"],
                "units": "as in the training data: predictions are not scaled",
            },
            "float32, price, in the units of the training data, shape (N, 1)",
        ),
    ],
)
def test_the_manifest_names_what_is_predicted(project, new, tmp_path, monkeypatch, task, target, column, told, output):
    purpose = Purpose(Schema({"x": Input("image", (4, 4, 1))}, target), task, column, "pad")
    monkeypatch.setattr(export, "purpose_of", lambda *_: purpose)
    manifest = exported(new, "keras", tmp_path)
    assert (manifest["target"], manifest["output"]) == (told, output)
    assert manifest["input"].endswith("; a picture is padded with black to fit")


def test_formats_of_the_same_model_are_added_and_replaced(project, new: str, tmp_path: Path) -> None:
    exported(new, "h5,savedmodel", tmp_path)
    (tmp_path / "savedmodel" / "variables" / "index").write_text("of an earlier export")
    manifest = exported(new, "tflite,savedmodel", tmp_path)
    assert list(manifest["files"]) == ["model.h5", "savedmodel", "model.tflite"]
    assert (tmp_path / "savedmodel" / "variables" / "index").read_text() == "savedmodel of trial 1"


@pytest.mark.parametrize("mine", ["notes.txt", "variables/notes.txt", "own/notes.txt", "link"])
@pytest.mark.parametrize("again", ["same", "other"])
def test_a_folder_of_an_earlier_export_with_other_files_is_refused(
    project, old: str, new: str, tmp_path: Path, mine: str, again: str
) -> None:
    exported(new, "h5,savedmodel", tmp_path)
    path = tmp_path / "savedmodel" / mine
    path.parent.mkdir(exist_ok=True)
    if mine == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(
        UserError, match=f": contains savedmodel/{mine}, which export did not write; give another folder"
    ):
        exported(new if again == "same" else old, "savedmodel" if again == "same" else "h5", tmp_path)
    assert tree(tmp_path) == before


def test_a_folder_that_is_not_replaced_may_have_other_files(project, new: str, tmp_path: Path) -> None:
    exported(new, "h5,savedmodel", tmp_path)
    (tmp_path / "savedmodel" / "notes.txt").write_text("years of work")
    assert list(exported(new, "h5,keras", tmp_path)["files"]) == ["model.h5", "model.keras", "savedmodel"]


def test_empty_folders_of_an_earlier_export_are_removed_with_it(project, old: str, new: str, tmp_path: Path) -> None:
    exported(old, "savedmodel", tmp_path)
    (tmp_path / "savedmodel" / "assets").mkdir()
    exported(new, "h5", tmp_path)
    assert not (tmp_path / "savedmodel").exists()


def test_files_of_another_model_are_removed(project, old: str, new: str, tmp_path: Path) -> None:
    exported(old, "h5,savedmodel", tmp_path)
    assert list(exported(new, "tflite", tmp_path)["files"]) == ["model.tflite"]


def test_other_files_in_the_folder_are_left_alone(project, old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model.onnx").touch()
    export.export(new, None, None, tmp_path, [formats.FORMATS["h5"]])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "model.h5", "model.onnx", "notes.txt"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"name": "My web app", "icons": []}',
        b'{"run_id": "1", "files": {"../mine": {}, "notes.txt": {}}}',
        b'{"sweep": "a/b", "run_id": "1", "files": {"../mine": {"sha256": "0"}}}',
        b'{"sweep": "a/b", "run_id": "1", "files": {"savedmodel": {}}}',
        b"[" * 100_000,
        b" " * 11_000_000,
    ],
    ids=lambda content: content[:40].decode(errors="replace").strip() or f"{len(content)} spaces",
)
def test_a_manifest_that_no_export_wrote_is_not_replaced(project, new: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    (tmp_path / "savedmodel").mkdir()
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r": contains manifest\.json, which export did not write; give another folder$"):
        exported(new, "h5", tmp_path)
    assert tree(tmp_path) == before


def test_a_pipe_in_place_of_a_manifest_does_not_hang(project, new: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(UserError, match="which export did not write"):
        exported(new, "h5", tmp_path)


def test_the_code_of_a_custom_model_is_imported_before_keras_loads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.touch()
    about = export._about(Checked(formats.FORMATS["keras"], path, 0.0, 1e-5, 0.1), {"builder": "mine.models:build"})
    assert about["use"][0].startswith("import mine.models  #")


@pytest.mark.parametrize("name", ["model.keras", "savedmodel"])
def test_files_that_no_export_wrote_are_not_replaced(project, new: str, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / "mine.txt" if name == "savedmodel" else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("years of work")
    with pytest.raises(UserError, match=f": contains {name}, which export did not write; give another folder"):
        exported(new, "h5,keras,savedmodel", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "years of work"


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("h5,tflit", "--format=tflit: no such format; did you mean 'tflite'?"),
        (" ,", "--format= ,: name at least one of h5, keras, savedmodel, tflite, tflite-int8, onnx"),
    ],
)
def test_formats_that_do_not_exist_are_refused(written: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        formats.chosen(written)
    assert str(error.value) == complaint


def test_each_format_comes_once_and_in_a_fixed_order() -> None:
    assert [f.name for f in formats.chosen("TFLite, h5,tflite,savedmodel")] == ["h5", "savedmodel", "tflite"]


def test_a_missing_package_is_reported_before_anything_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda package: None if package == "tf2onnx" else object())
    with pytest.raises(UserError, match="python -m pip install onnx onnxruntime tf2onnx$"):
        formats.chosen("h5,onnx")
