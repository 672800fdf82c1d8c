"""Faults on a cluster of separate machines, with real training: nothing is lost, and the metrics are one machine's."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chaos import CLUSTER_FAULTS, Chaos
from cluster import Cluster, events, missing, until

from mnist_sweep.journal.events import EpochEnded, SweepEnded, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Status

# A machine may take half a minute to start Ray, or to be given up, and other work may slow it down.
pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is a Ray"),
    pytest.mark.timeout(900),
]
RAY = ("workers=ray", "resume=auto")
# A sweep of a minute on two slots.
SMALL = (
    *("model.units=choice(8,16)", "optimizer.learning_rate=1e-3,3e-3", "training.batch_size=4", "training.epochs=40"),
    *("search=grid", "data=npz", "data.path=digits.npz", "name=small"),
)


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), seed=3)


@pytest.mark.slow
def test_a_sweep_survives_the_loss_of_a_node(chaos: Chaos, tmp_path: Path) -> None:
    """The cheapest of the faults: two machines, of which the head trains, too."""
    with ThreadPoolExecutor() as beside, Cluster(tmp_path, cpus=(1,), head_cpus=1) as cluster:
        expected = beside.submit(chaos.expected, "short")
        folder, (node,) = chaos.fresh("sweep", cluster.driver_folder), cluster.nodes
        driver = chaos.start_on(cluster, folder, "short")
        while cluster.machine_of(chaos.trains(folder, driver)) is not node:
            continue
        node.kill()
        assert driver.wait() == 0, cluster.output
        expected.result()
    chaos.compare(folder, "short")
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLUSTER_FAULTS)
def test_a_fault_on_a_cluster_loses_and_repeats_nothing(chaos: Chaos, kind: str) -> None:
    chaos.tally.wrong.clear()
    chaos.disturb_cluster(1, [kind])
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


@pytest.mark.slow
def test_a_node_that_joins_during_a_sweep_trains_its_trials(digits: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path, cpus=(1,)) as cluster:
        folder = prepared(cluster, digits)
        driver = cluster.sweep(*SMALL, "training.epochs=400", *RAY, f"workers.address={cluster.address}")
        until(lambda: epochs(folder), of=driver)
        joined = cluster.add()
        assert driver.wait() == 0, cluster.output
    assert {cluster.machine_of(slot) for slot in slots(folder)} == {*cluster.nodes, joined}


@pytest.mark.slow
def test_a_sweep_without_a_free_slot_says_so_and_starts_when_there_is_one(digits: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path, cpus=()) as cluster:
        folder = prepared(cluster, digits)
        address = f"workers.address={cluster.address}"
        assert cluster.sweep(*SMALL, *RAY, address).wait() == 2
        assert "mnist_sweep: workers=ray: no slot is free (the cluster has 1 node without CPUs)" in cluster.output
        driver = cluster.sweep(*SMALL, *RAY, address, "workers.wait=5m")
        until(lambda: "Waiting for a slot: the cluster has 1 node without CPUs" in cluster.output, of=driver)
        cluster.add()
        assert driver.wait() == 0, cluster.output
        assert ended(folder)


@pytest.mark.slow
def test_a_full_object_store_stops_no_sweep(digits: Path, tmp_path: Path) -> None:
    """Another program keeps objects that fill each node's store; Ray then writes others to disk."""
    with Cluster(tmp_path, store=80 * 2**20) as cluster:
        folder = prepared(cluster, digits)
        filling = cluster.head.popen(sys.executable, "-c", _FILL, RAY_ADDRESS=cluster.address)
        until(lambda: "full" in cluster.output, of=filling)
        driver = cluster.sweep(*SMALL, *RAY, f"workers.address={cluster.address}")
        assert driver.wait() == 0, cluster.output
        assert ended(folder)
        assert filling.poll() is None


_FILL = """
import time

import numpy
import ray

ray.init(log_to_driver=False)


@ray.remote(num_cpus=0)
class Filler:
    def fill(self):
        self.kept = [ray.put(numpy.zeros(10 * 2**20, dtype="uint8")) for _ in range(12)]


fillers = [
    Filler.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote() for node in ray.nodes()
]
ray.get([filler.fill.remote() for filler in fillers])
print("full", flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
def test_a_wrong_token_or_address_is_said_in_one_line_before_anything_is_trained(digits: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path, cpus=(1,)) as cluster:
        folder = prepared(cluster, digits)
        address = f"workers.address={cluster.address}"
        wrong = [
            ((address,), {"RAY_AUTH_TOKEN": "cd" * 32}, "token"),
            ((address,), {"RAY_AUTH_MODE": "disabled"}, "token"),
            (("workers.address=10.0.0.1:1234",), {}, "10.0.0.1:1234"),
            (("workers.address=10.0.0.99:6390",), {}, "10.0.0.99:6390"),
            (("workers.address=nowhere:6390",), {}, "nowhere:6390"),
        ]
        for more, env, said in wrong:
            known = len(cluster.output)
            assert cluster.sweep(*SMALL, *RAY, *more, **env).wait() == 2, cluster.output
            lines = cluster.output[known:].strip().splitlines()
            assert len(lines) == 1, lines
            assert lines[0].startswith("mnist_sweep: workers.address=")
            assert said in lines[0]
        assert not list(folder.glob("experiments/*/*"))


def prepared(cluster: Cluster, digits: Path) -> Path:
    """The driver's folder, with the images."""
    shutil.copy(digits, cluster.driver_folder / "digits.npz")
    return cluster.driver_folder


def epochs(folder: Path) -> list[EpochEnded]:
    return [event for event in events(folder) if isinstance(event, EpochEnded)]


def slots(folder: Path) -> set[str]:
    return {event.slot for event in events(folder) if isinstance(event, TrialStarted)}


def ended(folder: Path) -> bool:
    """Whether the sweep is complete, each of its trials without a fault."""
    found = events(folder)
    last, trials = found[-1], [event for event in found if isinstance(event, TrialEnded)]
    completed = all(event.outcome.status is Status.COMPLETED for event in trials)
    return isinstance(last, SweepEnded) and last.status is Status.COMPLETED and bool(trials) and completed
