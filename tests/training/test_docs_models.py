"""The models that docs/extending.md shows: a worker trains them, and finds the space that the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from fitting import train
from pages import ROOT, commands, files

from mnist_sweep.config import hypermodel
from mnist_sweep.journal.trial import Status

PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture(autouse=True)
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my_model.py", "tuned.py"):
        (tmp_path / name).write_text(files(PAGE)[name])
    monkeypatch.syspath_prepend(tmp_path)


def test_the_model_function_on_the_page_builds_a_trainable_model(trainer, trial_config, tmp_path: Path) -> None:
    (builder,) = {w for c in commands(PAGE) for w in shlex.split(c.text) if w.startswith("model.builder=")}
    outcome, reports = train(trainer, trial_config(builder, "+model.width=32", "training.epochs=1"), tmp_path)
    assert outcome.status is Status.COMPLETED, outcome.reason
    assert len(reports) == 1


def test_the_hypermodel_on_the_page_has_the_space_that_the_page_shows(trainer) -> None:
    (command,) = [c for c in commands(PAGE) if "hypermodel=" in c.text and c.output]
    (name,) = re.findall(r"model\.hypermodel=(\S+)", command.text)
    trial = {"model": {"hypermodel": name}, "optimizer": {}, "training": {}}
    found = hypermodel.expand(trial, trainer.discover(name)).space().describe()
    shown = re.findall(r"^ +(?:search   )?(model\..*)", command.output, re.M)
    assert [f"{name} = {domain}" for name, domain in found.items()] == shown
