"""The command line: `sweep`, which is the default; `commands.py` has its companions."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mnist_sweep.commands import COMMANDS
from mnist_sweep.errors import UserError, did_you_mean
from mnist_sweep.mlflow_store import without_password

_DEBUG = "HYDRA_FULL_ERROR"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    # At its end Python looks through all that was imported for garbage: 0.9 s of CPU where that is MLflow.
    atexit.register(gc.freeze)
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
        # Not imported: most errors come before MLflow.
        mlflow = sys.modules.get("mlflow.exceptions")
        if mlflow is not None and isinstance(error, mlflow.MlflowException):
            told = without_password(lines[0]) if lines else type(error).__name__
            print(
                f"mnist_sweep: MLflow does not answer ({told}); start the server, or name another store with "
                "--tracking-uri or MLFLOW_TRACKING_URI",
                file=sys.stderr,
            )
            sys.exit(2)
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
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    if given and not given[0].startswith("-") and "=" not in given[0] and not given[0].startswith("~"):
        raise UserError(f"{given[0]}: there is no such command{did_you_mean(given[0], COMMANDS)}")
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
        from mnist_sweep.journal import FILE, never_begun
        from mnist_sweep.mlflow_store import without_password
        from mnist_sweep.tables import standard_output

        wished = Path(HydraConfig.get().runtime.output_dir)
        folder = launch.claim(wished)
        for killed in never_begun(folder.parent):
            # With a copy of its images, which may be large, and nothing that could be gone on with.
            launch.discard(killed)
        for file in (folder / ".hydra").glob("*.yaml"):
            # Hydra writes down what was typed, a password in a tracking URI too.
            write_whole(file, without_password(file.read_text(encoding="utf-8")))
        try:
            plain = compose.plain(config)
            auto = plain["resume"] == "auto"
            old = resume.to_go_on_with(plain, wished, lambda line: print(line, flush=True)) if auto else None
            if old is None:
                hydra_config = HydraConfig.get()
                before = compose.baseline(plain, hydra_config.overrides.task, hydra_config.runtime.choices)
                codes.append(launch.run(plain, folder, standard_output(), baseline=before))
            else:
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
