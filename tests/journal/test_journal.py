"""The journal on the disk."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.journal import files, folders, journal
from mnist_sweep.journal.events import (
    KINDS,
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SettingsChanged,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SlotsChanged,
    SweepContinued,
    SweepEnded,
    SweepPaused,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialAsked,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
    WinnerTested,
)
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.tracking.uri import as_seen_from

OUTCOME = Outcome(Status.COMPLETED, "", 0.9, 1, {"val_accuracy": 0.9}, 10, 3.0)
STARTED = TrialStarted(3.0, Trial(0, {"model.units": 16}, {"model": {"units": 16}}, 2, inactive=["x"]), 1, "cpu0")
STORY: list[Event] = [
    SweepStarted(1.0, "mlp/now", {"name": "größe"}, {"model.units": "16, 64"}, {"name": "mnist"}, {"python": "3.12"}),
    TrialAsked(2.0, 0),
    STARTED,
    EpochEnded(4.0, 0, 1, 1, {"loss": 1 / 3}),
    AttemptFailed(5.0, 0, 1, "its worker\nwas killed by SIGKILL, größe"),
    SlotOpened(5.4, "gpu0.1", "gpu0 has trained one trial at a time so far"),
    SlotClosed(5.45, "gpu0.1", "a trial ran out of memory while it shared the GPU"),
    SlotLost(5.5, "gpu1", "cannot start"),
    TrialStopped(5.6, "ada@box", 17, 0),
    TrialAdded(5.6, "ada@box", 17, 1, {"model.units": 64}),
    SweepPaused(5.7, "ada@box", 17),
    SweepContinued(5.8, "ada@box", 17),
    SettingsChanged(5.8, "ada@box", 17, {"search.max_trials": None, "model.units": "choice(16, 32)"}),
    SlotsChanged(5.9, "ada@box", 17, 1),
    TrialEnded(6.0, 0, OUTCOME),
    ExecutionEnded(6.5, 0, 2, OUTCOME),
    TrialsRetried(6.7, [0]),
    Confirmed(6.8, [{"trial": 0, "scores": {"1001": 0.5}, "mean": 0.5, "std": 0.0}], 0, 1, 0.04),
    WinnerTested(7.0, 0, {"test_accuracy": 0.8}, [[1, 0], [0, 1]]),
    SweepEnded(8.0, Status.STOPPED, "stopped by Ctrl-C", 0),
    SweepResumed(9.0, {"name": "größe"}),
]


@pytest.fixture
def written(tmp_path):
    with Journal(tmp_path) as journal_:
        for event in STORY:
            journal_.handle(event)
    return tmp_path / files.FILE


def test_events_are_read_as_they_were_written(written):
    assert list(journal.read(written.parent)) == STORY
    assert {type(event) for event in STORY} == set(KINDS.values())


def test_each_event_is_one_line_of_json(written):
    lines = written.read_bytes().split(b"\n")
    assert [json.loads(line)["event"] for line in lines[:-1]] == [event.kind for event in STORY]
    assert lines[-1] == b""


def test_event_can_be_read_as_soon_as_it_is_handled(tmp_path):
    with Journal(tmp_path) as journal_:
        assert list(journal.read(tmp_path)) == []
        for count, event in enumerate(STORY, start=1):
            journal_.handle(event)
            assert list(journal.read(tmp_path)) == STORY[:count]


def test_torn_last_line_is_left_out_wherever_it_was_cut(written):
    whole = written.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        written.write_bytes(whole[:end])
        assert list(journal.read(written.parent)) == STORY[:-1]


def test_empty_journal_has_no_events(tmp_path):
    (tmp_path / files.FILE).touch()
    assert list(journal.read(tmp_path)) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"event": "trial_asked", "ti', "Unterminated string starting at: line 1 column 26 (char 25)"),
        (b'{"event": "coffee"}', "unknown event 'coffee'"),
        (b'{"event": "trial_asked"}', "trial_asked needs the fields ['time', 'trial']"),
        (b"17", "'int' object is not iterable"),
        (b"null", "'NoneType' object is not iterable"),
        (b"[]", "unknown event None"),
        (b'{"event": []}', None),
        (
            json.dumps({**json.loads(TrialEnded(1.0, 0, OUTCOME).to_json()), "outcome": {}}).encode(),
            "trial_ended.outcome.status: Field required",
        ),
        (json.dumps({**json.loads(STARTED.to_json()), "trial": {}}).encode(), None),
        (b"\xff\xfe", None),
    ],
)
@pytest.mark.parametrize("number", [1, 3, len(STORY)])
def test_damaged_line_is_refused_with_its_number(written, number, line, reason):
    lines = written.read_bytes().split(b"\n")
    lines[number - 1] = line
    written.write_bytes(b"\n".join(lines))
    events = journal.read(written.parent)
    assert [next(events) for _ in range(number - 1)] == STORY[: number - 1]
    with pytest.raises(UserError) as caught:
        next(events)
    assert str(caught.value).startswith(f"{written}: line {number} is damaged (")
    assert "\n" not in str(caught.value)
    if reason is not None:
        assert str(caught.value) == f"{written}: line {number} is damaged ({reason})"


def test_folder_without_a_journal_is_not_a_sweep(tmp_path):
    with pytest.raises(UserError) as caught:
        list(journal.read(tmp_path))
    assert str(caught.value) == f"{tmp_path}: contains no journal.jsonl, so it is not a sweep folder"


def test_second_journal_in_a_folder_is_refused_and_the_first_is_left_alone(written):
    before = written.read_bytes()
    with pytest.raises(UserError) as caught:
        Journal(written.parent)
    assert str(caught.value) == f"{written.parent}: already contains a sweep; choose another folder with hydra.run.dir"
    assert written.read_bytes() == before


def test_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError) as caught:
        Journal(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path}/none: cannot be written (No such file or directory)"


# ---- one process at a time, and going on ------------------------------------------------------------------------


def test_journal_that_is_open_cannot_be_opened_again(tmp_path):
    with Journal(tmp_path) as journal_:
        assert folders.is_running(tmp_path)
        for resume in (False, True):
            with pytest.raises(UserError) as caught:
                Journal(tmp_path, resume=resume)
            assert str(caught.value) == (
                f"{tmp_path}: this sweep is being run by process {os.getpid()} on {platform.node()}"
            )
        # The first continues undisturbed.
        journal_.handle(STORY[0])
    assert list(journal.read(tmp_path)) == STORY[:1]
    assert not folders.is_running(tmp_path)


_HOLDS = """
import sys, time
from pathlib import Path
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.events import TrialAsked
journal = Journal(Path(sys.argv[1]))
journal.handle(TrialAsked(1.0, 0))
print("open", flush=True)
time.sleep(60)
"""


def test_journal_of_a_killed_process_can_be_continued(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert folders.is_running(tmp_path)
        with pytest.raises(UserError) as caught:
            Journal(tmp_path, resume=True)
        assert str(caught.value) == (
            f"{tmp_path}: this sweep is being run by process {process.pid} on {platform.node()}"
        )
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert not folders.is_running(tmp_path)
    with Journal(tmp_path, resume=True) as journal_:
        journal_.handle(TrialAsked(2.0, 1))
    assert list(journal.read(tmp_path)) == [TrialAsked(1.0, 0), TrialAsked(2.0, 1)]


def test_continuing_appends_to_the_journal(written):
    before = written.read_bytes()
    with Journal(written.parent, resume=True) as journal_:
        journal_.handle(STORY[1])
    assert written.read_bytes().startswith(before)
    assert list(journal.read(written.parent)) == [*STORY, STORY[1]]


def test_continuing_after_a_torn_line_leaves_no_damage(written):
    whole = written.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in (start, start + 1, len(whole) - 1):
        written.write_bytes(whole[:cut])
        with Journal(written.parent, resume=True) as journal_:
            journal_.handle(STORY[2])
        assert list(journal.read(written.parent)) == [*STORY[:-1], STORY[2]]


def test_folder_without_a_sweep_is_not_running(tmp_path):
    assert not folders.is_running(tmp_path)
    assert not folders.is_running(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_reported_and_earlier_events_stay_intact(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / files.FILE
    with Journal(tmp_path) as journal_:
        journal_.handle(STORY[0])
        whole = path.read_bytes()
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            with pytest.raises(MachineError) as caught:
                journal_.handle(STORY[1])
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
        # There is room again, but what the disk has of the failed line is anybody's guess.
        with pytest.raises(MachineError):
            journal_.handle(STORY[2])
    assert path.read_bytes() == whole
    with Journal(tmp_path, resume=True) as journal_:
        journal_.handle(STORY[1])
    assert list(journal.read(tmp_path)) == STORY[:2]


@pytest.mark.parametrize("written", [0, 1, 30])
def test_nothing_is_appended_to_a_line_that_a_full_disk_has_torn(tmp_path, monkeypatch, written):
    write = os.write

    def torn(file: int, content: memoryview) -> int:
        if written:
            write(file, content[:written])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(tmp_path) as journal_:
        journal_.handle(STORY[0])
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", torn)
            # Not even the torn half can be cut off.
            disk.setattr(os, "ftruncate", mock.Mock(side_effect=OSError(errno.EIO, "")))
            with pytest.raises(MachineError):
                journal_.handle(STORY[1])
    assert list(journal.read(tmp_path)) == STORY[:1]
    with Journal(tmp_path, resume=True) as journal_:
        journal_.handle(STORY[2])
    assert list(journal.read(tmp_path)) == [STORY[0], STORY[2]]


def test_a_folder_that_was_deleted_is_noticed(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    with Journal(folder) as journal_:
        journal_.handle(STORY[0])
        shutil.rmtree(folder)
        with pytest.raises(MachineError, match="was moved, deleted or replaced"):
            journal_.handle(STORY[1])


def test_a_journal_shared_with_a_hard_linked_copy_is_copied(written, tmp_path):
    before = written.read_bytes()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / files.FILE).hardlink_to(written)
    with Journal(tmp_path / "copy", resume=True) as journal_:
        journal_.handle(STORY[1])
    assert written.read_bytes() == before
    assert list(journal.read(tmp_path / "copy")) == [*STORY, STORY[1]]


def test_a_lock_shared_with_a_hard_linked_copy_is_replaced(written, tmp_path):
    original = tmp_path / files.LOCK
    before = original.read_bytes()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / files.LOCK).hardlink_to(original)
    (tmp_path / "copy" / files.FILE).write_bytes(written.read_bytes())
    with Journal(tmp_path / "copy", resume=True):
        assert original.read_bytes() == before
        # Both can run at the same time.
        with Journal(tmp_path, resume=True):
            assert folders.is_running(tmp_path / "copy")
    assert not folders.is_running(tmp_path)


def test_a_lock_that_is_a_link_is_refused_and_a_foreign_one_is_not_written(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("link", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / files.LOCK).symlink_to(precious)
    with pytest.raises(UserError, match="link: cannot be written"):
        Journal(tmp_path / "link")
    assert precious.read_text() == "mine"
    (tmp_path / "other" / files.LOCK).write_text("another program's")
    with Journal(tmp_path / "other"):
        assert folders.is_running(tmp_path / "other")
    assert (tmp_path / "other" / files.LOCK).read_text() == "another program's"


def test_a_journal_that_was_replaced_is_noticed(tmp_path):
    with Journal(tmp_path) as journal_:
        journal_.handle(STORY[0])
        shutil.copy(tmp_path / files.FILE, tmp_path / "copy")
        (tmp_path / "copy").replace(tmp_path / files.FILE)
        with pytest.raises(MachineError, match="was moved, deleted or replaced"):
            journal_.handle(STORY[1])


def test_texts_of_old_journals_are_made_printable(tmp_path):
    outcome = Outcome(Status.FAILED, "cannot read caf\udce9 \x1b[2J")
    with Journal(tmp_path) as journal_:
        journal_.handle(STARTED)
        journal_.handle(AttemptFailed(1.0, 0, 1, "\u202e", "a\x00b"))
        journal_.handle(TrialEnded(1.0, 0, outcome))
    _, attempt, ended = journal.read(tmp_path)
    assert attempt == AttemptFailed(1.0, 0, 1, "\\u202e", "a\\x00b")
    assert ended.outcome.reason == "cannot read caf\\udce9 \\x1b[2J"


@pytest.mark.parametrize("kind", ["epoch_ended", "execution_ended", "attempt_failed"])
def test_an_event_of_a_trial_that_was_never_started_is_refused(tmp_path, kind):
    (event,) = (event for event in STORY if event.kind == kind)
    with Journal(tmp_path) as journal_:
        journal_.handle(event)
    with pytest.raises(UserError, match="line 1 is damaged .trial 0 was never started"):
        list(journal.read(tmp_path))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_journal_is_read_or_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    whole = "".join(event.to_json() + "\n" for event in STORY).encode()
    (folder / files.FILE).write_bytes(data.draw(damaged(whole)))
    try:
        assert all(isinstance(event, Event) for event in journal.read(folder))
    except UserError as error:
        assert str(error).startswith(f"{folder / files.FILE}: line ")
        assert "\n" not in str(error)
    try:
        assert isinstance(journal.last_config(folder), dict)
    except UserError as error:
        assert str(error).startswith(f"{folder / files.FILE}: the sweep's config is damaged (")
        assert "\n" not in str(error)


def test_the_last_config_is_that_of_the_last_session(tmp_path):
    with Journal(tmp_path) as journal_:
        journal_.handle(SweepStarted(1.0, "a/b", {"seed": 1}, {}, {}, {}))
        assert journal.last_config(tmp_path) == {"seed": 1}
        journal_.handle(SweepResumed(2.0, {"seed": 7}))
        journal_.handle(TrialAsked(3.0, 0))
    assert journal.last_config(tmp_path) == {"seed": 7}


def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / files.LOCK)
    assert not folders.is_running(tmp_path)
    os.mkfifo(tmp_path / files.FILE)
    assert folders.sweeps(tmp_path) == []
    with pytest.raises(UserError, match=r"contains no journal\.jsonl"):
        list(journal.read(tmp_path))


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("sqlite:///mlruns/mlflow.db", "sqlite:///{project}/mlruns/mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://localhost:5000", "http://localhost:5000"),
    ],
)
def test_a_relative_store_is_in_the_project_of_the_sweep(
    uri: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, other = tmp_path / "project", tmp_path / "other"
    for folder in (project, other):
        folder.mkdir()
    monkeypatch.chdir(other)

    def of(folder: Path) -> str:
        return as_seen_from(uri, folders.elsewhere(folder))

    assert of(Path("../project/experiments/cnn/1")) == meant.format(project=project)
    assert of(tmp_path / "elsewhere" / "1") == uri
    monkeypatch.chdir(project)
    assert of(Path("experiments/cnn/1")) == uri
