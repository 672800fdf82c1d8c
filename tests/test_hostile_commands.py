"""Malicious and mistaken commands: each ends with one line, and changes nothing on the disk."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from mnist_sweep.cli.main import main
from mnist_sweep.journal import files
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.journal import Journal

# The user's files. Some have names that this program uses, too.
FILES = (
    "results/thesis.tex",
    "results/config.yaml",
    "results/report.html",
    "results/package/important.txt",
    "results/arrays/x_train.npy",
    "results/trials/0000/model.h5",
    "results/.hydra/config.yaml",
    "results/driver.log",
    "results/lock",
    "results/journal.jsonl",
    "code/main.py",
    "data.csv",
    "data.png",
    "manifest.json",
    "exported/manifest.json",
    "exported/model.h5",
    "it's 100% [mine]?/#1.txt",
    "theirs/multirun.yaml",
    "theirs/0/main.log",
)
CONFIG = {"objective": "val_loss min", "search": {}, "tracking": {"uri": "sqlite:///mlruns/mlflow.db"}}
NOT_A_SWEEP = "contains files that do not belong to a sweep"
# Run in the folder of FILES: the arguments, and what the message must contain.
COMMANDS = [
    # Folders that are not a sweep's.
    (("hydra.run.dir=results",), NOT_A_SWEEP),
    (("hydra.run.dir=results", "data.path=typo.npz", "data=npz"), NOT_A_SWEEP),
    (("hydra.run.dir=results/",), NOT_A_SWEEP),
    (("hydra.run.dir=./code/../results",), NOT_A_SWEEP),
    (("hydra.run.dir=.",), NOT_A_SWEEP),
    (("hydra.run.dir=..",), NOT_A_SWEEP),
    (("hydra.run.dir=/",), NOT_A_SWEEP),
    (("hydra.run.dir=/etc",), NOT_A_SWEEP),
    (("hydra.run.dir=results/package",), NOT_A_SWEEP),
    (("hydra.run.dir=results/arrays",), NOT_A_SWEEP),
    (("hydra.run.dir=link",), NOT_A_SWEEP),
    (("hydra.run.dir=dangling",), "is a broken link"),
    (("hydra.run.dir=",), "hydra.run.dir: is empty"),
    (("hydra.run.dir=../new/run", "data=npz", "data.path=typo.npz"), "no such file"),
    (("hydra.output_subdir=../code", "model.units=0"), "hydra.output_subdir=../code: .hydra/ is written without it"),
    (("-m", "hydra.output_subdir=../code", "seed=1,2"), "hydra.output_subdir=../code: .hydra/ is written without it"),
    (("hydra.job.chdir=true",), "hydra.job.chdir=true: must be false"),
    (("-m", "hydra.sweep.dir=theirs", "seed=1,2"), NOT_A_SWEEP),
    (("hydra.run.dir=data.csv",), "is a file"),
    (("hydra.run.dir=data.csv/below",), "cannot be written"),
    (("hydra.run.dir=/dev/null",), "is a file"),
    (("hydra.run.dir=/dev/null/x",), "cannot be written"),
    (("hydra.run.dir=/proc/x",), "cannot be written"),
    (("hydra.run.dir=pipe",), "is a file"),
    (("hydra.run.dir=" + "x" * 300,), "cannot be written"),
    (('hydra.run.dir="it\'s 100% [mine]?"',), NOT_A_SWEEP),
    (("resume=auto", "hydra.run.dir=results"), NOT_A_SWEEP),
    (("-m", "hydra.sweep.dir=results", "seed=1,2"), NOT_A_SWEEP),
    (("-m", "hydra.sweep.dir=.", "seed=1,2"), NOT_A_SWEEP),
    (("-m", "hydra.sweep.dir=data.csv", "seed=1,2"), "is a file"),
    (("hydra.mode=MULTIRUN", "hydra.sweep.dir=results", "seed=1,2"), NOT_A_SWEEP),
    # A mistake that is found after a new folder was claimed.
    (("hydra.run.dir=new", "data=npz", "data.path=typo.npz"), "no such file"),
    (("hydra.run.dir=a/b/c", "data=npz", "data.path=typo.npz"), "no such file"),
    (("hydra.run.dir=empty", "data=npz", "data.path=typo.npz"), "no such file"),
    (("hydra.run.dir=empty", "model.units=0"), "model.units=0"),
    (("name=x", "data=npz", "data.path=data.csv"), "data.path=data.csv"),
    (("name=x", "data=npz", "data.path=results"), "data.path=results"),
    (("name=x", "data=npz", "data.path=pipe"), "data.path=pipe"),
    (("name=x", "data=npz", "data.path=/dev/zero"), "data.path=/dev/zero"),
    (("name=x", "data=npz", "data.path=/proc/self/mem"), "data.path=/proc/self/mem"),
    (("name=x", "data=npz", "data.path=" + "y" * 5000), "data.path="),
    (("name=x", "tracking.uri=sqlite:///data.csv/x.db", "model.units=0"), "model.units=0"),
    # Names that point outside experiments/.
    (("name=..",), "name=.."),
    (("name=../../x",), "name=../../x"),
    (("name=/etc/x",), "name=/etc/x"),
    (("name='.'",), "name=."),
    (("name=''",), "name="),
    (("name='a b'",), "name=a b"),
    (("name='$(touch owned)'",), "name=$(touch owned)"),
    (("name=" + "n" * 300, "data=npz", "data.path=typo.npz"), ""),
    # Overrides that Hydra, OmegaConf or YAML cannot parse.
    (("",), ""),
    (("=",), ""),
    (("=x",), "the key before the equals sign is missing"),
    (("~",), ""),
    (("~model",), ""),
    (("+",), ""),
    (("++=",), ""),
    (("model.units=${",), ""),
    (("model.units=${oc.env:HOME}",), "model.units"),
    (("model.units=${no.such}",), "model.units"),
    (("model.units=${model.units}",), ""),
    (("model.units=[[[[[[",), ""),
    (("model.units={a:{b:",), ""),
    (("model.units=choice(",), ""),
    (("model.units=choice(choice(1,2),3)",), ""),
    (("model.units=range(1,100000000000)",), ""),
    (("model.units=interval(nan,1)",), "model.units"),
    (("model.units=" + "9" * 400,), "model.units"),
    (("model.units=1e400",), "model.units"),
    (("model.layers=99999999999",), "model.layers"),
    (("search=null",), ""),
    (("training=null",), ""),
    (("tracking=null",), ""),
    (("hydra=null",), ""),
    (("hydra.run=null",), ""),
    (("hydra.run.dir=null",), "hydra.run.dir=null"),
    (("hydra.job_logging=null",), "hydra.job_logging=null"),
    (("hydra/launcher=nothing",), ""),
    (("+experiment=../../../etc/passwd",), "no such"),
    (("+experiment=/etc/passwd",), "no such"),
    (("model.builder=/etc/passwd:x",), "model.builder"),
    (("objective={a:1}",), "objective"),
    (("objective=[]",), "objective"),
    (("\x1b[2J=1",), "\\x1b[2J"),
    (("model.units=\x1b[2J",), "\\x1b[2J"),
    (("n\udce9=1",), ""),
    (("name=n\udce9",), "name=n\\udce9"),
    # Commands.
    (("resume", "results"), "journal"),
    (("resume", "x" * 5000), ""),
    (("resume", "a", "b"), "continues one sweep, not a, b"),
    (("sync", "results"), "journal"),
    (("sync", "pipe"), "no such sweep"),
    (("report", "results"), ""),
    (("compare", "results"), ""),
    (("compare", "' or 1=1 --"), "write NAME, NAME/TIME or the sweep's folder"),
    (("compare", "--tracking-uri", "sqlite:///data.csv"), "data.csv"),
    (("compare", "--tracking-uri", "sqlite:///nothing.db"), "does not exist, but the journal"),
    (("compare", "--tracking-uri", "file:///etc"), "sqlite:///PATH"),
    (("export", "results", "--to", "exported"), ""),
    (("export", "--to", "data.csv"), ""),
    (("predict", "data.csv"), ""),
    (("compare", "--\x1b[31m"), "unrecognized arguments: --\\x1b[31m"),
    (("resume", "--nothing"), "unrecognized arguments: --nothing"),
    (("serve", "--port", "many"), "--port=many: must be a whole number"),
    (("retrain", "a", "1", "training.epochs"), "retrain: training.epochs: write KEY=VALUE: training.epochs=…"),
    (("resume", "a", "search.max_trials"), "resume: search.max_trials: write KEY=VALUE: search.max_trials=…"),
    (
        ("compare", "--tracking-uri", "mssql+pymssql://a:b@c/d"),
        "needs the Python package pymssql, which is not installed",
    ),
    (("+model.evil=3", "+training.epochs=4", "--cfg", "job"), "training.epochs=4: this key already exists"),
    (("serve", "--port", "99999"), "99999"),
    (("serve", "--host", ""), "--host: is empty"),
    (("serve", "--host", "a..b"), "--host=a..b: is not an address of this machine"),
    (("ui", "--port", "-1"), ""),
    (("rerun", "0123456789abcdef"), ""),
    (("show-data", "data=mnist_5k"), "name another file with --to=FILE"),
    (("show-data", "data=npz", "data.path=pipe", "--to", "new.png"), "data.path=pipe"),
    (("show-data", "data=npz", "data.path=data.csv", "--to", "code/main.py"), "data.path=data.csv"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a user's files and an interrupted sweep."""
    work = tmp_path / "work"
    for name in FILES:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(f"a year of work: {name}\n")
    (work / "empty").mkdir()
    (work / "link").symlink_to(work / "results")
    (work / "dangling").symlink_to(work / "nothing")
    os.mkfifo(work / "pipe")
    sweep = work / "experiments" / "old" / "now"
    sweep.mkdir(parents=True)
    with Journal(sweep) as journal:
        journal.handle(SweepStarted(1.0, "old/now", CONFIG, {}, {}, {}))
    monkeypatch.chdir(work)
    for name in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["mnist_sweep"])
    return work


def tree(folder: Path) -> dict[str, str]:
    """Every file, folder and link below a folder, with the files' digests."""

    def about(path: Path) -> str:
        if path.is_symlink():
            return os.readlink(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    return {str(path.relative_to(folder)): about(path) for path in folder.rglob("*")}


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=[ascii(" ".join(a))[1:60] for a, _ in COMMANDS])
def test_the_command_fails_with_one_line_and_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    before = tree(home.parent)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2, error
    assert error.startswith("mnist_sweep: ")
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert message in error
    assert "bug in mnist_sweep" not in error
    assert tree(home.parent) == before


def test_ctrl_c_before_a_sweep_has_started_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_sweep.data import images

    def interrupted(*_: object) -> None:
        assert (home / "a" / "b" / files.LOG).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "load", interrupted)
    before = tree(home)
    with pytest.raises(SystemExit) as end:
        main(["hydra.run.dir=a/b", "workers.count=1"])
    assert end.value.code == 130
    assert tree(home) == before
