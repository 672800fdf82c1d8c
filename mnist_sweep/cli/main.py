"""The command line's entry point, which runs a sweep, or one of the commands in `commands.py`."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_sweep.cli import hints
from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.cli.options import check_options
from mnist_sweep.common import shadowing
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import interpreter, pip_install
from mnist_sweep.common.ports import keep_loopback_direct
from mnist_sweep.common.secrets import STORE_VARIABLE, hide, hide_login, masked
from mnist_sweep.common.termination import ended_by_signals
from mnist_sweep.common.text import first_line, kind_and_line, one_line, os_reason
from mnist_sweep.common.versions import versions

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from mnist_sweep.cli.multirun import Job

_DEBUG = "HYDRA_FULL_ERROR"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: The arguments without the program's name; the process's by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given.remove("--debug")
        os.environ[_DEBUG] = "1"
    debug = os.environ.get(_DEBUG, "0") == "1"
    exit_with(lambda: _run(given, debug))


def exit_with(run: Callable[[], int]) -> NoReturn:
    """Runs something as this process's only work, and exits with its code, or with the one that fits its error.

    Args:
        run: Returns the exit code.
    """
    # Otherwise, Python looks for garbage in all imported modules at exit, which takes 0.9 s of CPU with MLflow.
    atexit.register(gc.freeze)
    # As MLflow does, an empty variable is taken for one that is not set. Copied ones may end with a blank.
    store = os.environ.pop(STORE_VARIABLE, "").strip()
    if store:
        os.environ[STORE_VARIABLE] = store
    # From here on, its password is hidden whenever it is printed.
    hide(store)
    hide_login()
    keep_loopback_direct()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal cannot show must not raise errors.
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    try:
        sys.exit(run())
    except KeyboardInterrupt:
        print("mnist_sweep: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        code, message = _explained(error)
        _tell(message, error, os.environ.get(_DEBUG, "0") == "1")
        sys.exit(code)


def _explained(error: Exception) -> tuple[int, str]:
    """Returns the exit code for an error, and what to print."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, OSError):
        return 2, _unusable(error)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mnist_sweep"):
        return 2, missing_package(error)
    # MLflow is not imported here, as most errors occur before it is needed.
    mlflow = sys.modules.get("mlflow.exceptions")
    if mlflow is not None and isinstance(error, mlflow.MlflowException):
        return 2, _mlflow_failed(error)
    try:
        shadowing.check()
    except shadowing.HidesLibrary as cause:
        return 2, str(cause)
    return 1, f"unexpected {kind_and_line(error)}; this is a bug in mnist_sweep: --debug shows where"


def _tell(message: str, error: Exception, debug: bool) -> None:
    if debug:
        from mnist_sweep.driver.logs import shown_traceback

        print(shown_traceback(error), file=sys.stderr, end="")
    print(f"mnist_sweep: {masked(one_line(message))}", file=sys.stderr, flush=True)


def _mlflow_failed(error: Exception) -> str:
    from mnist_sweep.tracking.faults import lasting_fault

    other = "name another store with --tracking-uri or MLFLOW_TRACKING_URI"
    fault = lasting_fault(error, "")
    if fault is not None:
        return f"MLflow cannot be used: {fault}; or {other}"
    return f"MLflow does not answer ({first_line(error)}); start the server, or {other}"


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


def _run(given: list[str], debug: bool) -> int:
    if given[:1] == ["--version"]:
        # Hydra's would print its own.
        print("\n".join(f"{name} {version}" for name, version in versions().items()))
        return 0
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    if given and not given[0].startswith("-") and "=" not in given[0] and not given[0].startswith("~"):
        raise hints.no_such_command(given)
    return _sweep(given, debug)


class _Cancelled(BaseException):
    """Ends a multirun; Hydra lets it pass."""


def _sweep(given: list[str], debug: bool) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from mnist_sweep.cli import hydra_folder
    from mnist_sweep.config import compose, shipped
    from mnist_sweep.config.grammar import quote_sweeps

    check_options(given)
    codes: list[int] = []

    def task(config: DictConfig) -> None:
        hydra_config, multirun = HydraConfig.get(), hydra_folder.multirun()
        job = multirun.jobs.get(int(hydra_config.job.num)) if multirun is not None else None
        if job is None:
            with hydra_folder.past_hydra():
                codes.append(_run_job(config, hydra_config))
        else:
            codes.append(_run_one_of_several(config, hydra_config, job, debug))
        if codes[-1] == 130:
            # Ctrl-C also cancels the multirun's remaining sweeps.
            raise _Cancelled

    compose.register()
    for ignored in filter(None, (compose.ignored_config(), compose.ignored_experiment_name())):
        print(f"mnist_sweep: {ignored}", file=sys.stderr)
    several = any(flag in given for flag in ("-m", "--multirun", "hydra.mode=MULTIRUN"))
    flags = [argument for argument in given if argument in ("-m", "--multirun")]
    rest = [without_secret(argument) for argument in given if argument not in flags]
    sys.argv = ["mnist_sweep", *flags, *quote_sweeps(rest, intervals_only=several)]
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
    except _Cancelled:
        pass
    finally:
        _print_multirun(given)
        hydra_folder.give_up_unused()
        if before is None:
            del os.environ[_DEBUG]
        else:
            os.environ[_DEBUG] = before
    return max(codes, default=0)


def _print_multirun(given: Sequence[str]) -> None:
    """Prints what has become of the sweeps of a multirun that has begun."""
    from mnist_sweep.cli import hydra_folder

    multirun = hydra_folder.multirun()
    for line in multirun.lines(given) if multirun is not None else ():
        print(line, flush=True)


def _run_one_of_several(config: DictConfig, hydra_config: HydraConf, job: Job, debug: bool) -> int:
    """Runs or continues a sweep of a multirun, and prints why it cannot: the others don't depend on it."""
    from mnist_sweep.cli import hydra_folder
    from mnist_sweep.common.tables import standard_output

    try:
        if job.past is None:
            job.code = _run_job(config, hydra_config, job)
        elif job.past.complete:
            print(f"{job.past.folder} is complete", flush=True)
            job.code = 0
        else:
            job.code = job.past.run(standard_output())
    except BrokenPipeError as error:
        raise hydra_folder.Refused(error) from error
    except KeyboardInterrupt:
        print("mnist_sweep: interrupted", file=sys.stderr)
        job.code = 130
    except Exception as error:
        job.code, job.reason = _explained(error)
        _tell(job.reason, error, debug)
    return job.code


def _run_job(config: DictConfig, hydra_config: HydraConf, job: Job | None = None) -> int:
    """Runs the sweep of a config that Hydra has composed, or continues the interrupted sweep with this config.

    Args:
        config: The sweep's config.
        hydra_config: Hydra's config.
        job: The sweep, if it is one of several; it gets its folder. Which sweep it continues has been found before.
    """
    from mnist_sweep.cli import hydra_folder
    from mnist_sweep.cli.sweep_config import checked
    from mnist_sweep.common.tables import standard_output
    from mnist_sweep.config import compose
    from mnist_sweep.driver import launch, resume
    from mnist_sweep.journal import folders

    claim = hydra_folder.claimed(Path(hydra_config.runtime.output_dir))
    if job is not None:
        job.folder = claim.folder
    for killed in folders.never_started(claim.folder.parent):
        # There is nothing to continue, but a copy of the images, which may be large.
        folders.discard(killed)
    plain = checked(compose.plain(config))
    if plain["resume"] == "auto" and job is None:
        found = resume.to_continue(plain, claim.wished, lambda line: print(line, flush=True))
        if found is not None:
            return found.run(standard_output())
    for line in compose.replaced_options(hydra_config.runtime.choices):
        print(line, flush=True)
    hydra_folder.save_configs(config, hydra_config, claim.folder)
    before = compose.baseline(plain, hydra_config.overrides.task, hydra_config.runtime.choices)
    return launch.run(plain, claim.folder, standard_output(), baseline=before)


def without_secret(argument: str) -> str:
    """Hides the secrets of an override, which Hydra would print and write to a file: of a tracking URI, or `notify`."""
    from mnist_sweep.config import services
    from mnist_sweep.config.grammar import values_of

    key, equals, value = argument.partition("=")
    if key.lstrip("+") == services.KEY and equals:
        return services.hidden_override(argument)
    if key.lstrip("+") != "tracking.uri" or not equals:
        return argument
    for uri in values_of(argument) or [value]:
        argument = argument.replace(uri, hide(uri))
    return argument
