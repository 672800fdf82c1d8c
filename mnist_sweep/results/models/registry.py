"""Registers each sweep's best model in MLflow's model registry. The best version has the alias `champion`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.tracking.tags import (
    TAG_CONFIRMS,
    TAG_OBJECTIVE,
    TAG_RETRAINS,
    TAG_RETRAINS_TRIAL,
    TAG_SWEEP,
    TAG_TRIAL,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
_DIGEST = "data.digest"
# The best trial's score in the search, and its mean score when retrained on new seeds.
_SCORE, _CONFIRMED = "score", "confirmed_score"
# How the validation images were chosen.
_VALIDATION = "validation"
_VARIABLE = "MLFLOW_TRACKING_URI"

# Packages a run's model in a folder, and returns the package's folder.
Packager = Callable[[ModelRun, Path], Path]


@dataclass(frozen=True)
class Registered:
    """A sweep's model in the registry.

    Attributes:
        name: The registered model's name.
        version: The sweep's version of it.
        champion: Whether this version has the alias `champion`.
        why: Why it has the alias, or why not.
    """

    name: str
    version: str
    champion: bool
    why: str

    @property
    def line(self) -> str:
        """One line for the user."""
        role = f"the {CHAMPION}" if self.champion else f"not the {CHAMPION}"
        return f"{self.name} version {self.version}, {role} ({self.why})"


def register(found: SweepRuns, packaged: Packager, champion: bool | None = None) -> Registered:
    """Registers a sweep's best model, unless it is registered, and makes it the champion if it is better.

    Two models are compared only if they were trained on the same data, and scored by the same objective on the same
    validation images. The score is the mean on new seeds if there is one, and the best score of the search otherwise,
    which never beats a mean on new seeds.

    Args:
        found: The sweep. Its best model has been tested.
        packaged: Turns the model into an MLflow model. Called only if the model is not registered; may take a while.
        champion: Whether it becomes the champion, whatever its score; None to compare the scores.

    Raises:
        UserError: The sweep has no model, it cannot be packaged, or the registry cannot be written.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _register(found, packaged, champion)
    except (MlflowException, OSError) as error:
        raise UserError(f"{found.sweep}: its model cannot be registered ({masked(first_line(error))})") from error


def _register(found: SweepRuns, packaged: Packager, champion: bool | None) -> Registered:
    client, run = found.client, found.winner()
    name = re.sub(r"[^\w.-]", "-", f"{found.sweep.partition('/')[0]}-{run.data.tags['data.name']}")
    _create(client, name, run)
    versions = client.search_model_versions(f"name = '{name}'")
    mine = next((v for v in versions if v.run_id == run.info.run_id and _has_files(client, v)), None)
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    before = None if alias is None else client.get_model_version(name, alias)
    lost = before is not None and not _has_files(client, before)
    if lost:
        before = None
    if mine is not None and before is not None and champion is not True:
        # The user may have moved the alias since.
        same = mine.version == before.version
        why = "it was registered before" if same else f"that is version {before.version}"
        return Registered(name, str(mine.version), same, why)
    # The run of the search that has the winner's hyperparameter values: another one if the winner retrained it.
    confirms = run.data.tags.get(TAG_CONFIRMS)
    searched = run if confirms is None else found.run_of(int(confirms))
    if mine is None:
        mine = _new_version(found, name, run, searched, packaged)
    if champion is not None:
        better, why = champion, "as --champion says" if champion else "retrain with --champion to make it that"
    elif before is None:
        better, why = True, f"the files of version {alias} are lost" if lost else "the first one"
    else:
        better, why = _is_better(mine.tags, before, found.objective)
    if better:
        client.set_registered_model_alias(name, CHAMPION, str(mine.version))
    return Registered(name, str(mine.version), better, why)


def _has_files(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether a version can still be loaded: its model and its run may have been deleted since."""
    from mlflow.exceptions import MlflowException

    model = str(version.source).removeprefix("models:/")
    if not model.startswith("m-"):
        # Another program has registered it.
        return True
    try:
        client.get_run(str(version.run_id))
        return bool(client.list_logged_model_artifacts(model))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _create(client: MlflowClient, name: str, run: Run) -> None:
    from mlflow.exceptions import MlflowException

    about = run.data.tags
    try:
        client.create_registered_model(
            name,
            description=f"The best models of the {about[TAG_SWEEP].partition('/')[0]} sweeps on {about['data.name']}. "
            f"They take raw images, float32 in 0..255. `models:/{name}@{CHAMPION}` is the best one.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _is_better(tags: dict[str, str], champion: ModelVersion, objective: Objective) -> tuple[bool, str]:
    old_tags, version = champion.tags, f"version {champion.version}"
    for differs, why in (
        (_SCORE not in old_tags, "no sweep registered"),
        (old_tags.get(_DIGEST) != tags[_DIGEST], "was trained on other data"),
        (old_tags.get(TAG_OBJECTIVE) != tags[TAG_OBJECTIVE], f"was chosen by {old_tags.get(TAG_OBJECTIVE)}"),
        (
            old_tags.get(_VALIDATION) != tags[_VALIDATION],
            f"was scored on other validation images: {_differing(old_tags.get(_VALIDATION, ''), tags[_VALIDATION])}",
        ),
    ):
        if differs:
            return False, f"not comparable with {version}, which {why}"
    if _CONFIRMED in old_tags and _CONFIRMED not in tags:
        # The best of many scores is partly luck. A mean on new seeds is not.
        return False, f"{version} was scored on new seeds, and this one was not"
    new = float(tags.get(_CONFIRMED, tags[_SCORE]))
    old = float(old_tags.get(_CONFIRMED, old_tags[_SCORE]))
    score = f"{objective.name} {new:.4f}{' on new seeds' if _CONFIRMED in tags else ''}"
    better = objective.better(new, old)
    return better, f"{score} is {'' if better else 'not '}better than the {old:.4f} of {version}"


def _differing(then: str, now: str) -> str:
    """The parts of a version's `validation` that another one does not have."""
    return ", ".join(part for part in then.split(", ") if part not in now.split(", "))


def _new_version(found: SweepRuns, name: str, run: Run, searched: Run, packaged: Packager) -> ModelVersion:
    from mlflow.entities import LoggedModelOutput

    client = found.client
    with tempfile.TemporaryDirectory(prefix="mnist_sweep-") as temporary:
        package = packaged(ModelRun(client, run), Path(temporary))
        logged = client.create_logged_model(
            run.info.experiment_id, name="model", source_run_id=run.info.run_id, params=dict(searched.data.params)
        )
        try:
            client.log_model_artifacts(logged.model_id, str(package))
            client.finalize_logged_model(logged.model_id, "READY")
            with _process_wide(client.tracking_uri):
                version = client.create_model_version(
                    name,
                    f"models:/{logged.model_id}",
                    run_id=run.info.run_id,
                    tags=_tags(found, run, searched),
                    description=_description(found, name, run, searched),
                    model_id=logged.model_id,
                )
        except BaseException:
            client.delete_logged_model(logged.model_id)
            raise
    # The run's page then shows the model.
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return version


@contextmanager
def _process_wide(uri: str) -> Iterator[None]:
    """Sets the store for the whole process: MLflow 3.17 looks for a version's source there, whatever its client."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = uri
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE)
        os.environ |= {} if before is None else {_VARIABLE: before}


def _tags(found: SweepRuns, run: Run, searched: Run) -> dict[str, str]:
    about, metrics, objective = run.data.tags, searched.data.metrics, found.objective
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
        **{key: about[key] for key in (TAG_RETRAINS, TAG_RETRAINS_TRIAL) if key in about},
        **{name: str(run.data.metrics[name]) for name in ("test_accuracy",) if name in run.data.metrics},
    }


def _validation(params: dict[str, str]) -> str:
    keys = ("validation", *(("folds",) if params.get("validation") == "kfold" else ("data.validation_split",)), "seed")
    return ", ".join(f"{key}={params[key]}" for key in keys if key in params)


def _description(found: SweepRuns, name: str, run: Run, searched: Run) -> str:
    """The version's description in Markdown."""
    objective, metrics = found.objective.name, searched.data.metrics
    again = run.data.tags.get(TAG_RETRAINS)
    scores = [f"{objective} {metrics[f'best_{objective}']:.4f}{'' if again else ' in the search'}"]
    if f"confirmed_{objective}" in metrics:
        mean, std = metrics[f"confirmed_{objective}"], metrics[f"confirmed_{objective}_std"]
        scores.append(f"{mean:.4f} ± {std:.4f} on new seeds")
    if "test_accuracy" in run.data.metrics:
        scores.append(f"test_accuracy {run.data.metrics['test_accuracy']:.4f}")
    retrained = "" if searched is run else f", which is trial {searched.data.tags[TAG_TRIAL]} retrained on a new seed"
    if again:
        retrained = f", which is trial {run.data.tags[TAG_RETRAINS_TRIAL]} of {again} retrained"
    params = "\n".join(f"- `{key}`: {searched.data.params[key]}" for key in found.space if key in searched.data.params)
    size = run.data.tags.get("data.image", "").replace("x", ", ")
    is_table = "data.columns" in run.data.tags
    call = 'model.predict(images.astype("float32"))' if size else "model.predict(rows)"
    use = f'model = mlflow.pyfunc.load_model("models:/{name}@{CHAMPION}")\n{call}'
    takes = f"raw images (N, {size}), float32 in 0..255" if size else "arrays as in the data"
    takes = "a dict of columns, as its signature says" if is_table else takes
    parts = [
        f"Trial {run.data.tags[TAG_TRIAL]} of {found.sweep}{retrained}: {'; '.join(scores)}.",
        params,
        f"Takes {takes}; gives {'the probability of each class' if size else 'predictions'}:",
        f"```python\n{use}\n```",
    ]
    return "\n\n".join(filter(None, parts))
