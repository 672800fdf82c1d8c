"""Plotting and counting the images of a data set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from example_tables import mixed
from PIL import Image

from mnist_sweep.cli.main import main
from mnist_sweep.cli.show_data import show_data
from mnist_sweep.common.errors import UserError


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data set in the working directory: 30 images of two alternating classes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    labels = np.arange(30) % 2
    x = rng.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=labels, x_test=x[:5], y_test=labels[:5])
    return tmp_path / "own.npz"


def test_a_users_data_set_is_plotted_and_counted(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = "tensorflow" in sys.modules
    with pytest.raises(SystemExit) as end:
        main(["show-data", "data=npz", "data.path=own.npz", "model.units=16,64"])
    assert end.value.code == 0
    assert own.with_name("data.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for text in ("npz, from own.npz", "30 training and 5 test images of 5x4x3", "2 classes", "plotted in data.png"):
        assert text in printed
    assert [line.split() for line in printed.splitlines() if line.lstrip()[:1] in "01" and line.strip()] == [
        ["0", "15", "3"], ["1", "15", "2"],
    ]  # fmt: skip
    assert ("tensorflow" in sys.modules) == before


def test_an_earlier_plot_is_replaced(own: Path) -> None:
    for _ in range(2):
        show_data(["data=npz", f"data.path={own}"])
    assert b"mnist_sweep show-data" in own.with_name("data.png").read_bytes()


@pytest.mark.parametrize("kind", ["photo", "text", "broken link", "pipe", "folder"])
def test_another_file_called_data_png_is_not_replaced(
    own: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = own.with_name("data.png")
    if kind == "photo":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(mine)
    elif kind == "text":
        mine.write_text("tEXtSoftware\0mnist_sweep show-data")
    elif kind == "pipe":
        os.mkfifo(mine)
    elif kind == "folder":
        mine.mkdir()
    else:
        mine.symlink_to("nowhere.png")

    def state() -> tuple[int, ...]:
        found = mine.lstat()
        return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns

    before = state()
    with pytest.raises(SystemExit) as end:
        main(["show-data", "data=npz", "data.path=own.npz"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "mnist_sweep: show-data: data.png was not written by show-data, and would be replaced; "
        "name another file with --to=FILE\n"
    )
    assert state() == before
    if kind == "photo":
        show_data(["data=npz", f"data.path={own}"], mine)
        assert state() != before


def test_images_of_every_class_are_plotted_even_if_they_are_sorted(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(own) as arrays:
        order = np.argsort(arrays["y_train"], kind="stable")
        changed = {**arrays, "x_train": arrays["x_train"][order], "y_train": np.repeat([0, 1], [28, 2])}
    np.savez(own, **changed)
    drawn = []
    from mnist_sweep.results import plots

    real = plots.digits_and_classes

    def seen(images, labels, **more):
        drawn.append((images, labels))
        return real(images, labels, **more)

    monkeypatch.setattr(plots, "digits_and_classes", seen)
    show_data(["data=npz", f"data.path={own}"], own.with_name("look.pdf"))
    ((images, labels),) = drawn
    assert labels[:6].tolist() == [0, 1, 0, 1, 0, 0]
    assert (images[1] == changed["x_train"][28]).all()
    assert own.with_name("look.pdf").read_bytes().startswith(b"%PDF")
    assert "the first training images of each class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=npz"], "data.path: a value is required; give data.path="),
        (["data=npz", "data.path=own.npz", "--to", "no/where.png"], "--to=no/where.png: cannot be written (No such"),
        (["data=npz", "data.path=own.npz", "--to", "data.xyz"], "--to=data.xyz: cannot be written (Format 'xyz'"),
    ],
)
def test_errors_are_reported_in_one_line(own: Path, arguments, message, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["show-data", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_columns_of_a_table_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed().to_csv("shop.csv", index=False)
    show_data(["data=table", "data.path=shop.csv", "data.target=bought", "data.text=[review]"])
    output = capsys.readouterr().out
    assert "160 for training and validation, 40 for testing" in output
    assert "predicts one of 2 classes: no, yes" in output
    cells = [line.split() for line in output.splitlines() if line.startswith(" ") and line.strip()]
    rows = {name: " ".join(rest) for name, *rest in cells}
    assert rows["seen"].startswith("date 2024-01-")
    assert rows["city"].startswith("category 4 categories 1")
    assert rows["review"] == "text 7 words"
    assert not list(tmp_path.glob("*.png"))
    with pytest.raises(UserError, match="--to=it.png: only images in classes are plotted"):
        show_data(["data=table", "data.path=shop.csv", "data.target=bought", "data.text=[review]"], Path("it.png"))


@pytest.mark.parametrize(
    ("targets", "task", "lines"),
    [
        (np.arange(20) / 10, "auto", ["target training test", "0 0 to 1.9 0 to 0.4", "1 target"]),
        (np.stack([np.arange(20) % 2, np.ones(20)], axis=1), "multilabel", ["0 10 2", "1 20 5", "2 labels"]),
        (np.where(np.arange(20) % 2, "cat", "dog"), "auto", ["cat 10 2", "dog 10 3", "2 classes"]),
    ],
)
def test_inputs_and_targets_of_other_arrays_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], targets, task, lines
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.arange(60, dtype=np.float32).reshape(20, 3) - 1
    np.savez("own.npz", x_train=x, y_train=targets, x_test=x[:5], y_test=targets[:5])
    show_data(["data=npz", "data.path=own.npz", f"task={task}"])
    found = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "x array 3 -1 to 58" in found
    assert set(lines) <= set(found)
