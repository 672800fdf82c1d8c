"""The commands besides running a sweep: their arguments, and the functions that they call."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import STORE_VARIABLE, hide
from mnist_sweep.common.termination import ended_by_signals

if TYPE_CHECKING:
    from rich.console import Console

_SWEEP = "NAME/TIME, a sweep's folder, or NAME for its last sweep"
# A key of the config that is no sweep: without an equals sign, its value is missing.
KEY = re.compile(r"(model|optimizer|training|task|augment|search|data|workers|tracking|limits)(\.\w+)+")
_TRIAL = f"{_SWEEP}; the ID of an MLflow run, or its first digits; or models:/NAME@champion"


def _experiments(given: list[str]) -> int:
    _Parser("experiments", "Lists the experiments, with a description of each.").parse_args(given)
    from mnist_sweep.config import compose

    found = compose.experiments()
    width = max(map(len, found), default=0)
    for name, description in found.items():
        print(f"{name:{width}}  {description}".rstrip())
    return 0


def _show_data(given: list[str]) -> int:
    parser = _Parser(
        "show-data",
        "Shows a data set: plots its images and counts each class, or prints what columns and targets are read as.",
    )
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
    parser.add_store()
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.config import services
    from mnist_sweep.driver import resume

    changes = [text for text in options.given if "=" in text and not Path(text).exists()]
    sweeps = [text for text in options.given if text not in changes]
    _refuse_keys("resume", sweeps)
    if len(sweeps) > 1:
        raise UserError(f"resume: continues one sweep, not {', '.join(sweeps)}")
    return resume.resume(
        next(iter(sweeps), None),
        [services.kept(text) for text in changes],
        _console(),
        other_versions=options.other_versions,
        retry_failed=options.retry_failed,
        tracking_uri=options.tracking_uri,
    )


def _steer(given: list[str]) -> int:
    parser = _Parser("steer", "Changes a running sweep. The changes are kept when it is resumed.")
    parser.usage = f"{parser.prog} [SWEEP] stop|add|pause|continue|set|slots …"
    parser.epilog = f"""\
stop TRIAL         stop a trial after its current epoch; it keeps its result
add KEY=VALUE …    try these hyperparameter values next; the others are chosen as for search.enqueue
pause              start no more trials; running ones continue
continue           start trials again
set KEY=VALUE …    change search.max_trials, time_budget, target or max_failures; or narrow what is searched:
                   'optimizer.learning_rate=interval(1e-4,1e-2)'
slots NUMBER       use this many slots; the others end their trial first, then free the memory of their GPU

{parser.epilog}"""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    running = f"{_SWEEP.replace('its last sweep', 'its running sweep; or last')} (default: the only running one)"
    parser.add_argument("given", nargs="+", metavar="SWEEP", help=running)
    # What follows may start with a minus.
    options = parser.parse_args(["--help"] if {"-h", "--help"} & set(given) else ["--", *given])
    from mnist_sweep.driver import steering

    words = options.given
    names_sweep = words[0] not in steering.WISHES or (words[1:2] and words[1] in steering.WISHES)
    sweep, rest = (words[0], words[1:]) if names_sweep else (None, words)
    if not rest or rest[0] not in steering.WISHES:
        parser.error(f"{' '.join(words)}: write one of {', '.join(steering.WISHES)} after the sweep")
    print(steering.steer(sweep, rest[0], rest[1:]).text)
    return 0


def _watch(given: list[str]) -> int:
    from mnist_sweep.cli import watch

    parser = _Parser("watch", "Serves a page to follow and change running sweeps, until Ctrl-C.")
    one = _SWEEP.replace("its last sweep", "its running sweep, or else its last one")
    which = f"each {one} (default: all in experiments/)"
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=which)
    parser.add_address(watch.HOST, watch.PORT)
    token = (
        "the token in the page's link; without it, the page is read-only, and other machines cannot read it (default: "
        "the variable MNIST_SWEEP_TOKEN, or a new one)"
    )
    parser.add_argument("--token", help=token)
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args(given)
    _refuse_keys("watch", options.sweeps)
    return watch.watch(options.sweeps, options.host, options.port, options.token, open_browser=options.open)


def _sync(given: list[str]) -> int:
    about = (
        "Adds to MLflow what is missing of a sweep, from the sweep's journal and folder. Restores what was deleted "
        "there, and ends the runs of killed sweeps."
    )
    parser = _Parser("sync", about)
    parser.add_sweep()
    parser.add_argument("--all", action="store_true", help="all sweeps in experiments/, as after a store was deleted")
    parser.add_store()
    options = parser.parse_args(given)
    if options.all and options.sweep is not None:
        raise UserError(f"sync: give {options.sweep} or --all, not both")
    from mnist_sweep.driver import sync

    with ended_by_signals():
        return sync.sync(options.sweep, _console(), tracking_uri=options.tracking_uri, every=options.all)


def _report(given: list[str]) -> int:
    parser = _Parser("report", "Writes a report on a sweep as one HTML file that works offline, and prints its path.")
    parser.add_trial("a trial to show in detail in place of the winner")
    parser.add_store()
    parser.add_file("--to", "where to write it (default: report.html or report-trial-N.html in the sweep's folder)")
    options, trial = parser.parse_trial(given)
    from mnist_sweep.results import report

    print(report.report(options.sweep, trial, options.tracking_uri, options.to))
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

    about = (
        "Writes a sweep's best model, or a trial's, in other formats with a manifest. Checks each file's predictions."
    )
    parser = _Parser("export", about)
    parser.add_trial("the trial whose model to write")
    parser.add_store()
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder to write to")
    names = f"some of {', '.join(formats.FORMATS)} (default: {formats.DEFAULT})"
    parser.add_argument("--format", metavar="A,B", default=formats.DEFAULT, help=names)
    options, trial = parser.parse_trial(given)
    wanted = formats.chosen(options.format)
    from mnist_sweep.results.models import export

    export.export(options.sweep, trial, options.tracking_uri, options.to, wanted)
    return 0


def _predict(given: list[str]) -> int:
    parser = _Parser("predict", "Predicts from pictures, tables or arrays, and says why an answer may be wrong.")
    files = (
        "what the model was trained on: PNG, JPEG, BMP, GIF or WebP pictures of any usual size; CSV, Parquet or Excel "
        "files with its columns; or .npz files with x, or x_NAME for each of several inputs. SWEEP, or SWEEP TRIAL, "
        "may precede the files: they have no ending such as .png"
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help=files)
    parser.add_argument("--model", metavar="SWEEP", help=f"{_TRIAL} (default: the last sweep)")
    parser.add_argument("--trial", metavar="N", type=int, help="a trial of that sweep (default: the best)")
    form = "default: table; json prints all predictions and writes no file"
    parser.add_argument("--format", choices=("table", "json"), default="table", help=form)
    parser.add_file("--to", "where to write predictions for a table or arrays (default: NAME_predictions next to it)")
    parser.add_argument("--save-input", metavar="DIR", type=Path, help="write PNGs of what the model sees to DIR")
    parser.add_store()
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.results.models import predict

    sweep, trial, paths = _model_and_files(options.model, options.trial, options.files)
    if not paths:
        raise UserError("predict: name at least one file: a picture, a table or an .npz file")
    as_json = options.format == "json"
    return predict.predict(
        paths, sweep, trial, options.tracking_uri, as_json=as_json, seen=options.save_input, to=options.to
    )


def _serve(given: list[str]) -> int:
    parser = _Parser(
        "serve",
        "Serves a page to try a sweep's models: draw digits, open pictures or fill in a form.",
    )
    parser.add_trial("the trial whose model answers first")
    parser.add_address("127.0.0.1", 8000)
    token = (
        "the token that requests must carry, required with any other --host; auto generates and prints one (default: "
        "the variable MNIST_SWEEP_TOKEN, which other users of this machine cannot see)"
    )
    parser.add_argument("--token", help=token)
    parser.add_store()
    options, trial = parser.parse_trial(given)
    from mnist_sweep.results.models import serve

    return serve.serve(options.sweep, trial, options.tracking_uri, options.host, options.port, options.token)


def _rerun(given: list[str]) -> int:
    about = (
        "Trains a trial again from what was logged, and checks whether every metric of every epoch is the same. "
        "The exit code is 0 if it is, and 1 if not. A failed trial is trained to its end."
    )
    parser = _Parser("rerun", about)
    parser.add_trial("the trial to train")
    parser.add_store()
    options, trial = parser.parse_trial(given)
    from mnist_sweep.driver import rerun

    with ended_by_signals():
        return rerun.rerun(options.sweep, trial, options.tracking_uri, _console())


def _retrain(given: list[str]) -> int:
    about = (
        "Trains a trial's hyperparameter values once more from the start, longer or on all training data. It gets a "
        "folder and an MLflow run of its own, which export, predict and serve take."
    )
    parser = _Parser("retrain", about)
    what = (
        f"{_TRIAL} (default: the last sweep); a trial of that sweep (default: the best); and what to change, such as "
        "training.epochs=50, data.validation_split=0 (train on all training data) or seed=2"
    )
    parser.add_argument("given", nargs="*", metavar="SWEEP|TRIAL|KEY=VALUE", help=what)
    parser.add_argument("--trial", metavar="N", type=int, help="the same as TRIAL")
    test = "test the model on the test data. Do that for one model only: a choice by test scores makes them too good"
    parser.add_argument("--test", action="store_true", help=test)
    parser.add_argument("--register", action="store_true", help="add the model to MLflow's model registry")
    parser.add_argument("--champion", action="store_true", help="the same, and make it the champion")
    parser.add_store()
    options, unknown = parser.parse_known_intermixed_args(given)
    if unknown:
        from mnist_sweep.cli.options import check_options

        check_options(given[given.index(unknown[0]) :][:2])
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    overrides = [text for text in options.given if "=" in text and not Path(text).exists()]
    named = [text for text in options.given if text not in overrides]
    _refuse_keys("retrain", named)
    sweep, trial = parser.trial_of(named, options.trial)
    from mnist_sweep.driver import retrain

    return retrain.retrain(
        sweep,
        trial,
        overrides,
        options.tracking_uri,
        _console(),
        test=options.test,
        register=options.register,
        champion=options.champion,
    )


def _refuse_keys(command: str, named: list[str]) -> None:
    """Refuses keys without a value among arguments that should name a sweep and a trial."""
    for text in filter(KEY.fullmatch, named):
        raise UserError(f"{command}: {text}: write KEY=VALUE: {text}=…")


def _model_and_files(
    sweep: str | None, trial: int | None, given: list[str]
) -> tuple[str | None, int | None, list[Path]]:
    """Tells the arguments that name a model from those that name files."""
    if sweep is None and _names_a_model(given[0]):
        sweep, given = given[0], given[1:]
        if given and trial is None and given[0].isdecimal() and not Path(given[0]).exists():
            trial, given = int(given[0]), given[1:]
    return sweep, trial, [Path(file) for file in given]


def _names_a_model(text: str) -> bool:
    from mnist_sweep.journal.folders import sweeps

    path = Path(text)
    if path.is_dir():
        return bool(sweeps(path))
    return text.startswith("models:/") or not (path.suffix or path.exists())


def _hidden(uri: str) -> str:
    """Takes a URI, whose password is hidden from here on whenever it is printed."""
    hide(uri)
    return uri


def _console() -> Console:
    # Imported on demand: `--help` does not need rich.
    from mnist_sweep.common.tables import standard_output

    return standard_output()


# argparse's messages in the words of the other ones.
_PLAINER = {
    "^the following arguments are required: (.*)": r"\1 is missing",
    "^argument (.*): expected one argument": r"\1 needs a value",
    "^argument (.*): invalid int value: '(.*)'": r"\1=\2: must be a whole number",
}


class _Parser(argparse.ArgumentParser):
    """A command's parser, with the arguments that several commands have."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=invocation.command(command),
            description=description,
            epilog="--debug, anywhere on the command line, shows the traceback of an error.",
        )

    def error(self, message: str) -> NoReturn:
        for pattern, plain in _PLAINER.items():
            message = re.sub(pattern, plain, message)
        raise UserError(f"{self.prog.rpartition(' ')[2]}: {message}; see {self.prog} --help")

    def add_sweep(self) -> None:
        self.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_SWEEP} (default: the last one)")

    def add_trial(self, purpose: str) -> None:
        """Adds `SWEEP [TRIAL]` and `--trial N`, which every command about one trial takes."""
        self.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_TRIAL} (default: the last sweep)")
        self.add_argument("number", nargs="?", metavar="TRIAL", help=f"{purpose} (default: the best)")
        self.add_argument("--trial", metavar="N", type=int, help="the same as TRIAL")

    def parse_trial(self, given: list[str]) -> tuple[argparse.Namespace, int | None]:
        """Returns the options of a command with `add_trial`, and the trial's number.

        Raises:
            UserError: They cannot be understood.
        """
        options = self.parse_intermixed_args(given)
        named = [text for text in (options.sweep, options.number) if text is not None]
        return options, self.trial_of(named, options.trial)[1]

    def trial_of(self, named: list[str], trial: int | None) -> tuple[str | None, int | None]:
        """Returns the sweep and the trial that arguments name.

        Args:
            named: `SWEEP` and `TRIAL`, as far as they are given.
            trial: What `--trial` says.

        Raises:
            UserError: They cannot be understood.
        """
        if len(named) > 2:
            self.error(f"unrecognized arguments: {' '.join(named[2:])}")
        sweep, number = (dict(enumerate(named)).get(place) for place in (0, 1))
        if number is None:
            return sweep, trial
        if not number.isdecimal():
            self.error(f"TRIAL must be a number, not {number}")
        if trial is not None:
            self.error(f"trial {number} and --trial {trial}: give only one of them")
        return sweep, int(number)

    def add_store(self) -> None:
        default = f"{STORE_VARIABLE}, or else the one the sweep used"
        self.add_argument("--tracking-uri", metavar="URI", type=_hidden, help=f"the MLflow store (default: {default})")

    def add_file(self, option: str, text: str) -> None:
        self.add_argument(option, metavar="FILE", type=Path, help=text)

    def add_address(self, host: str, port: int) -> None:
        self.add_argument("--port", type=int, default=port, help=f"default: {port}; 0 for any free one")
        self.add_argument("--host", default=host, help=f"default: {host}, which only this machine can reach")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "experiments": _experiments,
    "show-data": _show_data,
    "resume": _resume,
    "watch": _watch,
    "steer": _steer,
    "sync": _sync,
    "report": _report,
    "compare": _compare,
    "ui": _ui,
    "export": _export,
    "predict": _predict,
    "serve": _serve,
    "rerun": _rerun,
    "retrain": _retrain,
}
