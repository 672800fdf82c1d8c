"""The command line's entry point, which runs a sweep, or one of the commands in `commands.py`."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_sweep.cli import hints, options
from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common import shadowing
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import interpreter, pip_install
from mnist_sweep.common.secrets import STORE_VARIABLE, hide, masked
from mnist_sweep.common.termination import ended_by_signals
from mnist_sweep.common.text import first_line, kind_and_line, one_line, os_reason

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

_DEBUG = "HYDRA_FULL_ERROR"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: The arguments without the program's name; the process's by default.
    """
    # Otherwise, Python looks for garbage in all imported modules at exit, which takes 0.9 s of CPU with MLflow.
    atexit.register(gc.freeze)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given.remove("--debug")
        os.environ[_DEBUG] = "1"
    # From here on, its password is hidden whenever it is printed.
    hide(os.environ.get(STORE_VARIABLE, ""))
    debug = os.environ.get(_DEBUG, "0") == "1"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal cannot show must not raise errors.
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    try:
        sys.exit(_run(given))
    except UserError as error:
        _end(2, str(error), error, debug)
    except KeyboardInterrupt:
        print("mnist_sweep: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _end(2, _unusable(error), error, debug)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mnist_sweep"):
            _end(2, missing_package(error), error, debug)
        # MLflow is not imported here, as most errors occur before it is needed.
        mlflow = sys.modules.get("mlflow.exceptions")
        if mlflow is not None and isinstance(error, mlflow.MlflowException):
            message = (
                f"MLflow does not answer ({first_line(error)}); start the server, or name another store with "
                "--tracking-uri or MLFLOW_TRACKING_URI"
            )
            _end(2, message, error, debug)
        try:
            shadowing.check()
        except shadowing.HidesLibrary as cause:
            _end(2, str(cause), error, debug)
        what = f"unexpected {kind_and_line(error)}; this is a bug in mnist_sweep: --debug shows where"
        _end(1, what, error, debug)


def _end(code: int, message: str, error: Exception, debug: bool) -> NoReturn:
    if debug:
        from mnist_sweep.driver.logs import shown_traceback

        print(shown_traceback(error), file=sys.stderr, end="")
    print(f"mnist_sweep: {masked(one_line(message))}", file=sys.stderr)
    sys.exit(code)


def _unusable(error: OSError) -> str:
    # NumPy's error on a full disk has neither a file name nor a number.
    return f"{error.filename or 'disk'}: cannot be used ({os_reason(error)})"


def missing_package(error: ModuleNotFoundError) -> str:
    """Returns what to do about a package that is not installed.

    Args:
        error: What the import raised.
    """
    package = str(error.name or error).partition(".")[0]
    source = Path(__file__).parents[2]
    environment = source / ".venv" / "bin" / "python"
    # The interpreter of an environment may be a link to the one that runs.
    if environment.exists() and Path(sys.prefix).resolve() != environment.parents[1].resolve():
        todo = f"run this command with {os.path.relpath(environment)}, which has it"
    elif (source / "pyproject.toml").exists():
        todo = f"to install it: {pip_install('-e', os.path.relpath(source))}"
    else:
        todo = f"to install it: {pip_install('mnist_sweep')}"
    return f"the package {package} is not installed for {interpreter()}; {todo}"


def _run(given: list[str]) -> int:
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    if given and not given[0].startswith("-") and "=" not in given[0] and not given[0].startswith("~"):
        raise hints.no_such_command(given)
    return _sweep(given)


def _sweep(given: list[str]) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from mnist_sweep.cli import hydra_folder
    from mnist_sweep.config import compose, shipped
    from mnist_sweep.config.grammar import quote_sweeps

    options.check_options(given)
    codes: list[int] = []

    def task(config: DictConfig) -> None:
        with hydra_folder.past_hydra():
            codes.append(_run_job(config, HydraConfig.get()))
        if codes[-1] == 130:
            # Ctrl-C also cancels the multirun's remaining sweeps.
            raise SystemExit(130)

    compose.register()
    for ignored in filter(None, (compose.ignored_config(), compose.ignored_experiment_name())):
        print(f"mnist_sweep: {ignored}", file=sys.stderr)
    multirun = any(flag in given for flag in ("-m", "--multirun", "hydra.mode=MULTIRUN"))
    flags = [argument for argument in given if argument in ("-m", "--multirun")]
    rest = [_without_secret(argument) for argument in given if argument not in flags]
    sys.argv = ["mnist_sweep", *flags, *quote_sweeps(rest, intervals_only=multirun)]
    # This makes Hydra raise its errors instead of printing them.
    before = os.environ.get(_DEBUG)
    os.environ[_DEBUG] = "1"
    try:
        with ended_by_signals():
            hydra.main(version_base="1.3", config_path=str(shipped.folder()), config_name=compose.CONFIG)(task)()
    except compose.COMPOSITION_ERRORS as error:
        raise compose.explain(error, given) from error
    except hydra_folder.Refused as refused:
        raise compose.explained(refused.error, given) from refused.error
    finally:
        hydra_folder.give_up_unused()
        if before is None:
            del os.environ[_DEBUG]
        else:
            os.environ[_DEBUG] = before
    return max(codes, default=0)


def _run_job(config: DictConfig, hydra_config: HydraConf) -> int:
    """Runs the sweep of a config that Hydra has composed, or continues the interrupted sweep with this config."""
    from mnist_sweep.cli import hydra_folder
    from mnist_sweep.common.tables import standard_output
    from mnist_sweep.config import compose
    from mnist_sweep.config.settings import check_settings
    from mnist_sweep.config.unused import refuse_unused
    from mnist_sweep.driver import launch, resume
    from mnist_sweep.journal import folders
    from mnist_sweep.tracking.uri import with_password

    claim = hydra_folder.claimed(Path(hydra_config.runtime.output_dir))
    for killed in folders.never_started(claim.folder.parent):
        # There is nothing to continue, but a copy of the images, which may be large.
        folders.discard(killed)
    plain = compose.plain(config)
    check_settings(plain)
    refuse_unused(plain)
    plain["tracking"]["uri"] = with_password(plain["tracking"]["uri"])
    hide(plain["tracking"]["uri"])
    if plain["resume"] == "auto":
        old = resume.to_continue(plain, claim.wished, lambda line: print(line, flush=True))
        if old is not None:
            return launch.run(plain, old, standard_output(), resume=True)
    for line in compose.replaced_options(hydra_config.runtime.choices):
        print(line, flush=True)
    hydra_folder.save_configs(config, hydra_config, claim.folder)
    before = compose.baseline(plain, hydra_config.overrides.task, hydra_config.runtime.choices)
    return launch.run(plain, claim.folder, standard_output(), baseline=before)


def _without_secret(argument: str) -> str:
    """Hides the password of a tracking URI in an override, which Hydra would print and write to a file."""
    from mnist_sweep.config.grammar import values_of

    key, equals, value = argument.partition("=")
    if key.lstrip("+") != "tracking.uri" or not equals:
        return argument
    for uri in values_of(argument) or [value]:
        argument = argument.replace(uri, hide(uri))
    return argument
