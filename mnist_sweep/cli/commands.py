"""The commands besides running a sweep: their arguments, and the functions that they call."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.termination import ended_by_signals

if TYPE_CHECKING:
    from rich.console import Console

_SWEEP = "NAME/TIME, a sweep's folder, or NAME for its last sweep"
_MODEL = f"{_SWEEP}, or models:/NAME@champion (default: the last sweep)"


def _experiments(given: list[str]) -> int:
    _Parser("experiments", "Lists the experiments, with a description of each.").parse_args(given)
    from mnist_sweep.config import compose

    found = compose.experiments()
    width = max(map(len, found), default=0)
    for name, description in found.items():
        print(f"{name:{width}}  {description}".rstrip())
    return 0


def _show_data(given: list[str]) -> int:
    parser = _Parser("show-data", "Plots the first images of a data set, and counts the images of each class.")
    overrides = "overrides as for a sweep: data=fashion_mnist, data.path=FILE …"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
    parser.add_file("--to", "where to write the plot (default: data.png, unless that is a file of yours)")
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.cli import show_data

    show_data.show_data(options.overrides, options.to)
    return 0


def _resume(given: list[str]) -> int:
    parser = _Parser("resume", "Continues an interrupted sweep, as if it had never been interrupted.")
    what = (
        f"{_SWEEP} (default: the last unfinished one); and a larger budget, such as search.max_trials=40, or what does "
        "not change the results, such as workers.count=1 or data.path=FILE"
    )
    parser.add_argument("given", nargs="*", metavar="SWEEP|KEY=VALUE", help=what)
    versions = "continue even with another version of TensorFlow, Keras or NumPy, which may change the results"
    parser.add_argument("--other-versions", action="store_true", help=versions)
    failed = "also train the failed trials again, for example after correcting your code"
    parser.add_argument("--retry-failed", action="store_true", help=failed)
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.driver import resume

    changes = [text for text in options.given if "=" in text and not Path(text).exists()]
    sweeps = [text for text in options.given if text not in changes]
    if len(sweeps) > 1:
        raise UserError(f"resume: continues one sweep, not {', '.join(sweeps)}")
    return resume.resume(
        next(iter(sweeps), None),
        changes,
        _console(),
        other_versions=options.other_versions,
        retry_failed=options.retry_failed,
    )


def _sync(given: list[str]) -> int:
    parser = _Parser("sync", "Adds to MLflow what is missing of a sweep, from the sweep's journal.")
    parser.add_sweep()
    options = parser.parse_args(given)
    from mnist_sweep.driver import sync

    with ended_by_signals():
        return sync.sync(options.sweep, _console())


def _report(given: list[str]) -> int:
    parser = _Parser("report", "Writes a report on a sweep as one HTML file that works offline, and prints its path.")
    parser.add_sweep()
    parser.add_store()
    parser.add_file("--to", "where to write it (default: report.html in the sweep's folder)")
    options = parser.parse_args(given)
    from mnist_sweep.results import report

    print(report.report(options.sweep, options.tracking_uri, options.to))
    return 0


def _compare(given: list[str]) -> int:
    parser = _Parser("compare", "Prints the runs of sweeps as a table, the best first, or writes them to a file.")
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"each {_SWEEP} (default: the last one)")
    parser.add_store()
    parser.add_argument("--all", action="store_true", help="all sweeps of each experiment, not only the last one")
    parser.add_argument("--mix-data", action="store_true", help="allow sweeps on different data")
    condition = (
        "only runs that match, such as 'val_accuracy > 0.97', 'optimizer == adam' or 'momentum != NA' (has a value); "
        "repeatable. The objective's name means each run's best value, metrics.NAME that of the last epoch"
    )
    parser.add_argument("--filter", metavar="CONDITION", action="append", default=[], help=condition)
    sort = "sort by this column instead of the score: metrics from the best value, -COLUMN in reverse"
    parser.add_argument("--sort", metavar="COLUMN", help=sort)
    parser.add_argument("--columns", metavar="A,B,…", help="only these columns, by heading or by name in the CSV file")
    formats = "table, csv, json, parquet or markdown (default: from the ending of FILE, or table)"
    parser.add_argument("--format", help=formats)
    parser.add_file("--to", "where to write, instead of printing")
    parser.add_file("--csv", "also write all columns to this file (default: runs.csv in a single sweep's folder)")
    importance = "also print which hyperparameters matter, and what the best runs have in common"
    parser.add_argument("--importance", action="store_true", help=importance)
    # A column may start with a minus, which argparse would read as an option.
    joined = [f"--sort={b}" if a == "--sort" else b for a, b in zip(["", *given], given, strict=False) if b != "--sort"]
    options = parser.parse_args(joined if given[-1:] != ["--sort"] else given)
    from mnist_sweep.results.compare import View, compare

    columns = [name.strip() for name in options.columns.split(",")] if options.columns else None
    written = options.format, options.to, options.csv
    view = View(options.filter, options.sort, columns, *written, options.mix_data, options.importance)
    compare(options.sweeps, options.tracking_uri, view, every=options.all)
    return 0


def _ui(given: list[str]) -> int:
    from mnist_sweep.cli import ui
    from mnist_sweep.tracking import saved_view

    parser = _Parser("ui", "Serves MLflow's pages on the runs, until Ctrl-C.")
    parser.add_address(saved_view.HOST, saved_view.PORT)
    parser.add_argument("--open", action="store_true", help="open the sweep's page in the browser")
    parser.add_sweep()
    parser.add_store()
    options = parser.parse_args(given)
    return ui.serve(options.sweep, options.tracking_uri, options.host, options.port, open_browser=options.open)


def _export(given: list[str]) -> int:
    from mnist_sweep.results.models import formats

    about = "Writes a sweep's best model in other formats, with a manifest. Checks each file's predictions."
    parser = _Parser("export", about)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL)
    parser.add_store()
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder to write to")
    names = f"some of {', '.join(formats.FORMATS)} (default: {formats.DEFAULT})"
    parser.add_argument("--format", metavar="A,B", default=formats.DEFAULT, help=names)
    options = parser.parse_args(given)
    wanted = formats.chosen(options.format)
    from mnist_sweep.results.models import export

    export.export(options.model, options.tracking_uri, options.to, wanted)
    return 0


def _predict(given: list[str]) -> int:
    parser = _Parser("predict", "Reads digits from image files, and explains why an answer may be wrong.")
    images = "PNG, JPEG, BMP, GIF or WebP files of any usual size"
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help=images)
    parser.add_argument("--model", metavar="MODEL", help=_MODEL)
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.add_argument("--save-input", metavar="DIR", type=Path, help="write PNGs of what the model sees to DIR")
    parser.add_store()
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.results.models import predict

    return predict.predict(
        options.images, options.model, options.tracking_uri, as_json=options.format == "json", to=options.save_input
    )


def _serve(given: list[str]) -> int:
    parser = _Parser("serve", "Serves a page to draw digits on, which shows the answers of a sweep's models.")
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL)
    parser.add_address("127.0.0.1", 8000)
    token = (
        "the token that requests must carry, required with any other --host; auto generates and prints one (default: "
        "the variable MNIST_SWEEP_TOKEN, which other users of this machine cannot see)"
    )
    parser.add_argument("--token", help=token)
    parser.add_store()
    options = parser.parse_args(given)
    from mnist_sweep.results.models import serve

    return serve.serve(options.model, options.tracking_uri, options.host, options.port, options.token)


def _rerun(given: list[str]) -> int:
    about = (
        "Trains a trial again from what was logged, and checks whether every metric of every epoch is the same. "
        "The exit code is 0 if it is, and 1 if not. A failed trial is trained to its end."
    )
    parser = _Parser("rerun", about)
    run = f"an MLflow run ID or its first digits; or {_SWEEP} (default: the last one)"
    parser.add_argument("run", nargs="?", metavar="RUN", help=run)
    parser.add_argument("trial", nargs="?", type=int, metavar="TRIAL", help="a trial of that sweep (default: the best)")
    parser.add_store()
    options = parser.parse_args(given)
    from mnist_sweep.driver import rerun

    with ended_by_signals():
        return rerun.rerun(options.run, options.trial, options.tracking_uri, _console())


def _console() -> Console:
    # Imported on demand: `--help` does not need rich.
    from mnist_sweep.common.tables import standard_output

    return standard_output()


class _Parser(argparse.ArgumentParser):
    """A command's parser, with the arguments that several commands have."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=invocation.command(command),
            description=description,
            epilog="--debug, anywhere on the command line, shows the traceback of an error.",
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.rpartition(' ')[2]}: {message}; see {self.prog} --help")

    def add_sweep(self) -> None:
        self.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_SWEEP} (default: the last one)")

    def add_store(self) -> None:
        self.add_argument("--tracking-uri", metavar="URI", help="the MLflow store (default: the one the sweep used)")

    def add_file(self, option: str, text: str) -> None:
        self.add_argument(option, metavar="FILE", type=Path, help=text)

    def add_address(self, host: str, port: int) -> None:
        self.add_argument("--port", type=int, default=port, help=f"default: {port}; 0 for any free one")
        self.add_argument("--host", default=host, help=f"default: {host}, which only this machine can reach")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "experiments": _experiments,
    "show-data": _show_data,
    "resume": _resume,
    "sync": _sync,
    "report": _report,
    "compare": _compare,
    "ui": _ui,
    "export": _export,
    "predict": _predict,
    "serve": _serve,
    "rerun": _rerun,
}
