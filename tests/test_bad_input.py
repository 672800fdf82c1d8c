"""Mistakes on the command line: each is reported in one line, with exit code 2."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from mnist_sweep.cli.main import main
from mnist_sweep.journal.events import SweepStarted, TrialAsked
from mnist_sweep.journal.files import FILE
from mnist_sweep.journal.journal import Journal, read

ACTIVATION = "Keras has no activation 'rleu'; did you mean 'relu'?"
LEARN = "choice(…) or range(…), or use search=random"

CONFIG = [
    (
        "zzz",
        "zzz: no such command; choose one of: compare, experiments, export, predict, report, rerun, resume, "
        "retrain, serve, show-data, steer, sync, ui, watch",
    ),
    ("epochs=3", "epochs: unknown key; did you mean 'training.epochs'?"),
    ("optimizer.lr=0.1", "optimizer.lr: unknown key; did you mean 'optimizer.learning_rate'?"),
    ("optimizer.momentum=0.9", "optimizer.momentum: unknown key; did you mean '+optimizer.arguments.momentum'?"),
    (
        "model.width=8,16 model.builder=mine:build",
        "model.width: unknown key; for a key that your own code reads, write +model.width=8,16",
    ),
    (
        "model.hypermodel=mine:build model.values.units=8",
        "model.values.units: unknown key; for a key that your own code reads, write +model.values.units=8",
    ),
    ("filters=8", "filters: unknown key; it exists only with model=cnn, as model.filters"),
    ("search.factor=3", "search.factor: unknown key; it exists only with search=asha or search=hyperband"),
    ("data.path=a#b.npz", "data.path=a#b.npz: cannot be parsed as typed; write 'data.path=\"a#b.npz\"'"),
    ("--lr=0.1", "--lr=0.1: no such option; keys have no dashes: optimizer.learning_rate=0.1"),
    ("compar", "compar: no such command; did you mean 'compare'?"),
    ("+experiment=quikc", "experiment=quikc: no such experiment; did you mean 'quick'?"),
    ("experiment=quick", "experiment: write it with a plus, +experiment=quick"),
    ("+experiments=quick", "experiments: unknown key; did you mean '+experiment'?"),
    ("modle=cnn", "modle: unknown key; did you mean 'model'?"),
    ("model=cnnn", "model=cnnn: no such option of the group model; did you mean 'cnn'?"),
    ("optimizer=adm", "optimizer=adm: no such option of the group optimizer; did you mean 'adam'?"),
    ("search=hyperbnd", "search=hyperbnd: no such option of the group search; did you mean 'hyperband'?"),
    ("model.unts=3", "model.unts: unknown key; did you mean 'model.units'?"),
    ("training.epoch=3", "training.epoch: unknown key; did you mean 'training.epochs'?"),
    ("serch.max_trials=3", "serch.max_trials: unknown key; did you mean 'search.max_trials'?"),
    ("+model.unts=3", "model.unts: unknown key; did you mean 'model.units'?"),
    ("+optimizer.argments.momentum=0.9", "optimizer.argments: unknown key; did you mean 'optimizer.arguments'?"),
    ("model.units=0", "model.units=0: must be at least 1"),
    ("model.units=choice(16,0)", "model.units=0: must be at least 1"),
    ("model.units=16.5", "model.units=16.5: must be a whole number"),
    ("model.units=many", "model.units=many: must be a whole number"),
    ("model.units=true", "model.units=true: must be a whole number"),
    ("model.units=interval(16,64)", "model.units=interval(16, 64): must be whole numbers; write int(interval(16, 64))"),
    ("model.layers=-1", "model.layers=-1: must be at least 0"),
    ("model.layers=101", "model.layers=101: must be at most 100"),
    ("model.dropout=1.0", "model.dropout=1.0: must be less than 1"),
    ("model.dropout=-0.1", "model.dropout=-0.1: must be at least 0"),
    ("model.dropout=interval(0,1)", "model.dropout=1.0: must be less than 1"),
    ("model.l2=-1", "model.l2=-1: must be at least 0"),
    ("model.batch_normalization=1", "model.batch_normalization=1: must be true or false"),
    ("model.activation=rleu", f"model.activation=rleu: {ACTIVATION}"),
    ("model.activation=[relu,rleu]", f"model.activation.2=rleu: {ACTIVATION}"),
    ("model.units=[16]", "model.units=[16]: has 1 of 2 values; give one for each layer"),
    (
        "model.units=[16,32,64]",
        "model.units=[16, 32, 64]: has 3 values for 2 layers; give one for each layer, or set model.layers=3; "
        "to search these values: model.units=16,32,64",
    ),
    ("model.kind=rnn", "model.kind=rnn: must be mlp or cnn; use model=mlp or model=cnn"),
    ("model.builder=nothing", "model.builder=nothing: must be package.module:function"),
    ("model.per_layer=[unts]", "model.per_layer=['unts']: model.unts is not a field of layers"),
    (
        "model.per_layer=[units]",
        "model.per_layer=['units']: model.units is not a sweep; write choice(…) or remove it",
    ),
    ("optimizer.name=adm", "optimizer.name=adm: Keras has no such optimizer; did you mean 'adam'?"),
    ("optimizer.learning_rate=0", "optimizer.learning_rate=0: must be more than 0"),
    ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf: must be a finite number"),
    (
        "+optimizer.arguments.momentum=0.9",
        "optimizer.arguments.momentum: adam has no such argument; did you mean 'ema_momentum'?",
    ),
    (
        "conditions.model.units=model.layers>1or2 model.units=16,32",
        "conditions.model.units=model.layers>1or2: > needs a number after it",
    ),
    (
        "conditions.model.units=model.lyers==1 model.units=16,32",
        "conditions.model.units=model.lyers==1: model.lyers: unknown key; did you mean 'model.layers'?",
    ),
    (
        "optimizer.schedule.name=ExponentialDecay",
        "optimizer.schedule.arguments.decay_rate: ExponentialDecay requires this argument",
    ),
    ("training.batch_size=null", "training.batch_size=null: must be a whole number"),
    ("training.epochs=0", "training.epochs=0: must be at least 1"),
    ("training.early_stopping.patience=0", "training.early_stopping.patience=0: must be at least 1"),
    (
        "training.precision=float8",
        "training.precision=float8: must be 'float32', 'mixed_float16' or 'mixed_bfloat16'",
    ),
    ("objective=val_acuracy", "objective=val_acuracy: no such metric is logged; did you mean 'val_accuracy'?"),
    (
        "objective=learning_rate",
        "objective=learning_rate: say which is better, 'learning_rate max' or 'learning_rate min'",
    ),
    (
        "data.validation_split=0",
        "objective=val_accuracy: there are no validation data; set data.validation_split above 0",
    ),
    ("data.validation_split=1", "data.validation_split=1: must be at most 0.9"),
    (
        "data.validation_split=choice(0.1,0.2)",
        "data.validation_split=choice(0.1,0.2): only values of model, optimizer, training, task and "
        "augment can be searched; "
        "run one sweep for each value with -m data.validation_split=…",
    ),
    ("seed=-1", "seed=-1: must be at least 0"),
    ("name=../elsewhere", "name=../elsewhere: use only letters, digits, _, - and ., because it names a folder"),
    ("search.time_budget=5x", "search.time_budget=5x: must be a duration such as 90s, 15m, 2h or 1h30m"),
    ("search.time_budget=0s", "search.time_budget=0s: must be longer than zero"),
    ("search.max_trials=0", "search.max_trials=0: must be at least 1"),
    ("search=none model.units=16,32", "search=none: model.units is a sweep; give it one value, or use search=random"),
    ("search=grid model.dropout=interval(0,0.5)", f"search=grid: model.dropout is an interval; write {LEARN}"),
    (
        "search=grid model.units=int(interval(1,20000))",
        "search=grid: the space has 20000 combinations; set search.max_trials, or use search=random",
    ),
    (
        "search.max_trials=null model.dropout=interval(0,0.5)",
        "search.max_trials=null: the search would never end; set search.max_trials or search.time_budget",
    ),
    (
        "search=hyperband model.units=16,32 training.epochs=9",
        "search=hyperband: its first rounds need 17 different combinations, but the space has 2; use search=grid, or "
        "fewer training.epochs",
    ),
    (
        "search=hyperband training.epochs=3,9",
        "search=hyperband: it sets the number of epochs itself; give training.epochs one value, the maximum",
    ),
    (
        "model.units=int(interval(64,16))",
        "model.units=int(interval(64,16)): the first number must be smaller than the second",
    ),
    (
        "optimizer.learning_rate=tag(log,interval(0,1))",
        "optimizer.learning_rate=tag(log,interval(0,1)): a logarithmic interval must start above 0",
    ),
    ("model.units=range(4,1)", "model.units=range(4,1): has no values"),
    (
        "model.units=tag(exp,interval(1,2))",
        "model.units=tag(exp,interval(1,2)): unknown tag 'exp'; the only tag is log",
    ),
    (
        "optimizer=adam,sgd",
        "optimizer=adam,sgd: a group cannot be searched; run one sweep per option with -m optimizer=…, or search "
        "optimizer.name=adam,sgd",
    ),
    (
        "tracking.uri=ftp://box/runs",
        "tracking.uri=ftp://box/runs: MLflow has no such kind of store; write sqlite:///PATH or http://HOST:PORT",
    ),
    ("tracking.keep_models=some", "tracking.keep_models=some: must be a whole number or 'all' or 'best'"),
    ("workers.count=0", "workers.count=0: must be at least 1"),
    (
        "workers.devices=gpu",
        "workers.devices=gpu: no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES); use workers.devices=auto",
    ),
    ("data=npz", "data.path: a value is required; give data.path=…"),
    ("data=npz data.path=none.npz", "data.path=none.npz: no such file or folder"),
    ("resume", "resume: experiments/ contains no unfinished sweep"),
    ("resume cnn", "resume cnn: no such sweep in experiments/; write NAME, NAME/TIME or its folder"),
    ("sync", "sync: experiments/ contains no sweep"),
    ("compare ../x?", "sweep ../x?: write NAME, NAME/TIME or the sweep's folder"),
]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["mnist_sweep"])


def workers() -> set[psutil.Process]:
    """The processes of workers that this process has started, such as those that other tests have left."""
    found = set()
    for process in psutil.Process().children():
        # It may have ended.
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("mnist_sweep.workers" in part for part in process.cmdline()):
                found.add(process)
    return found


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = workers()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    assert workers() <= before
    assert end.value.code == 2, error
    assert error.startswith("mnist_sweep: ")
    assert error.count("\n") == 1
    return error.removeprefix("mnist_sweep: ").rstrip("\n")


@pytest.mark.parametrize(("arguments", "message"), CONFIG, ids=[arguments for arguments, _ in CONFIG])
def test_a_wrong_command_or_value_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
) -> None:
    assert error_of(capsys, *arguments.split()) == message
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_tracking_server_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "compare", "--tracking-uri", "http://127.0.0.1:9")
    assert message.startswith("MLflow does not answer (")
    assert message.endswith("); start the server, or name another store with --tracking-uri or MLFLOW_TRACKING_URI")


def arrays(**changes: object) -> dict[str, object]:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    labels = np.arange(20) % 4
    return {"x_train": images, "y_train": labels, "x_test": images[:8], "y_test": labels[:8], **changes}


def zipped(**changes: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in arrays(**changes).items() if v is not None})
    return file.getvalue()


DATA = [
    (zipped(y_train=None), "data.path=own.npz: has no array y_train; it has x_train, x_test, y_test"),
    (zipped(x_train=np.array([{}, 1], dtype=object)), "data.path=own.npz: cannot be read as .npz (it contains "
     "Python objects, not numbers)"),
    (zipped()[:-300], "data.path=own.npz: cannot be read as .npz (File is not a zip file)"),
    (b"0,1,2\n", "data.path=own.npz: is not an .npz file"),
    (zipped(y_train=np.arange(19) % 4), "data.path=own.npz: x_train has 20 images, but y_train has 19 labels"),
    (zipped(y_train=np.arange(20) % 4 * 2), "data.path=own.npz: y_test has class 1, which y_train does not have"),
    (zipped(x_train=np.full((20, 8, 8), np.nan)), "data.path=own.npz: x_train contains NaN or infinite values"),
    (zipped(x_train=np.zeros((20, 64))), "data.path=own.npz: training rows are (64,), but test rows are (8, 8)"),
    (zipped(y_test=np.full(8, 9)), "data.path=own.npz: y_test has class 9, which y_train does not have"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), DATA, ids=[message[:60] for _, message in DATA])
def test_wrong_data_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    assert error_of(capsys, "data=npz", "data.path=own.npz") == message
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


def test_a_sweep_killed_before_its_first_event_is_removed_by_the_next_one(capsys, tmp_path: Path) -> None:
    killed = tmp_path / "experiments" / "x" / "2026-01-01_00-00-00"
    (killed / "arrays").mkdir(parents=True)
    with Journal(killed):
        pass
    error_of(capsys, "data=npz", "data.path=nowhere.npz", "name=x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not killed.exists()


def test_images_smaller_than_every_kernel_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(zipped())
    assert error_of(capsys, "data=npz", "data.path=own.npz", "model=cnn", "model.kernel_size=9,10") == (
        "model.kernel_size=9: convolution layer 1 gets images of only 8 pixels; use fewer model.layers, less "
        "model.pooling or model.padding=same"
    )


@pytest.mark.parametrize(
    ("magic", "sizes", "message"),
    [
        (2049, (2, 4, 4), "starts with 2049, but an IDX file of this kind starts with 2051"),
        (2051, (3, 4, 4), "should have 48 bytes, but has 32"),
    ],
)
def test_wrong_idx_files_are_refused(capsys, tmp_path: Path, magic: int, sizes: tuple[int, ...], message: str) -> None:
    (tmp_path / "idx").mkdir()
    file = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(struct.pack(">4I", magic, *sizes) + bytes(32)))
    assert error_of(capsys, "data.path=idx") == f"data.path=idx/{file.name}: {message}"


class TestJournals:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "experiments" / "mlp" / "now"
        folder.mkdir(parents=True)
        with Journal(folder) as journal:
            journal.handle(SweepStarted(1.0, "mlp/now", {"objective": "val_loss min", "search": {}}, {}, {}, {}))
            journal.handle(TrialAsked(2.0, 0))
        return folder

    def test_an_incomplete_last_line_of_a_journal_is_accepted(self, folder: Path) -> None:
        with open(folder / FILE, "a") as file:
            file.write('{"event": "trial_as')
        assert len(list(read(folder))) == 2

    def test_a_damaged_line_in_the_middle_of_a_journal_is_refused_with_its_number(self, capsys, folder: Path) -> None:
        lines = (folder / FILE).read_text().splitlines()
        (folder / FILE).write_text("\n".join([lines[0], "{damaged", lines[1], ""]))
        assert error_of(capsys, "resume", "mlp").startswith(f"experiments/mlp/now/{FILE}: line 2 is damaged (")

    def test_a_sweep_that_another_process_runs_is_refused(self, capsys, folder: Path) -> None:
        import os
        import platform

        config = json.loads((folder / FILE).read_text().splitlines()[0])
        assert config["event"] == "sweep_started"
        with Journal(folder, resume=True), pytest.raises(Exception, match="is being run by") as refused:
            Journal(folder, resume=True)
        holder = f"process {os.getpid()} on {platform.node()}"
        assert str(refused.value) == f"{folder}: this sweep is being run by {holder}"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "tracking.uri=sqlite:////proc/none/mlflow.db"
    assert "cannot be written" in error_of(capsys, "data=mnist_5k", uri, "name=x", "hydra.run.dir=/proc/none")
