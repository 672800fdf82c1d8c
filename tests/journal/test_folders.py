"""Which folder a sweep claims, and that nothing in it is removed except what a sweep made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import PARTIAL
from mnist_sweep.journal import files, folders
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.files import FILE, LOCK
from mnist_sweep.journal.journal import Journal


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def begin(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder) as journal:
        journal.handle(SweepStarted(1.0, "a/b", {}, {}, {}, {}))


class TestClaiming:
    def test_a_new_folder_and_its_new_parents_are_created_and_removed_again(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        claim = folders.claim(tmp_path / "there" / "a" / "b")
        assert claim.folder == tmp_path / "there" / "a" / "b"
        claim.give_up()
        assert tree(tmp_path) == {"there"}

    def test_an_empty_folder_that_existed_before_stays(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        folders.claim(tmp_path / "empty").give_up()
        assert tree(tmp_path) == {"empty"}

    @pytest.mark.parametrize(
        "name", ["thesis.tex", "sub/x", ".hidden", "lock", "config.yaml", "driver.log", ".hydra/x"]
    )
    def test_a_folder_with_anything_in_it_is_refused_and_left_alone(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / "results" / name
        file.parent.mkdir(parents=True)
        file.write_text("a year of work")
        if name == "lock":
            # With other files next to it, a lock belongs to another program and not to a sweep.
            (file.parent / "data.csv").touch()
        before = tree(tmp_path)
        with pytest.raises(
            UserError, match=r"results: contains files that do not belong to a sweep \(.+\); name a folder"
        ):
            folders.claim(tmp_path / "results")
        assert tree(tmp_path) == before
        assert file.read_text() == "a year of work"

    def test_a_journal_of_another_program_is_not_mistaken_for_a_sweeps(self, tmp_path: Path) -> None:
        (tmp_path / FILE).write_text('{"day": 1}\n')
        with pytest.raises(UserError, match="contains files that do not belong to a sweep"):
            folders.claim(tmp_path)

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="is a file; name a folder that is new or empty"):
            folders.claim(tmp_path / "file")
        with pytest.raises(UserError, match="Not a directory"):
            folders.claim(tmp_path / "file" / "below")

    @pytest.mark.parametrize("state", ["begun", "without its lock", "emptied", "just taken"])
    def test_the_folder_of_another_sweep_is_not_shared(self, tmp_path: Path, state: str) -> None:
        wished = tmp_path / "now"
        if state == "just taken":
            folders.claim(wished)
        else:
            begin(wished)
        if state == "without its lock":
            (wished / LOCK).unlink()
        if state == "emptied":
            os.truncate(wished / FILE, 0)
        before = tree(wished)
        claim = folders.claim(wished)
        assert (claim.wished, claim.folder) == (wished, tmp_path / "now-2")
        claim.give_up()
        assert tree(tmp_path) == {"now", *(f"now/{name}" for name in before)}


class TestGivingUp:
    def test_only_what_a_sweep_writes_is_removed(self, tmp_path: Path) -> None:
        claim = folders.claim(tmp_path / "now")
        own = [
            "arrays/x_train.npy",
            f"arrays/{PARTIAL}y.npy",
            ".hydra/config.yaml",
            "driver.log",
            "workers/cpu0.log",
            FILE,
        ]
        others = ["arrays/mine.txt", ".hydra/mine.yaml", "workers/notes", "thesis.tex", "report.html"]
        for name in [*own, *others]:
            (claim.folder / name).parent.mkdir(exist_ok=True)
            (claim.folder / name).write_text("" if name == FILE else "x")
        claim.give_up()
        assert {name for name in tree(claim.folder) if (claim.folder / name).is_file()} == set(others)

    def test_a_sweep_that_has_started_stays(self, tmp_path: Path) -> None:
        claim = folders.claim(tmp_path / "now")
        begin(claim.folder)
        before = tree(tmp_path)
        claim.give_up()
        assert tree(tmp_path) == before

    def test_the_target_of_a_link_stays(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "x_train.npy").touch()
        claim = folders.claim(tmp_path / "now")
        (claim.folder / "arrays").symlink_to(tmp_path / "data")
        claim.give_up()
        assert (tmp_path / "data" / "x_train.npy").exists()


class TestNeverStarted:
    def test_are_the_sweeps_that_were_killed_before_their_first_event(self, tmp_path: Path) -> None:
        for name in ("killed", "begins now"):
            (tmp_path / name / "arrays").mkdir(parents=True)
            (tmp_path / name / "arrays" / "x_train.npy").touch()
        begin(tmp_path / "begun")
        (tmp_path / "not a sweep").mkdir()
        with Journal(tmp_path / "killed"), Journal(tmp_path / "begins now"):
            assert folders.never_started(tmp_path) == []
        with Journal(tmp_path / "begins now", resume=True):
            assert folders.never_started(tmp_path) == [tmp_path / "killed"]
        assert folders.never_started(tmp_path / "none") == []
        folders.discard(tmp_path / "killed")
        assert not (tmp_path / "killed").exists()

    def test_are_the_folders_claimed_long_ago_without_a_journal(self, tmp_path: Path) -> None:
        for name, age in (("long ago", 4000), ("just now", 0)):
            folders.claim(tmp_path / name)
            (tmp_path / name / files.LOG).touch()
            # What a sweep from Python carries is written before it starts.
            (tmp_path / name / files.DATA).touch()
            (tmp_path / name / files.CODE).mkdir()
            (tmp_path / name / files.CODE / "notebook_1a2b3c4d.py").touch()
            then = time.time() - age
            os.utime(tmp_path / name / LOCK, (then, then))
        assert folders.never_started(tmp_path) == [tmp_path / "long ago"]
        folders.discard(tmp_path / "long ago")
        assert not (tmp_path / "long ago").exists()

    @pytest.mark.parametrize("name", ["trials/0000/model.h5", "config.yaml", "report.html", "notes", "arrays/a/b.npy"])
    def test_is_not_a_sweep_whose_journal_was_emptied(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "x").mkdir()
        with Journal(tmp_path / "x"):
            pass
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).touch()
        assert folders.never_started(tmp_path) == []


def test_the_data_left_by_a_killed_driver_of_a_finished_sweep_is_removed(tmp_path: Path) -> None:
    for name in ("arrays/x_train.npy", "trials/0000/model.h5"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    folders.tidy(tmp_path)
    assert tree(tmp_path) == {"trials", "trials/0000", "trials/0000/model.h5"}


def test_a_misspelt_name_is_answered_with_the_one_that_is_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / folders.SWEEPS / "table" / "1")
    for given, hint in (("tabel", "; did you mean 'table'?"), ("cnn", "; write NAME, NAME/TIME or its folder")):
        with pytest.raises(UserError) as caught:
            folders.find(given, "resume")
        assert str(caught.value) == f"resume {given}: no such sweep in experiments/{hint}"


class TestRetraining:
    def test_the_folders_of_retrained_trials_are_not_those_of_sweeps(self, tmp_path: Path) -> None:
        begin(tmp_path / "quick" / "1")
        first = folders.retraining(tmp_path / "quick" / "1", 3)
        begin(first.folder)
        second = folders.retraining(tmp_path / "quick" / "1", 3)
        begin(second.folder)
        assert [claim.folder.name for claim in (first, second)] == ["retrained-3", "retrained-3-2"]
        # Of another sweep, only a retrained trial is here.
        begin(folders.retraining(tmp_path / "quick" / "2", 0).folder)
        assert folders.sweeps(tmp_path) == [tmp_path / "quick" / "1"]
        assert folders.sweeps(tmp_path / "quick" / "2") == []
        # Their own folder or name leads to them.
        assert folders.sweeps(second.folder) == [second.folder]
        assert folders.find(str(second.folder), "resume") == second.folder

    def test_one_that_never_started_leaves_nothing_and_a_killed_one_is_cleared_away(self, tmp_path: Path) -> None:
        begin(tmp_path / "1")
        before = tree(tmp_path)
        folders.retraining(tmp_path / "1", 3).give_up()
        assert tree(tmp_path) == before
        killed = folders.retraining(tmp_path / "1", 3).folder
        with Journal(killed):
            pass
        assert folders.retraining(tmp_path / "1", 3).folder == killed
