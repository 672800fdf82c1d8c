"""MLflow's model registry: each sweep's winner becomes a version, and the best of them has the alias `champion`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, one_line
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.files import PACKAGE, SAMPLE_FILE
from mnist_sweep.results.models.tracked import TrackedModel
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.tracking.tags import TAG_CONFIRMS, TAG_OBJECTIVE, TAG_SWEEP, TAG_TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
_DIGEST = "data.digest"
# The setting's score in the search, and the mean of those on new seeds.
_SCORE, _CONFIRMED = "score", "confirmed_score"
# Which images the scores are of.
_VALIDATION = "validation"
_PACKAGING_SECONDS = 300
_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Registered:
    """What has become of a sweep's model in the registry.

    Attributes:
        name: The registered model.
        version: The version that is the sweep's.
        champion: Whether that version has the alias `champion`.
        why: Why it has it, or has it not.
    """

    name: str
    version: str
    champion: bool
    why: str

    @property
    def line(self) -> str:
        """All of it for the user."""
        role = f"the {CHAMPION}" if self.champion else f"not the {CHAMPION}"
        return f"{self.name} version {self.version}, {role} ({self.why})"


def register(found: SweepRuns, packaged: Callable[[], Path | None] = lambda: None) -> Registered:
    """Registers a sweep's model, unless it is registered already, and lets it become the champion if it is better.

    A model is better than the champion where both were trained on the same data, and scored on the same validation
    images by the same objective, and its score is better: the mean on new seeds where it has one, else the best of the
    search, which cannot take the place of such a mean.

    Args:
        found: The sweep, whose winner was tested.
        packaged: Gives the folder where its model is an MLflow model already; None where there is none. Asked only if
            the model is to be registered, it may take its time.

    Raises:
        UserError: The sweep has no model, it cannot be packaged, or the registry cannot be written.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _register(found, packaged)
    except (MlflowException, OSError) as error:
        raise UserError(f"{found.sweep}: its model cannot be registered ({masked(first_line(error))})") from error


def _register(found: SweepRuns, packaged: Callable[[], Path | None]) -> Registered:
    client, run = found.client, found.winner()
    name = re.sub(r"[^\w.-]", "-", f"{found.sweep.partition('/')[0]}-{run.data.tags['data.name']}")
    _create(client, name, run)
    mine = next((v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == run.info.run_id), None)
    before = _champion(client, name)
    if mine is not None and before is not None:
        # As it was decided then; the user may have moved the alias since.
        same = mine.version == before.version
        why = "it was registered before" if same else f"that is version {before.version}"
        return Registered(name, str(mine.version), same, why)
    setting = _setting(found, run)
    if mine is None:
        mine = _new_version(found, name, run, setting, packaged)
    better, why = (True, "the first one") if before is None else _is_better(mine.tags, before, found.objective)
    if better:
        client.set_registered_model_alias(name, CHAMPION, str(mine.version))
    return Registered(name, str(mine.version), better, why)


def _create(client: MlflowClient, name: str, run: Run) -> None:
    from mlflow.exceptions import MlflowException

    about = run.data.tags
    try:
        client.create_registered_model(
            name,
            description=f"The winners of the sweeps of {about[TAG_SWEEP].partition('/')[0]} on {about['data.name']}. "
            f"They take raw images, float32 in 0..255; `models:/{name}@{CHAMPION}` is the best of them.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if alias is None else client.get_model_version(name, alias)


def _setting(found: SweepRuns, run: Run) -> Run:
    """The run of the search whose setting the winner has: where it was trained anew, not the winner's own."""
    confirms = run.data.tags.get(TAG_CONFIRMS)
    return run if confirms is None else found.run_of(int(confirms))


def _is_better(tags: dict[str, str], champion: ModelVersion, objective: Objective) -> tuple[bool, str]:
    stays = f"version {champion.version}"
    if _SCORE not in champion.tags:
        return False, f"{stays} is, which no sweep registered"
    if champion.tags.get(_DIGEST) != tags[_DIGEST]:
        return False, f"{stays} is, which was trained on other data"
    if champion.tags.get(TAG_OBJECTIVE) != tags[TAG_OBJECTIVE]:
        return False, f"{stays} is, which was chosen by {champion.tags.get(TAG_OBJECTIVE)}"
    if champion.tags.get(_VALIDATION) != tags[_VALIDATION]:
        return False, f"{stays} is, which was scored on other validation images: {champion.tags.get(_VALIDATION)}"
    if _CONFIRMED in champion.tags and _CONFIRMED not in tags:
        # The best of many scores is a little lucky; a mean on new seeds is not.
        return False, f"{stays} is, whose score is a mean on new seeds, and this one's is not"
    new = float(tags.get(_CONFIRMED, tags[_SCORE]))
    old = float(champion.tags.get(_CONFIRMED, champion.tags[_SCORE]))
    told = f"{objective.name} {new:.4f}{' on new seeds' if _CONFIRMED in tags else ''}"
    if objective.better(new, old):
        return True, f"{told} is better than the {old:.4f} of {stays}"
    return False, f"{told} is not better than the {old:.4f} of {stays}"


def _new_version(
    found: SweepRuns, name: str, run: Run, setting: Run, packaged: Callable[[], Path | None]
) -> ModelVersion:
    from mlflow.entities import LoggedModelOutput

    client = found.client
    with tempfile.TemporaryDirectory(prefix="mnist_sweep-") as temporary:
        package = packaged() or _package_of(TrackedModel(client, run), Path(temporary))
        logged = client.create_logged_model(
            run.info.experiment_id, name="model", source_run_id=run.info.run_id, params=dict(setting.data.params)
        )
        try:
            client.log_model_artifacts(logged.model_id, str(package))
            client.finalize_logged_model(logged.model_id, "READY")
            with _process_wide(client.tracking_uri):
                version = client.create_model_version(
                    name,
                    f"models:/{logged.model_id}",
                    run_id=run.info.run_id,
                    tags=_tags(found, run, setting),
                    description=_description(found, name, run, setting),
                    model_id=logged.model_id,
                )
        except BaseException:
            client.delete_logged_model(logged.model_id)
            raise
    # So that the run's page shows it.
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return version


@contextmanager
def _process_wide(uri: str) -> Iterator[None]:
    """Makes a store that of the whole process, where MLflow 3.17 looks for a version's source, whatever its client."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = uri
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE)
        os.environ |= {} if before is None else {_VARIABLE: before}


def _package_of(model: TrackedModel, folder: Path) -> Path:
    model.fetch_model(folder)
    model.config(folder)
    model.fetch(SAMPLE_FILE, folder)
    _package(folder, f"{model.sweep}: the model of trial {model.trial}")
    return folder / PACKAGE


def _package(folder: Path, what: str) -> None:
    # On the CPU, as a GPU may be busy with another sweep.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "mnist_sweep.training.packaged", str(folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PACKAGING_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} could not be packaged within {_PACKAGING_SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{what} cannot be packaged ({one_line(lines[-1])})")


def _tags(found: SweepRuns, run: Run, setting: Run) -> dict[str, str]:
    about, metrics, objective = run.data.tags, setting.data.metrics, found.objective
    confirmed = metrics.get(f"confirmed_{objective.name}")
    return {
        TAG_SWEEP: found.sweep,
        TAG_TRIAL: about[TAG_TRIAL],
        TAG_OBJECTIVE: f"{objective.name} {objective.direction}",
        "data.name": about["data.name"],
        _DIGEST: about[_DIGEST],
        _VALIDATION: _validation(found.parent.data.params),
        _SCORE: str(metrics[f"best_{objective.name}"]),
        **({} if confirmed is None else {_CONFIRMED: str(confirmed)}),
        **{name: str(run.data.metrics[name]) for name in ("test_accuracy",) if name in run.data.metrics},
    }


def _validation(params: dict[str, str]) -> str:
    keys = ("validation", *(("folds",) if params.get("validation") == "kfold" else ("data.validation_split",)), "seed")
    return ", ".join(f"{key}={params[key]}" for key in keys if key in params)


def _description(found: SweepRuns, name: str, run: Run, setting: Run) -> str:
    """The version's, in Markdown."""
    objective, metrics = found.objective.name, setting.data.metrics
    scores = [f"{objective} {metrics[f'best_{objective}']:.4f} in the search"]
    if f"confirmed_{objective}" in metrics:
        mean, std = metrics[f"confirmed_{objective}"], metrics[f"confirmed_{objective}_std"]
        scores.append(f"{mean:.4f} ± {std:.4f} on new seeds")
    if "test_accuracy" in run.data.metrics:
        scores.append(f"test_accuracy {run.data.metrics['test_accuracy']:.4f}")
    params = [f"- `{key}`: {setting.data.params[key]}" for key in found.space if key in setting.data.params]
    anew = "" if setting is run else f", the setting of trial {setting.data.tags[TAG_TRIAL]} trained anew"
    use = f'model = mlflow.pyfunc.load_model("models:/{name}@{CHAMPION}")\nmodel.predict(images.astype("float32"))'
    size = run.data.tags.get("data.image", "").replace("x", ", ")
    return "\n\n".join(
        filter(
            None,
            [
                f"Trial {run.data.tags[TAG_TRIAL]} of {found.sweep}{anew}: {'; '.join(scores)}.",
                "\n".join(params),
                f"Takes raw images (N, {size}), float32 in 0..255; gives the probability of each class:",
                f"```python\n{use}\n```",
            ],
        )
    )
