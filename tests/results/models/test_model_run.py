"""A run's model and files in MLflow, damaged ones among them. tests/training tests the models themselves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, cast

import made_up
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import digest_of
from mnist_sweep.driver import packaging
from mnist_sweep.results.models.model_run import ModelRun

CONFIG = "model: {kind: mlp}\ntraining: {backend: tensorflow}\n"


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "run3"
    folder.mkdir(parents=True)
    (folder / "model.h5").write_bytes(bytes(100_000))
    (folder / "sample_predictions.npz").write_bytes(b"")
    (folder / "config.yaml").write_text(CONFIG)
    (tmp_path / "here").mkdir()
    return folder


def model_run(artifacts: Path, digest: str = "") -> ModelRun:
    tags = {"mnist_sweep.sweep": "quick/now", "mnist_sweep.trial": "3", "data.name": "mnist_5k"}
    run = made_up.run("run3", {**tags, **({"mnist_sweep.model_sha256": digest} if digest else {})})
    return ModelRun(cast(Any, made_up.Files(artifacts.parent, run)), run)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 8
    path.write_bytes(raw)


def test_a_model_with_flipped_bits_is_neither_loaded_nor_packaged(artifacts: Path, tmp_path: Path) -> None:
    model = model_run(artifacts, digest_of(artifacts / "model.h5"))
    assert model.fetch_model(tmp_path / "here").read_bytes() == bytes(100_000)
    flip(artifacts / "model.h5")
    before = "tensorflow" in sys.modules
    for use in (model.load, lambda folder: model.load_quick(folder, (28, 28, 1)), model.fetch_model):
        with pytest.raises(UserError) as caught:
            use(tmp_path / "here")
        assert str(caught.value) == (
            "quick/now: model.h5 of trial 3 (run3): was changed or damaged since it was written; train it again with "
            "`python -m mnist_sweep rerun quick/now 3`, or take another trial"
        )
    with pytest.raises(UserError, match="was changed or damaged since it was written"):
        packaging.package(model, tmp_path / "here", threading.Event())
    assert ("tensorflow" in sys.modules) == before


def test_a_model_of_an_earlier_version_has_no_digest_and_is_not_checked(artifacts: Path, tmp_path: Path) -> None:
    flip(artifacts / "model.h5")
    assert model_run(artifacts).fetch_model(tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"- 1\n", "is not a trial's config"),
        (b"", "is not a trial's config"),
        (b"model: mlp\ntraining: {}\n", "is not a trial's config"),
        (b"model: {}\n", "is not a trial's config"),
        (b"model: {\n", "is not valid YAML ("),
        (b"model: caf\xe9\n", "is not UTF-8 text (byte 0xe9 at 10)"),
        (
            "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9 if i else 1}]\n" for i in range(12)).encode(),
            "has more than 50000",
        ),
        (b"x" * 2_000_000, "is larger than 1 MB"),
    ],
)
def test_a_damaged_config_is_reported_in_one_line(artifacts: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    (artifacts / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        model_run(artifacts).load(tmp_path / "here")
    assert str(caught.value).startswith(f"quick/now: config.yaml of trial 3 (run3): {reason}")
