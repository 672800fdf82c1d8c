"""What every pool of workers does, wherever its processes run: on this machine, or behind an agent of a Ray node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tasks import small
from waiting import run, wait_for, wait_for_reports

from mnist_sweep.config import shipped
from mnist_sweep.config.settings import RayConfig
from mnist_sweep.data.dataset import split
from mnist_sweep.data.sources import Request, load
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.trial import Execution, Status
from mnist_sweep.workers.agent import Job
from mnist_sweep.workers.base import (
    Check,
    Died,
    Discovered,
    Done,
    Evaluate,
    Evaluated,
    Executed,
    Message,
    Package,
    Packaged,
    Pool,
    Ready,
    Reported,
    Train,
)
from mnist_sweep.workers.carrying import Carrier
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.figures import Figures
from mnist_sweep.workers.local import LocalWorkers
from mnist_sweep.workers.on_ray import RayTransport
from mnist_sweep.workers.remote import RemoteWorkers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's folder of all pools."""
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def arrays(digits: Path, root: Path) -> Path:
    (root / "arrays").mkdir()
    split(load(Request("npz", str(digits))), 0.2, seed=1).save(root / "arrays")
    return root / "arrays"


def local(root: Path) -> Pool:
    return LocalWorkers([Slot("cpu0", 1)], None, root / "workers", 1000, custom_code=False, measures=True)


def on_ray(root: Path) -> Pool:
    config = RayConfig(**{**shipped.values("workers/local"), **shipped.values("workers/ray"), "count": 1, "threads": 1})
    job = Job(config, None, custom_code=False, backend="tensorflow", carrier=Carrier(10**9, None), measures=True)
    return RemoteWorkers(RayTransport(config, None, custom_code=False), job, root, print)


POOLS = ["local", "ray"]


@pytest.fixture(scope="module", params=[local, on_ray], ids=POOLS)
def pool(request: pytest.FixtureRequest, root: Path, arrays: Path) -> Iterator[Pool]:
    """One worker, used by one test after another: each start imports TensorFlow."""
    workers: Pool = request.param(root)
    try:
        workers.set_up(arrays)
        assert [place.name for place in workers.places()] == workers.slots()
        wait_for(workers, Ready)
        yield workers
    finally:
        workers.close()


@pytest.fixture
def slot(pool: Pool) -> str:
    (name,) = pool.slots()
    return name


@pytest.fixture
def task(compose_config, root: Path) -> Callable[..., Train]:
    numbers = iter(range(10_000))

    def made(number: int | None = None, epochs: int = 2, **more: Any) -> Train:
        number = next(n for n in numbers if not trial_folder(root, n).exists()) if number is None else number
        return small(compose_config, number, trial_folder(root, number), epochs, **more)

    return made


def test_a_trial_reports_each_epoch_and_its_end(pool: Pool, slot: str, task) -> None:
    trained = task()
    messages = run(pool, trained)
    assert [type(m) for m in messages] == [Reported, Reported, Done, Ready]
    assert {m.slot for m in messages} == {slot}
    done = messages[2]
    assert isinstance(done, Done)
    assert (done.trial, done.outcome.status) == (trained.trial.number, Status.COMPLETED)
    assert done.outcome.score == max(m.metrics["val_accuracy"] for m in messages if isinstance(m, Reported))
    assert {"model.h5", "sample_predictions.npz"} <= {path.name for path in Path(trained.folder).iterdir()}


# The metrics of the same trial, by pool.
_METRICS: list[list[dict[str, float]]] = []


def test_a_pool_tells_what_its_slots_use(pool: Pool, slot: str) -> None:
    found: list[Figures] = []
    messages: list[Message] = []
    until = time.monotonic() + 20
    while time.monotonic() < until and not (found and found[0].memory):
        messages += pool.poll(0.1)
        found = pool.measured() or found
    pool.put_back(messages)
    assert [(one.slot, one.device) for one in found] == [(slot, "1 CPU core")]
    # TensorFlow alone takes more.
    assert (found[0].memory or 0) > 100 * 10**6


def test_training_has_the_priority_of_this_process(pool: Pool) -> None:
    here, found = psutil.Process(), set[int]()
    for process in here.children(recursive=True):
        # Some end meanwhile.
        with contextlib.suppress(psutil.Error):
            found |= {process.nice()} if "mnist_sweep" in " ".join(process.cmdline()) else set()
    assert found == {here.nice()}


def test_the_same_trial_gives_the_same_metrics_in_every_pool(pool: Pool, task) -> None:
    reports = [m.metrics for m in run(pool, task(epochs=3)) if isinstance(m, Reported)]
    _METRICS.append([{k: v for k, v in m.items() if k != "epoch_seconds"} for m in reports])
    assert len(_METRICS[-1]) == 3
    assert _METRICS[-1] == _METRICS[0]


def test_a_users_function_that_cannot_be_imported_is_found_before_the_first_trial(pool: Pool, task) -> None:
    answer, _ = run(pool, Check((task(model={"builder": "nowhere:build"}).trial.config,)))
    assert isinstance(answer, Discovered)
    assert answer.error.startswith("model.builder=nowhere:build: there is no module nowhere")


def test_a_stop_ends_the_trial_that_it_names_and_no_other(pool: Pool, slot: str, task) -> None:
    long = task(epochs=5000)
    number = long.trial.number
    pool.submit(slot, long)
    pool.stop(slot, number + 1, "too late for the one before")
    first = wait_for(pool, Reported)
    pool.stop(slot, number, "enough")
    messages = [*first, *wait_for(pool, Ready)]
    done = next(m for m in messages if isinstance(m, Done))
    assert (done.outcome.status, done.outcome.reason) == (Status.STOPPED, "enough")
    assert 1 <= sum(isinstance(m, Reported) for m in messages) < 5000


def test_a_waiting_trial_trains_the_next_epoch_only_when_told_to_continue(pool: Pool, slot: str, task) -> None:
    waiting = task(epochs=3, fields={"waits": True})
    number = waiting.trial.number
    pool.submit(slot, waiting)
    # The first answer may come before the trial waits for it; the others are for another trial, execution or epoch.
    for trial, execution, epoch in ((number, 1, 1), (number + 1, 1, 2), (number, 2, 2), (number, 1, 3)):
        pool.go_on(slot, trial, execution, epoch)
    messages = wait_for_reports(pool, 2)
    assert [m.epoch for m in messages] == [1, 2]
    assert pool.poll(0.5) == []
    pool.stop(slot, number, "hopeless")
    (done, *_) = wait_for(pool, Ready)
    assert isinstance(done, Done)
    assert (done.outcome.status, done.outcome.reason) == (Status.STOPPED, "hopeless")
    # As if the process had died before it ended the trial: the next attempt only ends it.
    (*again, ended, _) = run(pool, task(number, epochs=3, fields={"waits": True, "stop": "no time"}))
    assert again == messages
    assert isinstance(ended, Done)
    assert (ended.outcome.reason, ended.outcome.score) == ("no time", done.outcome.score)
    # Answers to one attempt do not count for the next; after the last epoch it does not wait.
    pool.submit(slot, task(number, epochs=3, fields={"waits": True}))
    messages = wait_for_reports(pool, 2)
    assert [m.epoch for m in messages] == [1, 2]
    pool.go_on(slot, number, 1, 2)
    (last, done, _) = wait_for(pool, Ready)
    assert isinstance(last, Reported)
    assert isinstance(done, Done)
    assert (last.epoch, done.outcome.status) == (3, Status.COMPLETED)


def test_a_trial_of_several_executions_waits_between_them(pool: Pool, slot: str, task) -> None:
    several = task(epochs=1, executions=[Execution(1, 1, 2), Execution(1, 2, 2)], fields={"waits": True})
    pool.submit(slot, several)
    (first, executed) = [*wait_for(pool, Executed), *pool.poll(0.5)]
    assert isinstance(first, Reported)
    assert isinstance(executed, Executed)
    assert (first.execution, first.epoch, executed.execution) == (1, 1, 1)
    # What another attempt needs to continue with the second execution, on whatever machine.
    assert {"execution.json", "model.h5"} <= {path.name for path in Path(several.folder).iterdir()}
    pool.go_on(slot, several.trial.number, 1, 0)
    (second, executed, done, _) = wait_for(pool, Ready)
    assert isinstance(second, Reported)
    assert isinstance(executed, Executed)
    assert isinstance(done, Done)
    assert (second.execution, second.epoch, executed.execution) == (2, 1, 2)
    assert done.outcome.scores == [m.metrics["val_accuracy"] for m in (first, second)]
    assert done.outcome.score == sum(done.outcome.scores) / 2


def test_a_trial_continues_from_the_state_of_another(pool: Pool, task) -> None:
    parent = task()
    run(pool, parent)
    child = task(epochs=4, fields={"parent": parent.folder})
    reports = [m for m in run(pool, child) if isinstance(m, Reported)]
    assert [m.epoch for m in reports] == [3, 4]


def test_a_model_is_tested_on_the_test_images(pool: Pool, slot: str, task) -> None:
    trained = task()
    run(pool, trained)
    tested, *_ = run(pool, Evaluate(f"{trained.folder}/model.h5"))
    assert isinstance(tested, Evaluated)
    assert sum(map(sum, tested.confusion)) == 200
    assert Path(trained.folder, "test_details.npz").is_file()
    tested, *_ = run(pool, Evaluate(f"{task().folder}/model.h5"))
    assert isinstance(tested, Evaluated)
    assert tested.error
    assert not tested.metrics
    # The user's module is imported first, as it registers layers.
    tested, *_ = run(pool, Evaluate(f"{trained.folder}/model.h5", "no_such_module:build"))
    assert isinstance(tested, Evaluated)
    assert "no_such_module" in tested.error


@pytest.mark.slow
@pytest.mark.parametrize("pool", [local, on_ray], indirect=True, ids=POOLS)
def test_a_model_becomes_an_mlflow_model_with_the_users_code(pool: Pool, task, tmp_path) -> None:
    trained, to = task(), tmp_path / "package"
    run(pool, trained)
    # Any module that is not installed will do.
    packaged, *_ = run(pool, Package(trained.folder, str(to), "benchmarks:build"))
    assert isinstance(packaged, Packaged)
    assert not packaged.error
    assert yaml.safe_load((to / "MLmodel").read_text())["flavors"]["tensorflow"]["model_type"] == "keras"
    assert [file.name for file in (to / "code").iterdir()] == ["benchmarks"]
    missing = task()
    packaged, *_ = run(pool, Package(missing.folder, str(tmp_path / "none")))
    assert isinstance(packaged, Packaged)
    assert "model.h5" in packaged.error


def test_a_process_is_killed_with_the_given_reason(pool: Pool, slot: str, task) -> None:
    pool.submit(slot, task(epochs=5000))
    wait_for(pool, Reported)
    pool.kill(slot, "did not respond for 1h")
    seen: list[Message] = wait_for(pool, Died)
    died = next(m for m in seen if isinstance(m, Died))
    assert (died.reason, died.lost) == ("did not respond for 1h", False)
    if not any(isinstance(m, Ready) for m in seen):
        wait_for(pool, Ready)
    assert isinstance(run(pool, task())[-2], Done)
