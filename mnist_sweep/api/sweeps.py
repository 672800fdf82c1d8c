"""`mnist_sweep.sweep`, and the object that it returns."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mnist_sweep.api import arrays, carried, page, views
from mnist_sweep.api.arrays import Data, Part
from mnist_sweep.api.driver import Driver
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import make_folder, write_whole
from mnist_sweep.common.text import format_size
from mnist_sweep.config import services
from mnist_sweep.config.settings import check_settings, is_name
from mnist_sweep.data import stream
from mnist_sweep.driver import task_choice
from mnist_sweep.driver.steering import Steering
from mnist_sweep.driver.watched import Phase, Watched
from mnist_sweep.journal import folders
from mnist_sweep.journal.files import CODE, DATA, code_folder
from mnist_sweep.workers import devices

if TYPE_CHECKING:
    import keras
    import pandas as pd
    from omegaconf import DictConfig

Verbosity: TypeAlias = Literal["auto", 0, 1]
Values: TypeAlias = "str | int | float | bool | None"

# Stands for the path of the arrays until the sweep's folder is known. Overrides need quotes for many other paths.
_PATH = "data.path=data.npz"
# Seconds between two looks at a sweep that runs.
_LOOK = 0.5
# Seconds between two looks at one that starts.
_SOON = 0.1
# Bytes of GPU memory that this process may hold unmentioned: what CUDA itself needs.
_HELD = 10**9


@dataclass(frozen=True)
class Winner:
    """The best trial of a sweep.

    Attributes:
        trial: Its number.
        values: Its hyperparameters.
        scores: Its metrics: `best_…` at its best epoch, and `test_…` once it was tested.
        run_id: Its run in MLflow.
    """

    trial: int
    values: dict[str, Any]
    scores: dict[str, float]
    run_id: str


@dataclass(frozen=True)
class State:
    """How far a sweep is.

    Attributes:
        phase: `starting`, `running`, `complete`, `stopped` (resume it), `failed`, or `interrupted`: its process was
            killed (resume it).
        ended: How many trials of the search have ended.
        trials: How many there will be; None if that is not known.
        running: The trials that run now.
        best: The best score so far; None before the first.
        best_trial: The trial that has it.
        seconds_left: An estimate; None if there is none.
        text: All of this in a line.
    """

    phase: Phase
    ended: int
    trials: int | None
    running: tuple[int, ...]
    best: float | None
    best_trial: int | None
    seconds_left: float | None
    text: str

    def __str__(self) -> str:
        """Returns the line."""
        return self.text


def load_config(experiment: str | None = None, *overrides: str) -> dict[str, Any]:
    """Composes the config of a sweep, without running it.

    Args:
        experiment: An experiment by name, as after `+experiment=`; None for the defaults.
        overrides: As on the command line: `"search.max_trials=20"`.

    Returns:
        The config as nested dicts, checked as before a sweep. What is searched is text: `"choice(16, 64)"`.

    Raises:
        UserError: There is no such experiment, or an override is wrong.

    Example:
        >>> from mnist_sweep import load_config
        >>> config = load_config("quick", "search.max_trials=20", "model.units=choice(16, 64)")
        >>> config["search"]["max_trials"], config["model"]["units"]
        (20, 'choice(16, 64)')
    """
    return _checked(_composed([*_experiment(experiment), *overrides])[0])


def sweep(
    what: str | Callable[[Any], Any] | Any | None = None,
    *overrides: str,
    data: Data | str | Path | Callable[[], Any] | None = None,
    train: Part | None = None,
    test: Part | None = None,
    validation: Part | None = None,
    objective: str | Sequence[str] | None = None,
    max_trials: int | None = None,
    name: str | None = None,
    wait: bool = True,
    verbose: Verbosity = "auto",
) -> Sweep:
    """Runs a sweep, as `python -m mnist_sweep` does, and returns it.

    It runs in a process of its own, with the same journal, the same runs in MLflow and the same report. Ctrl-C, or a
    notebook's interrupt button, ends it when the running epochs have ended, and `resume` continues it.

    Args:
        what: An experiment by name; or a function `build_model(hp)` or a `keras_tuner.HyperModel`, which may be defined
            in a notebook. None for the default model.
        overrides: As on the command line: `"search.max_trials=20"`, `"model.units=choice(16, 64)"`.
        data: `(x_train, y_train)`, or `((x_train, y_train), (x_test, y_test))`, or a dict of arrays with the names that
            they have in an `.npz` file (`data=npz`). Or the name of a data set, or an `.npz` file. Without a test part,
            a fifth of the rows is held out for it. Or a function that returns the data, as for `data.loader`, such as
            a `tf.data.Dataset`; it may be defined in a notebook.
        train: `(x_train, y_train)`, in place of `data`.
        test: `(x_test, y_test)`.
        validation: `(x_val, y_val)`, to score the trials on. Without it, a share of the training part is held out
            (`data.validation_split`).
        objective: What to optimize: `"val_loss min"`; or a list of them.
        max_trials: Stands for the override `search.max_trials=…`.
        name: Stands for the override `name=…`: the MLflow experiment, and the folder under `experiments/`.
        wait: Whether to wait until the sweep has ended. Otherwise it runs in the background, at most until this process
            ends.
        verbose: `"auto"` for a live view in a notebook, and what the command line prints elsewhere; 1 to print that
            in a notebook, too; 0 for nothing.

    Raises:
        UserError: Something is wrong with the config or the data, or a function uses what cannot be copied to other
            processes.

    Example:
        >>> from mnist_sweep import sweep  # doctest: +SKIP
        >>> s = sweep("cnn", "training.epochs=5", data=(x_train, y_train), max_trials=20)  # doctest: +SKIP
        >>> s.best_model().predict(x_new / 255)  # doctest: +SKIP
    """
    views.choose(verbose)
    notes = list[str]()
    given, code = list(overrides), list[carried.Carried]()
    if isinstance(what, str):
        given = [*_experiment(what), *given]
    elif what is not None:
        if not callable(what) and not hasattr(what, "build"):
            raise UserError(
                f"sweep: {what!r} is of type {type(what).__name__}; pass the name of an experiment, a "
                "build_model(hp) or a keras_tuner.HyperModel first"
            )
        given.append(f"model.hypermodel={_carried(what, code)}")
    given += _as_overrides({"objective": objective, "search.max_trials": max_trials, "name": name})
    passed: dict[str, Any] | None = None
    if isinstance(data, str | Path):
        if any(part is not None for part in (train, test, validation)):
            raise UserError(f"data={data}: arrays are given too; pass only one of them")
        given += [f"data={data}"] if is_name(str(data)) else ["data=npz", f"data.path={_quoted(str(data))}"]
    elif callable(data):
        given += ["data=loader", f"data.loader={_carried(data, code)}"]
    elif stream.kind_of(data) is not None or (isinstance(data, tuple) and any(map(stream.kind_of, data))):
        raise UserError(
            f"data: a {stream.kind_of(data) or 'stream'} cannot be copied to other processes; pass a function that "
            "returns (train, validation)"
        )
    elif any(part is not None for part in (data, train, test, validation)):
        passed = arrays.as_arrays(data, train, test, validation)
        given += ["data=npz", _PATH]
    config, hydra = _composed(given)
    if passed is not None:
        passed, note = arrays.with_test_part(passed, config.seed if isinstance(config.seed, int) else 0)
        notes += [note] if note else []
    notes += _gpu_notes()
    claim = folders.claim(Path(str(hydra.run.dir)))
    try:
        if passed is not None:
            config.data.path = str(claim.folder / DATA)
            hydra.overrides.task = [
                o if o != _PATH else f"data.path={claim.folder / DATA}" for o in hydra.overrides.task
            ]
            arrays.save(passed, claim.folder / DATA)
        for module in code:
            make_folder(claim.folder / CODE)
            write_whole(claim.folder / CODE / f"{module.module}.py", module.content)
        # With the data in their place, as the task follows from them.
        started = _start(claim, config, hydra, _checked(config, code_folder(claim.folder)), notes)
    except BaseException:
        claim.give_up()
        raise
    finally:
        # The check has read them; only the other processes need them.
        task_choice.forget()
    return started._run(wait=wait, verbose=verbose)


def _start(
    claim: folders.Claim, config: DictConfig, hydra: DictConfig, plain: dict[str, Any], notes: list[str]
) -> Sweep:
    """Returns the sweep that is to run: a new one, or with `resume=auto` the interrupted one."""
    from mnist_sweep.cli import hydra_folder
    from mnist_sweep.config import compose

    for killed in folders.never_started(claim.folder.parent):
        folders.discard(killed)
    if plain["resume"] == "auto":
        from mnist_sweep.driver import resume

        found = resume.to_continue(plain, claim.wished, notes.append, code_folder(claim.folder))
        if found is not None:
            claim.give_up()
            if (found.folder / DATA).exists():
                found.config["data"]["path"] = str(found.folder / DATA)
            job = {"config": found.config, "folder": str(found.folder), "resume": True, "secrets": _secrets(plain)}
            return Sweep._new(found.folder, {**job, "retry_failed": found.retry_failed, "notes": [*notes, *found.said]})
    notes += compose.replaced_options(hydra.runtime.choices)
    hydra_folder.save_configs(config, hydra, claim.folder)
    baseline = compose.baseline(plain, list(hydra.overrides.task), hydra.runtime.choices)
    job = {"config": plain, "folder": str(claim.folder), "baseline": baseline, "notes": notes}
    job["secrets"] = _secrets(plain)
    return Sweep._new(claim.folder, job, claim)


def _secrets(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the addresses of the services that get messages, by how the config has them."""
    found = services.services(check_settings(config).notify)
    return {one.name: one.url for one in found if one.url not in (None, one.name)}


def _gpu_notes() -> list[str]:
    """Returns a line if this process holds memory of the GPUs, which the workers lack."""
    if "tensorflow" not in sys.modules and "jax" not in sys.modules:
        return []
    held = devices.held_by(os.getpid())
    if held < _HELD:
        return []
    return [
        f"This process holds {format_size(held)} of GPU memory, which the workers lack. To free it, restart the kernel "
        "and import Keras only in the function; or set TF_FORCE_GPU_ALLOW_GROWTH=true before TensorFlow is imported"
    ]


def _experiment(name: str | None) -> list[str]:
    """The override that chooses an experiment; an override is one already."""
    return [] if name is None else [name] if "=" in name else [f"+experiment={name}"]


def _carried(function: Any, code: list[carried.Carried]) -> str:
    """Returns `package.module:name` of a function; adds its module to `code` if the sweep must carry it."""
    found = carried.carry(function)
    if isinstance(found, str):
        return found
    code.append(found)
    return f"{found.module}:{found.name}"


def _checked(config: DictConfig, code: Path | None = None) -> dict[str, Any]:
    from mnist_sweep.cli.sweep_config import checked
    from mnist_sweep.config import compose

    return checked(compose.plain(config), code)


def _composed(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    from mnist_sweep.cli.main import without_secret
    from mnist_sweep.config import compose
    from mnist_sweep.config.grammar import quote_sweeps

    for text in overrides:
        if not isinstance(text, str):
            raise UserError(f"sweep: {text!r} is of type {type(text).__name__}; overrides are texts, 'KEY=VALUE'")
        if text.startswith("-"):
            raise UserError(f"sweep: {text}: is an option of the command line; overrides are texts, 'KEY=VALUE'")
    return compose.composed(quote_sweeps([without_secret(text) for text in overrides]))


def _as_overrides(values: Mapping[str, Any]) -> list[str]:
    given = {key: value for key, value in values.items() if value is not None}
    return [f"{key}={_text(value)}" for key, value in given.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Sweep:
    """A sweep: one that Python has started, or any other one by its name.

    Attributes:
        folder: Its folder.

    Example:
        >>> from mnist_sweep import Sweep
        >>> s = Sweep("mlp")  # the last sweep of this name  # doctest: +SKIP
        >>> s.runs.sort_values("metrics.best_val_accuracy")  # doctest: +SKIP
    """

    folder: Path

    def __init__(self, sweep: str | Path) -> None:
        """Finds a sweep.

        Args:
            sweep: `NAME/TIME`, its folder, or NAME for its last sweep.

        Raises:
            UserError: It does not exist.
        """
        self._take(folders.find(str(sweep), "Sweep"))

    @classmethod
    def _new(cls, folder: Path, job: dict[str, Any], claim: folders.Claim | None = None) -> Sweep:
        created = cls.__new__(cls)
        created._take(folder)
        created._job, created._claim = job, claim
        return created

    def _take(self, folder: Path) -> None:
        # A notebook may change the working directory.
        self.folder = Path(os.path.abspath(folder))
        self._watched, self._lock = Watched(self.folder), threading.Lock()
        self._driver: Driver | None = None
        self._job: dict[str, Any] = {}
        self._claim: folders.Claim | None = None
        self._view = views.View()
        self._error: Exception | None = None
        self._follower: threading.Thread | None = None

    # ---- while it runs ----------------------------------------------------------------------------------------

    def _run(self, *, wait: bool, verbose: Verbosity) -> Sweep:
        self._view = views.choose(verbose)
        try:
            self._driver = Driver(self._job, output=self._view.line, inherits=self._view.inherits)
        except OSError as error:
            self._give_up()
            raise UserError(f"{self.name}: no process can be started ({error.strerror})") from error
        self._view.show(self._html)
        if wait:
            self.wait()
        else:
            self._follower = threading.Thread(target=self._follow, daemon=True)
            self._follower.start()
        return self

    def wait(self) -> Sweep:
        """Waits until the sweep has ended, and returns it.

        Ctrl-C ends it when the running epochs have ended; a second one ends it at once, and raises KeyboardInterrupt.

        Raises:
            UserError: It has failed, and the message says what to do.
        """
        driver, stops = self._driver, 0
        while driver is not None:
            try:
                if driver.wait(_LOOK):
                    break
                self._refresh()
            except KeyboardInterrupt:
                stops += 1
                if stops > 1:
                    driver.end_at_once()
                    self._finish()
                    raise
                driver.stop()
        if self._follower is not None:
            self._follower.join()
        self._finish()
        if self._error is not None:
            raise self._error
        return self

    def _follow(self) -> None:
        driver = self._driver
        while driver is not None and not driver.wait(_LOOK):
            self._refresh()
        self._finish()

    def _refresh(self) -> None:
        self._view.show(self._html)

    def _finish(self) -> None:
        """Shows the end, and notes the error, once."""
        with self._lock:
            if self._driver is None:
                return
            driver, self._driver = self._driver, None
        self._give_up()
        try:
            driver.check()
        except (UserError, RuntimeError) as error:
            self._error = error
        self._view.show(self._html, ended=True)

    def _give_up(self) -> None:
        """Removes the folder of a sweep that never started; nothing of one that has."""
        if self._claim is not None:
            self._claim.give_up()

    def stop(self) -> None:
        """Ends the sweep when the running epochs have ended, as Ctrl-C does. `resume` continues it.

        Raises:
            UserError: Another process runs it.
        """
        if self._driver is not None:
            self._driver.stop()
        elif folders.is_running(self.folder):
            raise UserError(f"{self.name}: another process runs this sweep; stop it there, with Ctrl-C")

    # ---- changes while it runs --------------------------------------------------------------------------------

    def stop_trial(self, trial: int) -> str:
        """Stops a trial after its current epoch. It keeps its result so far.

        This and the methods below change a sweep that runs, here (`wait=False`) or in another process, as
        `python -m mnist_sweep steer` does: each change is checked, is kept when the sweep is resumed, and is shown in
        its report and in MLflow.

        Args:
            trial: Its number.

        Returns:
            What is done, in a sentence.

        Raises:
            UserError: The sweep is not running, or there is no such trial, or it has ended.

        Example:
            >>> from mnist_sweep import Sweep
            >>> s = Sweep("mlp")  # doctest: +SKIP
            >>> s.stop_trial(17)  # doctest: +SKIP
            'Trial 17 will stop after its current epoch'
        """
        return self._steering().stop(trial).text

    def add(self, values: str | Mapping[str, Any], *more: str) -> int:
        """Adds a trial, which starts next.

        Args:
            values: Hyperparameters by name, or as on the command line; the others are chosen as for `search.enqueue`.
            more: Further values, as on the command line.

        Returns:
            The trial's number.

        Raises:
            UserError: The sweep is not running, a value is invalid, or a trial has these values.

        Example:
            >>> from mnist_sweep import Sweep
            >>> s = Sweep("mlp")  # doctest: +SKIP
            >>> s.add({"model.units": 64, "optimizer.name": "sgd"})  # doctest: +SKIP
            21
            >>> s.add("model.units=32", "optimizer.name=sgd")  # doctest: +SKIP
            22
        """
        given = (values, *more) if isinstance(values, str) else ({**values},)
        if more and not isinstance(values, str):
            raise UserError("add: pass a dict, or strings such as 'model.units=64', not both")
        added = self._steering().add(*given).trial
        assert added is not None
        return added

    def pause(self) -> str:
        """Starts no more trials; running ones continue. `unpause` starts trials again.

        Returns:
            What is done, in a sentence.

        Raises:
            UserError: The sweep is not running, or its search has ended.
        """
        return self._steering().pause().text

    def unpause(self) -> str:
        """Starts trials again after `pause`.

        Returns:
            What is done, in a sentence.

        Raises:
            UserError: The sweep is not running.
        """
        return self._steering().unpause().text

    def set(self, *settings: str, max_trials: int | None = None, time_budget: str | None = None) -> str:
        """Changes the budget, or narrows what is searched.

        Args:
            settings: Such as `"search.target=0.99"`, or `"model.units=choice(16, 32)"` for the trials from now on.
            max_trials: Stands for `search.max_trials=…`.
            time_budget: Stands for `search.time_budget=…`, such as `"2h"`.

        Returns:
            What is done, in a sentence.

        Raises:
            UserError: The sweep is not running, or a setting cannot be changed like this.

        Example:
            >>> from mnist_sweep import Sweep
            >>> s = Sweep("mlp")  # doctest: +SKIP
            >>> done = s.set("optimizer.learning_rate=interval(1e-4, 1e-2)", max_trials=80)  # doctest: +SKIP
        """
        budget = {"search.max_trials": max_trials, "search.time_budget": time_budget}
        return self._steering().set(*settings, *_as_overrides(budget)).text

    def slots(self, count: int) -> str:
        """Uses at most this many slots, for example to free a GPU for an hour. The running trials end first.

        Args:
            count: How many of the sweep's slots; 0 for none of them.

        Returns:
            What is done, in a sentence.

        Raises:
            UserError: The sweep is not running, or does not have that many slots.
        """
        return self._steering().slots(count).text

    def _steering(self) -> Steering:
        driver = self._driver
        # It has just been started, and takes some seconds until it can be reached.
        while driver is not None and not folders.is_running(self.folder) and not driver.wait(_SOON):
            continue
        return Steering(self.folder)

    @property
    def progress(self) -> State:
        """How far it is."""
        with self._lock:
            self._watched.update()
            return _state(self._watched)

    # ---- its results --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The sweep, `name/time`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def runs(self) -> pd.DataFrame:
        """Its trials, as `load_runs` describes them."""
        from mnist_sweep.results.runs.find import load_runs

        return load_runs(str(self.folder))

    @property
    def curves(self) -> pd.DataFrame:
        """Its trials' learning curves, as `load_curves` describes them."""
        from mnist_sweep.results.runs.find import load_curves

        return load_curves(str(self.folder))

    @property
    def winner(self) -> Winner:
        """The best trial: that of the highest score, or of the best mean if the best trials were retrained.

        Raises:
            UserError: No trial has a score yet.
        """
        from mnist_sweep.results.runs.find import find_sweep

        found = find_sweep(str(self.folder))
        run = found.winner()
        frame = found.frame()
        row = frame[frame["run_id"] == run.info.run_id].iloc[0]
        given = {name: row.get(f"params.{name}") for name in found.space}
        metrics = {
            column.removeprefix("metrics."): float(row[column])
            for column in frame.columns
            if column.startswith(("metrics.best_", "metrics.test_", "metrics.confirmed_")) and not _missing(row[column])
        }
        # Of Python's types, not of NumPy's.
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in given.items()}
        values = {name: value for name, value in plain.items() if not _missing(value)}
        return Winner(int(row["trial"]), values, metrics, run.info.run_id)

    def best_model(self, trial: int | None = None) -> keras.Model:
        """Loads the model of the best trial.

        Args:
            trial: Another trial.

        Returns:
            A model from images (N, height, width, channels), float32 in 0..1, to the probability of each class. It is
            not compiled.

        Raises:
            UserError: No trial has a model yet.
        """
        from mnist_sweep.results.models.model_run import find_trial

        with tempfile.TemporaryDirectory(prefix="mnist_sweep-") as folder:
            return find_trial(str(self.folder), trial).load(Path(folder), on_cpu=False)

    def report(self, to: str | Path | None = None) -> Path:
        """Writes the report, one HTML file that works offline, and returns its path.

        Args:
            to: The file; None for `report.html` in the sweep's folder.
        """
        from mnist_sweep.results import report

        return report.report(str(self.folder), None, None, None if to is None else Path(to))

    def export(self, to: str | Path, formats: str | Sequence[str] | None = None, *, trial: int | None = None) -> Path:
        """Writes the best model in formats of other programs, and checks each file's predictions.

        Args:
            to: The folder, which is created if needed.
            formats: Such as `"keras,onnx"`; by default those of `python -m mnist_sweep export`.
            trial: Another trial than the best.

        Returns:
            The folder. Its `manifest.json` says how to use the files.

        Raises:
            UserError: There is no model, or a format cannot express it.
        """
        wanted = formats if formats is None or isinstance(formats, str) else ",".join(formats)
        given = ["export", str(self.folder), *([] if trial is None else [str(trial)]), "--to", str(to)]
        # In a process of its own: it needs TensorFlow, which would take this process's GPU.
        views.run_command([*given, *([] if wanted is None else ["--format", wanted])])
        return Path(to)

    def resume(
        self,
        *overrides: str,
        max_trials: int | None = None,
        time_budget: str | None = None,
        retry_failed: bool = False,
        other_versions: bool = False,
        wait: bool = True,
        verbose: Verbosity = "auto",
    ) -> Sweep:
        """Continues the sweep, as if it had never ended.

        Args:
            overrides: A larger budget, more values of what it searches, or what changes no result, such as
                `"workers.count=1"`.
            max_trials: Stands for `search.max_trials=…`.
            time_budget: Stands for `search.time_budget=…`, such as `"2h"`.
            retry_failed: Whether to train the failed trials again.
            other_versions: Whether to continue with another TensorFlow, Keras or NumPy.
            wait: As for `sweep`.
            verbose: As for `sweep`.

        Raises:
            UserError: It runs already, or a value would change its results.
        """
        if self._driver is not None:
            raise UserError(f"{self.name}: is running; wait() for its end, or stop() it first")
        views.choose(verbose)
        given = [*overrides, *_as_overrides({"search.max_trials": max_trials, "search.time_budget": time_budget})]
        self._error, self._claim = None, None
        self._job = {"sweep": str(self.folder), "overrides": given, "notes": []}
        self._job |= {"retry_failed": retry_failed, "other_versions": other_versions}
        return self._run(wait=wait, verbose=verbose)

    # ---- how it looks -------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}): {self.progress}"

    def _repr_html_(self) -> str:
        return self._html()

    def _html(self) -> str:
        with self._lock:
            self._watched.update()
            return page.html(self._watched, self.name, str(self._error or ""), self._view.lines)


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _state(watched: Watched) -> State:
    progress = watched.progress
    if progress is None:
        return State(watched.phase, 0, None, (), None, None, None, watched.phase)
    best = progress.best()
    return State(
        watched.phase,
        len(progress.counted),
        progress.most,
        tuple(progress.state.open),
        None if best is None else progress.state.results.outcomes[best].score,
        best,
        progress.seconds_left() if watched.phase == "running" else None,
        f"{watched.phase} · {progress.headline(busy=False)}",
    )
