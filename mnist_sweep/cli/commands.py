"""The commands that go with a sweep: what each takes, and where it is done."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mnist_sweep.common.errors import UserError

_SWEEP = "NAME/TIME, a sweep's folder, or NAME for its last one"


def _experiments(given: list[str]) -> int:
    _parser("experiments", "Lists the experiments, with a line on each.").parse_args(given)
    from mnist_sweep.config import compose

    found = compose.experiments()
    width = max(map(len, found), default=0)
    for name, description in found.items():
        print(f"{name:{width}}  {description}".rstrip())
    return 0


def _show_data(given: list[str]) -> int:
    parser = _parser("show-data", "Draws the first images of a data set, and how many there are of each class.")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for a sweep: data=fashion_mnist, data.path=FILE …"
    )
    parser.add_argument(
        "--to", metavar="FILE", type=Path, help="default: data.png, unless that is not a picture of this command's"
    )
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.cli import show_data

    show_data.show_data(options.overrides, options.to)
    return 0


def _resume(given: list[str]) -> int:
    parser = _parser("resume", "Continues an interrupted sweep, as if it had never been interrupted.")
    what = f"{_SWEEP} (default: the last unfinished one), and a longer budget: search.max_trials=40"
    parser.add_argument("given", nargs="*", metavar="SWEEP|KEY=VALUE", help=what)
    parser.add_argument(
        "--other-versions",
        action="store_true",
        help="also with another TensorFlow, Keras or NumPy than before, which may give other figures",
    )
    options = parser.parse_args(given)
    from mnist_sweep.common.tables import standard_output
    from mnist_sweep.driver import resume

    longer = [text for text in options.given if "=" in text and not Path(text).exists()]
    sweeps = [text for text in options.given if text not in longer]
    if len(sweeps) > 1:
        raise UserError(f"resume: continues one sweep, not {', '.join(sweeps)}")
    console = standard_output()
    return resume.resume(next(iter(sweeps), None), longer, console, other_versions=options.other_versions)


def _sync(given: list[str]) -> int:
    parser = _parser("sync", "Writes a sweep's journal into MLflow, where it lacks anything, or was deleted.")
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_SWEEP} (default: the last one)")
    options = parser.parse_args(given)
    from mnist_sweep.common.tables import standard_output
    from mnist_sweep.common.termination import ended_by_signals
    from mnist_sweep.driver import sync

    with ended_by_signals():
        return sync.sync(options.sweep, standard_output())


def _report(given: list[str]) -> int:
    parser = _parser("report", "Writes a sweep as one HTML file that opens without network, and prints its path.")
    _takes_sweep(parser)
    parser.add_argument(
        "--to", metavar="FILE", type=Path, help="where to write (default: report.html in the sweep's folder)"
    )
    options = parser.parse_args(given)
    from mnist_sweep.results import report

    print(report.report(options.sweep, options.tracking_uri, options.to))
    return 0


def _compare(given: list[str]) -> int:
    parser = _parser("compare", "Prints the runs of sweeps as a table, the best first, or writes them to a file.")
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"each {_SWEEP} (default: the last one)")
    _takes_store(parser)
    parser.add_argument("--all", action="store_true", help="all sweeps of each experiment named, not its last one only")
    parser.add_argument("--mix-data", action="store_true", help="also where the sweeps are on different data")
    parser.add_argument(
        "--filter",
        metavar="CONDITION",
        action="append",
        default=[],
        help="only runs such as 'val_accuracy > 0.97', 'optimizer == adam', 'momentum != NA' (not given); repeatable. "
        "The objective's name means each run's best, metrics.NAME the last epoch's",
    )
    parser.add_argument(
        "--sort", metavar="COLUMN", help="by this instead of the score: metrics from the best, -COLUMN the other way"
    )
    parser.add_argument("--columns", metavar="A,B,…", help="only these, by their headings or their names in the CSV")
    parser.add_argument(
        "--format", help="table, csv, json, parquet or markdown (default: what FILE ends with, or table)"
    )
    parser.add_argument("--to", metavar="FILE", type=Path, help="where to write, instead of printing")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        type=Path,
        help="where to write all columns beside the table (default: runs.csv in a single sweep's folder)",
    )
    parser.add_argument(
        "--importance",
        action="store_true",
        help="also print which hyperparameters matter, and what the best have in common",
    )
    # A column to sort by may begin with a minus, which argparse takes for an option.
    joined = [f"--sort={b}" if a == "--sort" else b for a, b in zip(["", *given], given, strict=False) if b != "--sort"]
    options = parser.parse_args(joined if given[-1:] != ["--sort"] else given)
    from mnist_sweep.results.compare import View, compare

    columns = [name.strip() for name in options.columns.split(",")] if options.columns else None
    view = View(
        options.filter,
        options.sort,
        columns,
        options.format,
        options.to,
        options.csv,
        options.mix_data,
        options.importance,
    )
    compare(options.sweeps, options.tracking_uri, view, every=options.all)
    return 0


def _ui(given: list[str]) -> int:
    from mnist_sweep.cli import ui
    from mnist_sweep.tracking import saved_view

    parser = _parser("ui", "Opens MLflow's pages on the runs, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=saved_view.PORT, help=f"default: {saved_view.PORT}")
    parser.add_argument(
        "--host", default=saved_view.HOST, help=f"default: {saved_view.HOST}, which this machine alone can reach"
    )
    parser.add_argument("--open", action="store_true", help="open the browser on the sweep")
    _takes_sweep(parser)
    options = parser.parse_args(given)
    return ui.serve(options.sweep, options.tracking_uri, options.host, options.port, open_browser=options.open)


def _export(given: list[str]) -> int:
    from mnist_sweep.results.models import formats

    parser = _parser(
        "export",
        "Writes a sweep's best model in formats that other programs read, each checked against the run's predictions, "
        "with a manifest.",
    )
    what = f"{_SWEEP} (default: the last one); or models:/NAME@champion"
    parser.add_argument("what", nargs="?", metavar="SWEEP", help=what)
    _takes_store(parser)
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder to write to")
    parser.add_argument(
        "--format",
        metavar="A,B",
        default=formats.DEFAULT,
        help=f"some of {', '.join(formats.FORMATS)} (default: {formats.DEFAULT})",
    )
    options = parser.parse_args(given)
    wanted = formats.chosen(options.format)
    from mnist_sweep.results.models import export

    export.export(options.what, options.tracking_uri, options.to, wanted)
    return 0


def _predict(given: list[str]) -> int:
    parser = _parser("predict", "Reads pictures of digits, and tells where the answer may be wrong.")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", type=Path, help="a PNG, JPEG, BMP, GIF or WebP, of any usual size"
    )
    parser.add_argument(
        "--model", metavar="MODEL", help=f"a sweep ({_SWEEP}) or models:/NAME@champion (default: the last sweep)"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.add_argument("--save-input", metavar="DIR", type=Path, help="write there what the model sees, as PNG")
    _takes_store(parser)
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.results.models import predict

    return predict.predict(
        options.images, options.model, options.tracking_uri, as_json=options.format == "json", to=options.save_input
    )


def _serve(given: list[str]) -> int:
    parser = _parser("serve", "Opens a page to draw digits on, which shows what a sweep's models make of them.")
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=f"{_SWEEP}, or models:/NAME@champion (default: the last sweep)"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 for any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, which this machine alone can reach")
    parser.add_argument(
        "--token",
        help="what requests must carry, needed with any other --host; auto for one that is made up and printed "
        "(default: that of the variable MNIST_SWEEP_TOKEN, which other users of this machine do not see)",
    )
    _takes_store(parser)
    options = parser.parse_args(given)
    from mnist_sweep.results.models import serve

    return serve.serve(options.model, options.tracking_uri, options.host, options.port, options.token)


def _rerun(given: list[str]) -> int:
    parser = _parser(
        "rerun",
        "Trains a trial again from what was logged, and says whether every metric of every epoch is the same. "
        "The exit code is 0 where it is, 1 where not.",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help=f"an MLflow run's id or its beginning; or {_SWEEP} (default: the last one)",
    )
    parser.add_argument("trial", nargs="?", type=int, metavar="TRIAL", help="of that sweep (default: its best)")
    _takes_store(parser)
    options = parser.parse_args(given)
    from mnist_sweep.common.tables import standard_output
    from mnist_sweep.common.termination import ended_by_signals
    from mnist_sweep.driver import rerun

    with ended_by_signals():
        return rerun.rerun(options.run, options.trial, options.tracking_uri, standard_output())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.rpartition(' ')[2]}: {message}; {self.prog} --help tells what it takes")


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return _Parser(
        prog=f"python -m mnist_sweep {command}",
        description=description,
        epilog="--debug before or after anything shows the traceback of an error.",
    )


def _takes_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_SWEEP} (default: the last one)")
    _takes_store(parser)


def _takes_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tracking-uri", metavar="URI", help="the MLflow store (default: the one that the sweep used)")


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
