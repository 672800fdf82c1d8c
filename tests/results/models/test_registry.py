"""The model registry: which model becomes the champion. Real models are packaged in tests/e2e/test_mlflow_pages.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mnist_sweep.common.errors import UserError
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.models.registry import Packager, Registered, register
from mnist_sweep.results.runs.find import find_sweep
from mnist_sweep.tracking import store
from mnist_sweep.tracking.tags import PARENT_TAG, TAG_KIND, TAG_OBJECTIVE, TAG_SWEEP, TAG_TRIAL, TAG_WINNER

Add = Callable[..., Registered]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    store.connect(f"sqlite:///{path}", create=True)
    return path


def package(run: ModelRun, folder: Path) -> Path:
    (folder / "package").mkdir()
    (folder / "package" / "MLmodel").write_text("flavors: {}\n")
    return folder / "package"


@pytest.fixture
def uri(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return store.connect(uri)


@pytest.fixture
def add(client: MlflowClient, tmp_path: Path) -> Add:
    """Logs a sweep of one trial, and registers its model."""

    def added(
        time: str,
        score: float,
        *,
        confirmed: float | None = None,
        objective: str = "val_accuracy max",
        digest: str = "d",
        seed: int = 1,
        packaged: Packager = package,
        **more: bool,
    ) -> Registered:
        experiment = client.get_experiment_by_name("story")
        place = (tmp_path / "artifacts").as_uri()
        number = experiment.experiment_id if experiment else client.create_experiment("story", place)
        about = {"data.name": "mnist_5k", "data.digest": digest, "data.image": "28x28x1"}
        common = {TAG_SWEEP: f"story/{time}", TAG_OBJECTIVE: objective, **about}
        parent = client.create_run(number, tags={**common, TAG_KIND: "sweep", TAG_WINNER: "0"})
        for key, value in {"space.model.units": "choice(16, 64)", "data.validation_split": 0.1, "seed": seed}.items():
            client.log_param(parent.info.run_id, key, value)
        tags = {
            **common,
            TAG_KIND: "trial",
            TAG_TRIAL: "0",
            PARENT_TAG: parent.info.run_id,
        }
        run = client.create_run(number, tags=tags).info.run_id
        client.log_param(run, "model.units", 64)
        client.log_text(run, "model: {builder: null}", "config.yaml")
        client.log_text(run, "weights", "model.h5")
        np.savez(tmp_path / "sample_predictions.npz", images=np.zeros((1, 2, 2, 1), np.uint8))
        client.log_artifact(run, str(tmp_path / "sample_predictions.npz"))
        name = objective.partition(" ")[0]
        client.log_metric(run, f"best_{name}", score)
        client.log_metric(run, "test_accuracy", 0.5)
        if confirmed is not None:
            client.log_metric(run, f"confirmed_{name}", confirmed)
            client.log_metric(run, f"confirmed_{name}_std", 0.25)
        return register(find_sweep(f"story/{time}", client.tracking_uri), packaged, **more)

    return added


def champion(client: MlflowClient) -> str:
    return str(client.get_model_version_by_alias("story-mnist_5k", "champion").version)


def test_the_first_version_is_the_champion_and_is_described(add: Add, client: MlflowClient) -> None:
    assert add("a", 0.75, confirmed=0.5) == Registered("story-mnist_5k", "1", True, "the first one")
    version = client.get_model_version("story-mnist_5k", "1")
    assert version.tags == {
        TAG_SWEEP: "story/a",
        TAG_TRIAL: "0",
        TAG_OBJECTIVE: "val_accuracy max",
        "data.name": "mnist_5k",
        "data.digest": "d",
        "validation": "data.validation_split=0.1, seed=1",
        "score": "0.75",
        "confirmed_score": "0.5",
        "test_accuracy": "0.5",
    }
    assert (
        "val_accuracy 0.7500 in the search; 0.5000 ± 0.2500 on new seeds; test_accuracy 0.5000" in version.description
    )
    assert "- `model.units`: 64" in version.description
    assert "Takes raw images (N, 28, 28, 1), float32 in 0..255" in version.description
    assert version.source.startswith("models:/m-")
    run = client.get_run(version.run_id)
    assert [f"models:/{output.model_id}" for output in run.outputs.model_outputs] == [version.source]


@pytest.mark.parametrize(
    ("first", "second", "moves", "why"),
    [
        ({"score": 0.5}, {"score": 0.75}, True, "val_accuracy 0.7500 is better than the 0.5000 of version 1"),
        ({"score": 0.5}, {"score": 0.5}, False, "val_accuracy 0.5000 is not better than the 0.5000 of version 1"),
        ({"score": 0.75}, {"score": 0.5}, False, "val_accuracy 0.5000 is not better than the 0.7500 of version 1"),
        # The mean on new seeds decides if both have one.
        (
            {"score": 0.5, "confirmed": 0.75},
            {"score": 0.75, "confirmed": 0.5},
            False,
            "val_accuracy 0.5000 on new seeds is not better than the 0.7500 of version 1",
        ),
        # The best score of many is partly luck, and cannot beat a mean on new seeds.
        (
            {"score": 0.5, "confirmed": 0.625},
            {"score": 0.75},
            False,
            "version 1 was scored on new seeds, and this one was not",
        ),
        (
            {"score": 0.5},
            {"score": 0.75, "confirmed": 0.625},
            True,
            "val_accuracy 0.6250 on new seeds is better than the 0.5000 of version 1",
        ),
        (
            {"score": 0.5},
            {"score": 0.75, "seed": 2},
            False,
            "version 1, which was scored on other validation images: seed=1",
        ),
        (
            {"score": 0.5},
            {"score": 0.75, "digest": "e"},
            False,
            "not comparable with version 1, which was trained on other data",
        ),
        (
            {"score": 0.5},
            {"score": 0.25, "objective": "val_loss min"},
            False,
            "not comparable with version 1, which was chosen by val_accuracy max",
        ),
        (
            {"score": 0.5, "objective": "val_loss min"},
            {"score": 0.25, "objective": "val_loss min"},
            True,
            "val_loss 0.2500 is better than the 0.5000 of version 1",
        ),
    ],
)
def test_another_version_becomes_the_champion_only_if_it_is_better_on_the_same_data(
    add: Add, client: MlflowClient, first, second, moves, why
) -> None:
    add("a", **first)
    found = add("b", **second)
    assert (found.version, found.champion) == ("2", moves)
    assert why in found.why
    assert champion(client) == ("2" if moves else "1")
    assert found.line.startswith(f"story-mnist_5k version 2, {'the' if moves else 'not the'} champion (")


def test_registering_again_changes_nothing(add: Add, client: MlflowClient) -> None:
    add("a", 0.75)
    add("b", 0.5)
    for sweep, version in (("story/a", "1"), ("story/b", "2")):
        found = register(find_sweep(sweep, client.tracking_uri), package)
        assert (found.version, found.champion) == (version, version == "1")
    assert len(client.search_model_versions("name = 'story-mnist_5k'")) == 2


def test_a_model_is_packaged_once_even_if_it_is_registered_again(add: Add, client: MlflowClient, tmp_path) -> None:
    made, asked = tmp_path / "made", []
    made.mkdir()
    (made / "MLmodel").write_text("flavors: {made: here}\n")

    def packaged(run: ModelRun, folder: Path) -> Path:
        asked.append(run.sweep)
        return made

    add("a", 0.75, packaged=packaged)
    assert register(find_sweep("story/a", client.tracking_uri), packaged).version == "1"
    assert asked == ["story/a"]
    version = client.get_model_version("story-mnist_5k", "1")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert Path(model.artifact_location.removeprefix("file://"), "MLmodel").read_text() == "flavors: {made: here}\n"


def test_a_retrained_model_becomes_the_champion_only_if_the_user_says_so(add: Add, client: MlflowClient) -> None:
    add("a", 0.75)
    why = "retrain with --champion to make it that"
    assert add("b", 0.875, champion=False) == Registered("story-mnist_5k", "2", False, why)
    assert champion(client) == "1"
    # Also if it is worse, or scored by another objective.
    assert add("c", 0.25, objective="loss min", champion=True).champion
    assert champion(client) == "3"
    assert "not comparable with version 3, which was chosen by loss min" in add("d", 0.75).why
    assert champion(client) == "3"


def test_a_champion_that_the_user_chose_stays(add: Add, client: MlflowClient) -> None:
    add("a", 0.75)
    add("b", 0.5)
    client.set_registered_model_alias("story-mnist_5k", "champion", "2")
    register(find_sweep("story/a", client.tracking_uri), package)
    assert champion(client) == "2"
    client.delete_registered_model_alias("story-mnist_5k", "champion")
    assert register(find_sweep("story/a", client.tracking_uri), package).champion


def test_a_version_that_has_lost_its_files_is_registered_again_and_loses_its_alias(
    add: Add, client: MlflowClient, tmp_path: Path
) -> None:
    add("a", 0.75)
    shutil.rmtree(tmp_path / "artifacts" / "models")
    lost = "the files of version 1 are lost"
    # Even if it was better.
    assert add("b", 0.5) == Registered("story-mnist_5k", "2", True, lost)
    again = register(find_sweep("story/a", client.tracking_uri), package)
    assert (again.version, again.champion) == ("3", True)
    version = client.get_model_version("story-mnist_5k", "3")
    assert client.list_logged_model_artifacts(str(version.source).removeprefix("models:/"))


def test_a_registry_that_cannot_be_written_is_reported_in_one_line_and_nothing_is_left(
    add: Add, client: MlflowClient, monkeypatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("not here\nat all")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", refuse)
        with pytest.raises(UserError, match=r"^story/a: its model cannot be registered \(not here\)$"):
            add("a", 0.5)
    experiment = client.get_experiment_by_name("story").experiment_id
    assert list(client.search_logged_models([experiment])) == []
    assert add("b", 0.5).version == "1"


def test_the_environment_is_restored(add: Add, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    add("a", 0.5)
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///elsewhere.db"
