"""A run's model and files in MLflow, damaged ones among them. tests/training tests the models themselves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, cast

import made_up
import pytest

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import digest_of
from mnist_sweep.data.schema import Schema
from mnist_sweep.driver import packaging, rerun
from mnist_sweep.results import report
from mnist_sweep.results.models import export
from mnist_sweep.results.models import model_run as model_run_module
from mnist_sweep.results.models.model_run import ModelRun, find_trial
from mnist_sweep.results.runs.find import find_sweep

RETRAIN = "python -m mnist_sweep retrain quick/now 3"
CONFIG = "model: {kind: mlp}\ntraining: {backend: tensorflow}\n"


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "run3"
    folder.mkdir(parents=True)
    (folder / "model.h5").write_bytes(bytes(100_000))
    (folder / "sample_predictions.npz").write_bytes(b"")
    (folder / "config.yaml").write_text(CONFIG)
    (tmp_path / "here").mkdir()
    return folder


def model_run(artifacts: Path, digest: str = "") -> ModelRun:
    tags = {"mnist_sweep.sweep": "quick/now", "mnist_sweep.trial": "3", "data.name": "mnist_5k"}
    run = made_up.run("run3", {**tags, **({"mnist_sweep.model_sha256": digest} if digest else {})})
    return ModelRun(cast(Any, made_up.Files(artifacts.parent, run)), run)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 8
    path.write_bytes(raw)


def test_a_model_with_flipped_bits_is_neither_loaded_nor_packaged(artifacts: Path, tmp_path: Path) -> None:
    model = model_run(artifacts, digest_of(artifacts / "model.h5"))
    assert model.fetch_model(tmp_path / "here").read_bytes() == bytes(100_000)
    flip(artifacts / "model.h5")
    before = "tensorflow" in sys.modules
    for use in (model.load, lambda folder: model.load_quick(folder, Schema({})), model.fetch_model):
        with pytest.raises(UserError) as caught:
            use(tmp_path / "here")
        assert str(caught.value) == (
            "quick/now: model.h5 of trial 3 (run3): was changed or damaged since it was written; train it again with "
            f"`{RETRAIN}`, or take another trial"
        )
    with pytest.raises(UserError, match="was changed or damaged since it was written"):
        packaging.package(model, tmp_path / "here", threading.Event())
    assert ("tensorflow" in sys.modules) == before


def test_a_model_of_an_earlier_version_has_no_digest_and_is_not_checked(artifacts: Path, tmp_path: Path) -> None:
    flip(artifacts / "model.h5")
    assert model_run(artifacts).fetch_model(tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"- 1\n", "is not a trial's config"),
        (b"", "is not a trial's config"),
        (b"model: mlp\ntraining: {}\n", "is not a trial's config"),
        (b"model: {}\n", "is not a trial's config"),
        (b"model: {\n", "is not valid YAML ("),
        (b"model: caf\xe9\n", "is not UTF-8 text (byte 0xe9 at 10)"),
        (
            "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9 if i else 1}]\n" for i in range(12)).encode(),
            "has more than 50000",
        ),
        (b"x" * 2_000_000, "is larger than 1 MB"),
    ],
)
def test_a_damaged_config_is_reported_in_one_line(artifacts: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    (artifacts / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        model_run(artifacts).load(tmp_path / "here")
    assert str(caught.value).startswith(f"quick/now: config.yaml of trial 3 (run3): {reason}")


# ---- finding a trial --------------------------------------------------------------------------------------------


def test_every_command_finds_a_trial_by_its_sweep_its_number_or_its_runs_id(project, new: str, other: str) -> None:
    found = find_trial(new, 3)
    assert (found.sweep, found.trial) == (new, 3)
    run_id = found.run.info.run_id
    assert find_trial(run_id).run.info.run_id == run_id
    assert find_trial(run_id[:12]).run.info.run_id == run_id
    # The run of a sweep stands for the sweep; without a trial, the best one is meant.
    of_sweep = find_sweep(new).parent.info.run_id
    assert [find_trial(what, trial).trial for what, trial in ((of_sweep, None), (of_sweep, 4), ("alpha", None))] == [
        1, 4, 1,
    ]  # fmt: skip
    assert (find_trial().sweep, find_trial(None, 2).trial) == (other, 2)


@pytest.mark.parametrize(
    ("what", "trial", "complaint"),
    [
        ("alpha", 9, "alpha/2025-01-02_10-00-00: has no trial 9; its trials are 0 to 4"),
        ("0123456789abcdef", None, "0123456789abcdef: no run ID in sqlite:"),
        ("alfa", None, "no such experiment; did you mean 'alpha'?"),
        ("3", None, "3: name the sweep before the trial, or write --trial 3 for the last sweep"),
        ("models:/alpha@champion", 3, "models:/alpha@champion: names a model, so leave out the trial 3"),
    ],
)
def test_an_unknown_run_or_trial_is_refused(project, what: str, trial: int | None, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        find_trial(what, trial)
    assert complaint in str(error.value)


def test_the_run_of_one_trial_and_another_trial_contradict_each_other(project, new: str) -> None:
    run_id = find_trial(new, 3).run.info.run_id
    with pytest.raises(UserError, match=f"{run_id}: is the run of trial 3 of {new}, so leave out the trial 4"):
        find_trial(run_id, 4)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (
            {"mnist_sweep.status": "completed"},
            f"trial 3 has no model any more: tracking.keep_models keeps only the best; train it again with `{RETRAIN}`",
        ),
        ({"mnist_sweep.status": "running"}, "trial 3 has no model yet: it is still running"),
        (
            {"mnist_sweep.status": "failed", "mnist_sweep.reason": "the loss became nan"},
            "trial 3 has no model: it failed (the loss became nan)",
        ),
        ({"mnist_sweep.status": "refused", "mnist_sweep.reason": ""}, "trial 3 has no model: it was refused"),
    ],
)
def test_a_trial_without_a_model_says_why_and_how_to_get_one(
    artifacts: Path, tmp_path: Path, tags: dict[str, str], reason: str
) -> None:
    (artifacts / "model.h5").unlink()
    model = model_run(artifacts)
    model.run.data.tags.update(tags)
    model.run.info._status = "RUNNING" if tags["mnist_sweep.status"] == "running" else "FINISHED"
    with pytest.raises(UserError) as caught:
        model.fetch_model(tmp_path / "here")
    assert str(caught.value) == f"quick/now: {reason}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["quick", "3"], ("quick", 3)),
        (["quick", "--trial", "3"], ("quick", 3)),
        (["--trial", "3"], (None, 3)),
        (["quick"], ("quick", None)),
        ([], (None, None)),
    ],
)
def test_export_serve_rerun_and_report_take_a_trial_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch, given: list[str], expected: tuple[str | None, int | None]
) -> None:
    taken: list[tuple[str | None, int | None]] = []

    def found(what: str | None, trial: int | None, *_: Any) -> Any:
        taken.append((what, trial))
        raise UserError("found")

    for module in (export, rerun, model_run_module):
        monkeypatch.setattr(module, "find_trial", found)
    monkeypatch.setattr(report, "find_named", found)
    for line in ("export --to exported", "serve --port 0", "rerun", "report --to page.html"):
        name, *options = line.split()
        for arguments in ([*given, *options], [*options, *given]):
            with pytest.raises(UserError, match="found"):
                COMMANDS[name](arguments)
    assert set(taken) == {expected}
    assert len(taken) == 8


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["quick", "x"], "rerun: TRIAL must be a number, not x; see "),
        (["quick", "3", "--trial", "4"], "rerun: trial 3 and --trial 4: give only one of them; see "),
    ],
)
def test_a_trial_that_is_no_number_or_given_twice_is_refused(given: list[str], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        COMMANDS["rerun"](given)
    assert str(caught.value).startswith(complaint)


def test_a_store_of_files_that_is_out_of_reach_is_not_taken_for_a_missing_file(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError('Could not connect to the endpoint URL: "http://ann:secret12@s3/bucket"')

    monkeypatch.setattr(made_up.Files, "download_artifacts", refuses)
    monkeypatch.setattr(made_up.Files, "list_artifacts", refuses)
    run = model_run(artifacts)
    for ask, what in (
        (lambda: run.fetch("model.h5", tmp_path / "here"), "model.h5 of trial 3 (run3)"),
        (run.check_has_model, "the artifacts of trial 3 (run3)"),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).startswith(f"quick/now: {what} cannot be read from ")
        assert str(caught.value).endswith('Could not connect to the endpoint URL: "http://***@s3/bucket"')
