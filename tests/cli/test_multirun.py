"""Several sweeps by one command: checked whole, independent of one another, and continued."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.cli.main import main
from mnist_sweep.common.errors import UserError
from mnist_sweep.data import sources
from mnist_sweep.driver import launch
from mnist_sweep.journal.events import SweepEnded, SweepStarted
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status

# What becomes of a sweep, by its seed; a sweep is complete if it is not named.
Ends = Mapping[int, int | BaseException]
Command = Callable[..., tuple[int, list[tuple[int, str, bool]]]]


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Hydra configures logging for the whole process."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def command(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the sweeps of a command, which train nothing; returns the exit code and each seed, folder and `resume`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    digest = sources.load(sources.Request("npz", str(digits))).digest()

    def ran(*arguments: str, ends: Ends | None = None) -> tuple[int, list[tuple[int, str, bool]]]:
        started: list[tuple[int, str, bool]] = []

        def run(config: dict[str, Any], folder: Path, *_: object, resume: bool = False, **__: object) -> int:
            shown = folder.resolve().relative_to((tmp_path / "experiments").resolve())
            started.append((config["seed"], "/".join(shown.parts), resume))
            end = (ends or {}).get(config["seed"], 0)
            if isinstance(end, UserError):
                raise end
            with Journal(folder, resume=resume) as journal:
                if not resume:
                    journal.handle(SweepStarted(1.0, "x", config, {}, {"digest": digest}, {}))
                if isinstance(end, BaseException):
                    raise end
                status = {0: Status.COMPLETED, 130: Status.STOPPED}.get(end, Status.FAILED)
                journal.handle(SweepEnded(2.0, status, "", None))
            return end

        monkeypatch.setattr(launch, "run", run)
        with pytest.raises(SystemExit) as exit_:
            main(["-m", "data=npz", f"data.path={digits}", "name=x", "workers.count=1", *arguments])
        return int(str(exit_.value.code)), started

    return ran


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1,2", "model.units=4,0"], "sweep 2 of 4 (seed=1 model.units=0): model.units=0: must be at least 1"),
        (["data.path=typo.npz"], "data.path=typo.npz: no such file"),
        (["seed=1,2", "tracking.uri=5"], "sweep 1 of 2 (seed=1): tracking.uri=5: must be text"),
        (["seed=1,2", "model=cnn", "model.kernel_size=20"], "sweep 1 of 2 (seed=1): model.kernel_size=20: "),
        (["seed=1,2", "search.warm_start=[],[gone]"], "(seed=1 search.warm_start=[gone]): search.warm_start=gone: no "),
        (["data=mnist_5k,missing"], "sweep 2 of 2 (data=missing): data=missing: no such option"),
    ],
)
def test_a_mistake_in_any_of_them_is_told_before_the_first_begins(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert command(*arguments) == (2, [])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "experiments").exists()


def test_values_with_which_no_model_fits_the_images_do_not_end_a_search_that_has_others(command: Command) -> None:
    code, started = command("seed=1,2", "model=cnn", 'model.kernel_size="choice(3,20)"')
    assert (code, len(started)) == (0, 2)


def test_one_that_fails_does_not_end_the_others(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code, started = command("seed=1,2,3,4", ends={1: 1, 2: UserError("no disk"), 3: ValueError("oh")})
    assert (code, [seed for seed, *_ in started]) == (2, [1, 2, 3, 4])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()[-6:]
    assert [line.partition("  ")[2].partition("  ")[2].strip().partition("/")[2] for line in lines[1:2]] == [
        f"{started[0][1].partition('/')[2]}  failed (exit code 1)"
    ]
    assert lines[0] == "4 sweeps:"
    assert lines[2].endswith("failed (exit code 2): no disk")
    assert "failed (exit code 1): unexpected ValueError: oh" in lines[3]
    assert lines[4].endswith("  complete")
    assert lines[5].startswith("To continue with those that are not complete: python -m mnist_sweep -m data=npz ")
    assert lines[5].endswith(" seed=1,2,3,4 resume=auto")
    assert "mnist_sweep: no disk\n" in printed.err


def test_ctrl_c_ends_all_and_the_same_command_continues_them_where_they_are(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    code, first = command("seed=1,2,3", ends={2: KeyboardInterrupt()})
    assert (code, [seed for seed, *_ in first]) == (130, [1, 2])
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert [line.rpartition("  ")[2] for line in lines[1:4]] == ["complete", "interrupted", "not started"]
    code, then = command("seed=1,2,3", "resume=auto")
    folder = first[0][1].rpartition("/")[0]
    assert (code, then) == (0, [(2, f"{folder}/1", True), (3, f"{folder}/2", False)])
    assert f"experiments/{folder}/0 is complete" in capsys.readouterr().out
    # Another one is started if all are complete.
    code, last = command("seed=1,2,3", "resume=auto")
    assert (code, [seed for seed, *_ in last]) == (0, [1, 2, 3])
    assert not any(resumed for *_, resumed in last)


def test_sweeps_that_an_interrupted_command_did_not_have_are_added_to_it(command: Command) -> None:
    _, first = command("seed=1,2", ends={2: 130})
    folder = first[0][1].rpartition("/")[0]
    code, then = command("seed=0,1,2", "resume=auto")
    assert (code, then) == (0, [(0, f"{folder}/0-2", False), (2, f"{folder}/1", True)])


def test_a_damaged_journal_beside_them_is_skipped(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, first = command("seed=1,2", ends={2: 130})
    folder = tmp_path / "experiments" / first[0][1]
    (folder / "journal.jsonl").write_bytes(b'{"event": "sweep_started", "tim\x00\xff\n{}\n')
    code, then = command("seed=1,2", "resume=auto")
    assert (code, [(seed, resumed) for seed, _, resumed in then]) == (0, [(1, False), (2, True)])
    assert "is skipped: " in capsys.readouterr().out
