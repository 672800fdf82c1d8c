"""Writing and removing files."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnist_sweep
from mnist_sweep.common import files

PACKAGE = Path(mnist_sweep.__file__).parent
# Methods of paths and functions of os and shutil that remove, rename or overwrite a file or a folder.
DESTRUCTIVE = {
    *("unlink", "rmdir", "rmtree", "remove", "removedirs", "renames", "touch", "truncate"),
    *("write_text", "write_bytes", "move", "copy", "copy2", "copyfile", "copytree", "symlink_to", "hardlink_to"),
}
# Who else may, and why it is no file of a user's.
ALLOWED = {
    "common/files.py": "the one place",
    "data/loader.py:open": "what its process prints, in a temporary folder",
    "journal/folders.py:touch": "the lock, with exist_ok=False, by which a folder is taken",
    "results/models/model_run.py:open": "the null device",
    "results/models/predict_rows.py:open": "the temporary file of `write_whole`",
    "tracking/files.py:copyfile": "into the temporary file of `write_whole`",
}


def destructive(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name in DESTRUCTIVE and (_is_of_os(of) or name not in ("remove", "copy", "move")):
            # Lists and arrays have methods with these names too.
            yield node.lineno, name
        elif name in ("replace", "rename") and (len(node.args) == 1 or _is_of_os(of)) and not node.keywords:
            # Methods of a path; those of text have two arguments, those of data frames and dataclasses keywords.
            yield node.lineno, name
        elif name == "open" and any(set(mode) & set("w+") for mode in _modes(node)):
            yield node.lineno, "open"


def _modes(call: ast.Call) -> list[str]:
    given = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [arg.value for arg in given if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return [text for text in texts if len(text) <= 3 and set(text) <= set("rwaxbt+")]


def _is_of_os(of: ast.expr | None) -> bool:
    return isinstance(of, ast.Name) and of.id in ("os", "shutil")


def found() -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)}:{line}:{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name in destructive(path.read_text(encoding="utf-8"))
    ]


def test_nothing_else_in_the_package_removes_renames_or_overwrites_a_file() -> None:
    others = [
        place
        for place in found()
        if place.split(":")[0] not in ALLOWED and f"{place.split(':')[0]}:{place.split(':')[2]}" not in ALLOWED
    ]
    assert others == []


@pytest.mark.parametrize(
    "code",
    [
        *("path.unlink()", "os.remove(x)", "shutil.rmtree(x)", "a.replace(b)", "p.write_text('')", "open(p, 'w')"),
        *("p.open('wb')", "open(p, mode='r+')", "rmtree(x)", "os.rename(a, b)", "p.rmdir()"),
    ],
)
def test_the_code_check_finds_destructive_calls(code: str) -> None:
    assert list(destructive(code))


@pytest.mark.parametrize(
    "code", ["a.replace('x', 'y')", "replace(a, b=1)", "open(p)", "items.remove(x)", "open(p, 'x')", "open(p, 'ab')"]
)
def test_the_code_check_accepts_harmless_calls(code: str) -> None:
    assert not list(destructive(code))


class TestWriteWhole:
    def test_renames_a_file_when_it_is_complete(self, tmp_path: Path) -> None:
        for content in ("größe", "größe".encode(), lambda path: path.write_text("größe", encoding="utf-8")):
            files.write_whole(tmp_path / "a.txt", content)
            assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "größe"
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_keeps_the_old_file_if_writing_fails(self, tmp_path: Path) -> None:
        def fail(path: Path) -> None:
            path.write_text("half")
            raise OSError(28, "No space left on device")

        (tmp_path / "a.txt").write_text("old")
        with pytest.raises(OSError, match="No space left"):
            files.write_whole(tmp_path / "a.txt", fail)
        assert (tmp_path / "a.txt").read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_does_not_touch_files_with_similar_names(self, tmp_path: Path) -> None:
        (tmp_path / "partial-a.txt").write_text("mine")
        files.write_whole(tmp_path / "a.txt", "new")
        assert (tmp_path / "partial-a.txt").read_text() == "mine"

    def test_replaces_the_target_of_a_link_not_the_link(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        files.write_whole(tmp_path / "link", "new", follow=True)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_text() == "new"

    def test_writes_to_a_device_without_replacing_it(self, tmp_path: Path) -> None:
        files.write_whole(Path("/dev/null"), "nothing", follow=True)
        assert Path("/dev/null").is_char_device()
        with pytest.raises(OSError, match="it is not a regular file"):
            files.write_whole(Path("/dev/null"), lambda path: path.write_text(""), follow=True)

    def test_names_the_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        def fail(_: Path) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left on device") as caught:
            files.write_whole(tmp_path / "a.txt", fail)
        assert caught.value.filename == str(tmp_path / "a.txt")


class TestRemovingAFolder:
    def test_removes_only_the_named_files(self, tmp_path: Path) -> None:
        for name in ("a.npy", "b.npy", "mine.txt"):
            (tmp_path / "arrays").mkdir(exist_ok=True)
            (tmp_path / "arrays" / name).touch()
        assert not files.remove_folder(tmp_path / "arrays", ("*.npy",))
        assert os.listdir(tmp_path / "arrays") == ["mine.txt"]
        assert files.remove_folder(tmp_path / "arrays", ("mine.txt",))
        assert files.remove_folder(tmp_path / "arrays", ("*",))

    def test_does_not_follow_links(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.npy").touch()
        (tmp_path / "arrays").symlink_to(tmp_path / "data")
        assert not files.remove_folder(tmp_path / "arrays", ("*",))
        assert (tmp_path / "data" / "a.npy").exists()

    def test_does_not_remove_folders_inside_it(self, tmp_path: Path) -> None:
        (tmp_path / "arrays" / "mine").mkdir(parents=True)
        assert not files.remove_folder(tmp_path / "arrays", ("*",))
        assert (tmp_path / "arrays" / "mine").is_dir()


class TestInASweepsFolder:
    def test_a_link_is_replaced_not_its_target(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("mine")
        (tmp_path / "config.yaml").symlink_to(tmp_path / "precious")
        files.write_whole(tmp_path / "config.yaml", "new")
        assert (tmp_path / "precious").read_text() == "mine"
        assert not (tmp_path / "config.yaml").is_symlink()

    def test_a_folder_that_is_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "arrays").symlink_to(tmp_path / "data")
        with pytest.raises(OSError, match="it is a link, not a folder"):
            files.make_folder(tmp_path / "arrays")
        files.make_folder(tmp_path / "data")

    @pytest.mark.parametrize("kind", ["pipe", "link", "dangling", "folder"])
    def test_a_log_that_is_not_a_regular_file_is_refused_at_once(self, tmp_path: Path, kind: str) -> None:
        log, precious = tmp_path / "driver.log", tmp_path / "precious"
        if kind == "pipe":
            os.mkfifo(log)
        elif kind == "folder":
            log.mkdir()
        else:
            log.symlink_to(precious)
        if kind == "link":
            precious.touch()
        with pytest.raises(OSError, match="it is not a regular file"):
            files.break_hard_links(log)
        assert precious.exists() == (kind == "link")
