"""The commands that go with a sweep: what each takes, and where it is done."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

_SWEEP = "NAME/TIME, a sweep's folder, or NAME for its last one"


def _resume(given: list[str]) -> int:
    parser = _parser("resume", "Goes on with an interrupted sweep, as if it had never been interrupted.")
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_SWEEP} (default: the last unfinished one)")
    parser.add_argument("longer", nargs="*", metavar="KEY=VALUE", help="a longer budget: search.max_trials=40")
    options = parser.parse_args(given)
    from mnist_sweep import resume
    from mnist_sweep.tables import standard_output

    named = options.sweep is not None and "=" not in options.sweep
    longer = options.longer if named or options.sweep is None else [options.sweep, *options.longer]
    return resume.resume(options.sweep if named else None, longer, standard_output())


def _sync(given: list[str]) -> int:
    parser = _parser("sync", "Writes a sweep's journal into MLflow, where it lacks anything, or was deleted.")
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"{_SWEEP} (default: the last one)")
    options = parser.parse_args(given)
    from mnist_sweep import resume
    from mnist_sweep.tables import standard_output

    return resume.sync(options.sweep, standard_output())


def _experiments(given: list[str]) -> int:
    _parser("experiments", "Lists the experiments, with a line on each.").parse_args(given)
    from mnist_sweep import compose

    found = compose.experiments()
    width = max(map(len, found), default=0)
    for name, description in found.items():
        print(f"{name:{width}}  {description}".rstrip())
    return 0


def _compare(given: list[str]) -> int:
    parser = _parser("compare", "Prints a sweep's runs as a table, the best first, and writes them all as CSV.")
    _takes_sweep(parser)
    parser.add_argument(
        "--csv", metavar="FILE", type=Path, help="where to write (default: runs.csv in the sweep's folder)"
    )
    options = parser.parse_args(given)
    from mnist_sweep.results import compare

    compare.compare(options.sweep, options.tracking_uri, options.csv)
    return 0


def _export(given: list[str]) -> int:
    parser = _parser("export", "Writes a sweep's best model as .h5 and .keras, with a manifest, and checks both.")
    _takes_sweep(parser)
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder to write to")
    options = parser.parse_args(given)
    from mnist_sweep.results import export

    export.export(options.sweep, options.tracking_uri, options.to)
    return 0


def _predict(given: list[str]) -> int:
    parser = _parser("predict", "Reads pictures of digits, and tells where the answer may be wrong.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="a PNG or JPEG, of any size")
    parser.add_argument(
        "--model", metavar="MODEL", help=f"a sweep ({_SWEEP}) or models:/NAME@champion (default: the last sweep)"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.add_argument("--save-input", metavar="DIR", type=Path, help="write there what the model sees, as PNG")
    _takes_store(parser)
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.results import predict

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
    _takes_store(parser)
    options = parser.parse_args(given)
    from mnist_sweep.results import serve

    return serve.serve(options.model, options.tracking_uri, options.host, options.port)


def _show_data(given: list[str]) -> int:
    parser = _parser("show-data", "Draws the first images of a data set, and how many there are of each class.")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for a sweep: data=fashion_mnist, data.path=FILE …"
    )
    parser.add_argument("--to", metavar="FILE", type=Path, default=Path("data.png"), help="default: data.png")
    options = parser.parse_intermixed_args(given)
    from mnist_sweep.results import show_data

    show_data.show_data(options.overrides, options.to)
    return 0


def _ui(given: list[str]) -> int:
    parser = _parser("ui", "Opens MLflow's pages on the runs, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=5000, help="default: 5000")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, which this machine alone can reach")
    _takes_store(parser)
    options = parser.parse_args(given)
    from mnist_sweep import ui

    return ui.serve(options.tracking_uri, options.host, options.port)


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
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
    "compare": _compare,
    "resume": _resume,
    "sync": _sync,
    "export": _export,
    "predict": _predict,
    "serve": _serve,
    "show-data": _show_data,
    "ui": _ui,
}
