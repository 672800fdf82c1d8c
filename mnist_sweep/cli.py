"""The command line: sweep (the default) and its companions."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from mnist_sweep.errors import UserError, did_you_mean

_DEBUG = "HYDRA_FULL_ERROR"
_SWEEP = "NAME/TIME, a sweep's folder, or NAME for its last one"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given.remove("--debug")
        os.environ[_DEBUG] = "1"
    debug = os.environ.get(_DEBUG, "0") == "1"
    try:
        sys.exit(_run(given))
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"mnist_sweep: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mnist_sweep: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe, `head` say, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        lines = str(error).strip().splitlines()
        print(
            f"mnist_sweep: unexpected {type(error).__name__}{': ' + lines[0] if lines else ''}; "
            "this is a fault of the program: --debug shows where",
            file=sys.stderr,
        )
        sys.exit(1)


class _Carried(BaseException):
    """Carries an error past Hydra, which would print a line of its own about any Exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _unwritable(error: OSError) -> UserError:
    # NumPy's own, on a full disk, has neither a name nor a number.
    return UserError(f"{error.filename or 'disk'}: cannot be written ({error.strerror or error})")


def _run(given: list[str]) -> int:
    if given and given[0] in _COMMANDS:
        return _COMMANDS[given[0]](given[1:])
    if given and not given[0].startswith("-") and "=" not in given[0] and not given[0].startswith("~"):
        raise UserError(f"{given[0]}: there is no such command{did_you_mean(given[0], _COMMANDS)}")
    return _sweep(given)


def _sweep(given: list[str]) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from mnist_sweep import compose
    from mnist_sweep.grammar import quote_sweeps

    codes: list[int] = []

    def task(config: DictConfig) -> None:
        from mnist_sweep import launch, resume
        from mnist_sweep.files import write_whole
        from mnist_sweep.journal import FILE, read
        from mnist_sweep.mlflow_store import without_password
        from mnist_sweep.tables import standard_output

        folder = launch.claim(Path(HydraConfig.get().runtime.output_dir))
        for file in (folder / ".hydra").glob("*.yaml"):
            # Hydra writes down what was typed, a password in a tracking URI too.
            write_whole(file, without_password(file.read_text(encoding="utf-8")))
        try:
            plain = compose.plain(config)
            old = resume.last_unfinished(plain["name"]) if plain["resume"] == "auto" else None
            if old is None:
                hydra_config = HydraConfig.get()
                before = compose.baseline(hydra_config.overrides.task, hydra_config.runtime.choices)
                codes.append(launch.run(plain, folder, standard_output(), baseline=before))
            else:
                resume.check_unchanged(resume.last_config(list(read(old)), old), plain)
                resume.log_to(old)
                codes.append(launch.run(plain, old, standard_output(), resume=True))
            if codes[-1] == 130:
                # Ctrl-C is meant for the sweeps of a multirun that are still to come, too.
                raise SystemExit(130)
        except Exception as error:
            raise _Carried(error) from error
        finally:
            if not (folder / FILE).exists() or not (folder / FILE).stat().st_size:
                # Nothing has begun that could be gone on with.
                launch.discard(folder)

    compose.register()
    multirun = any(flag in given for flag in ("-m", "--multirun", "hydra.mode=MULTIRUN"))
    flags = [argument for argument in given if argument in ("-m", "--multirun")]
    rest = [argument for argument in given if argument not in flags]
    sys.argv = ["mnist_sweep", *flags, *quote_sweeps(rest, intervals_only=multirun)]
    # Hydra then raises its errors instead of printing them in its own way.
    before = os.environ.get(_DEBUG)
    os.environ[_DEBUG] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(compose.packaged()), config_name=compose.CONFIG)(task)()
    except compose.COMPOSITION_ERRORS as error:
        raise compose.explain(error, given) from error
    except OSError as error:
        raise _unwritable(error) from error
    except _Carried as carried:
        raise (_unwritable(carried.error) if isinstance(carried.error, OSError) else carried.error) from carried.error
    finally:
        if before is None:
            del os.environ[_DEBUG]
        else:
            os.environ[_DEBUG] = before
    return max(codes, default=0)


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


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "experiments": _experiments,
    "compare": _compare,
    "resume": _resume,
    "sync": _sync,
    "export": _export,
    "ui": _ui,
}
