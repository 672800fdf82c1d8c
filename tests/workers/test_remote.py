"""The driver's side of a pool on other machines, with agents that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.common.versions import versions
from mnist_sweep.config import shipped
from mnist_sweep.config.settings import RayConfig
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.workers import remote
from mnist_sweep.workers.agent import Call, Failed, Hello, Job, Measured, Passed, Said, Sent
from mnist_sweep.workers.base import Died, Done, Joined, MachineFailed, Package, Packaged, Ready, Reported, Train
from mnist_sweep.workers.carrying import Carrier, Files
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.figures import Figures
from mnist_sweep.workers.remote import Lost, RemoteWorkers


class Agents:
    """Says what a test tells it to, and keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Sent]] = []
        self.calls: list[tuple[str, Call]] = []
        self.dropped: dict[str, bool] = {}
        self.coming = 0

    def start(self, job: Job) -> None:
        self.job = job

    def poll(self, timeout: float) -> list[tuple[str, Sent]]:
        said, self.said = self.said, []
        return said

    def share(self, files: Files) -> object:
        return files

    def call(self, node: str, call: Call, shared: Any = None) -> None:
        self.calls.append((node, call if shared is None else replace(call, files=shared)))

    def drop(self, node: str, *, forever: bool) -> None:
        self.dropped[node] = forever

    def expected(self) -> int:
        return self.coming

    def shortage(self) -> str:
        return "the cluster has 1 node; all CPUs are in use"

    def close(self) -> None:
        self.said = []

    def greet(self, agent: str, host: str, slots: int = 1, missing: str = "", **other: str) -> None:
        places = [Slot(f"cpu{i}", 1) for i in range(slots)]
        about = {"host": host, "processor": "a fast one", "cores": "8"}
        self.said.append((agent, Hello(places, about, {**versions(), **other}, missing)))


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Agents:
    monkeypatch.setattr(remote, "_FIRST_SLOTS", 0.0)
    return Agents()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pool(agents: Agents, tmp_path: Path, said: list[str]) -> RemoteWorkers:
    config = RayConfig(**{**shipped.values("workers/local"), **shipped.values("workers/ray")})
    job = Job(config, None, custom_code=False, backend="tensorflow", carrier=Carrier(100, None))
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "x_train.npy").write_bytes(b"images")
    return RemoteWorkers(agents, job, tmp_path, said.append)


def train(folder: Path, number: int = 0) -> Train:
    return Train(Trial(number, {}, {}, 2), ("val_accuracy", "max"), str(folder / f"trials/{number:04d}"))


def test_the_slots_of_all_nodes_have_names_of_their_own(pool: RemoteWorkers, agents: Agents) -> None:
    agents.greet("1", "worker.example.org", slots=2)
    agents.greet("2", "worker.example.com")
    assert [slot.name for slot in pool.places()] == ["cpu0@worker", "cpu1@worker", "cpu0@worker-2"]
    assert pool.slots() == ["cpu0@worker", "cpu1@worker", "cpu0@worker-2"]


def test_a_node_with_other_versions_is_refused_by_name(pool: RemoteWorkers, agents: Agents) -> None:
    agents.greet("1", "b", tensorflow="2.20.0", keras="3.14.0")
    here = versions()
    with pytest.raises(UserError) as caught:
        pool.places()
    assert str(caught.value) == (
        f"workers: the node b has other versions: tensorflow 2.20.0 (here {here['tensorflow']}), keras 3.14.0 "
        f"(here {here['keras']}); install the same on all nodes"
    )
    assert agents.dropped == {"1": True}


def test_a_node_that_lacks_the_users_code_is_refused_and_the_others_are_used(
    pool: RemoteWorkers, agents: Agents, said: list[str]
) -> None:
    agents.greet("1", "a")
    agents.greet("2", "b", missing="ModuleNotFoundError: No module named 'own'")
    assert [slot.name for slot in pool.places()] == ["cpu0@a"]
    agents.said.append(("2", Lost("was lost", "b")))
    assert pool.poll(0) == []
    assert said == [
        "workers: the node b cannot import the model's code (ModuleNotFoundError: No module named 'own'); install that "
        "on all nodes"
    ]


def test_a_cluster_without_a_free_slot_is_told(pool: RemoteWorkers) -> None:
    with pytest.raises(UserError, match=r"^workers=ray: no slot is free \(the cluster has 1 node; all CPUs are in use"):
        pool.places()


def test_a_node_whose_agent_does_not_start_is_named(pool: RemoteWorkers, agents: Agents) -> None:
    agents.said.append(("1", Lost("was lost (No module named 'mnist_sweep')", "b")))
    with pytest.raises(
        UserError, match=r"^workers: the node b cannot be used: its agent was lost \(No module named 'mnist_sweep'\)$"
    ):
        pool.places()


def test_a_node_that_comes_later_gets_the_data_and_joins_with_what_it_is(
    pool: RemoteWorkers, agents: Agents, tmp_path: Path
) -> None:
    agents.greet("1", "a")
    pool.places()
    pool.set_up(tmp_path / "arrays")
    agents.greet("2", "b", slots=2)
    reason = "the node b has joined (processor a fast one, cores 8)"
    assert pool.poll(0) == [Joined("cpu0@b", reason), Joined("cpu1@b", reason)]
    calls = [(call.method, dict(call.files)) for agent, call in agents.calls if agent == "2"]
    assert calls == [("start", {}), ("set_up", {"x_train.npy": b"images"})]


@pytest.mark.parametrize("end", [Lost("was lost", "a"), Failed("was lost")])
def test_the_loss_of_a_node_is_that_of_its_slots_and_its_late_messages_are_dropped(
    pool: RemoteWorkers, agents: Agents, said: list[str], tmp_path: Path, end: Sent
) -> None:
    agents.greet("1", "a", slots=2)
    agents.greet("2", "b")
    pool.places()
    pool.submit("cpu0@a", train(tmp_path))
    agents.said = [("1", end), ("1", Passed(Done("cpu0", 0, Outcome(Status.FAILED)), {"trials/0000/model.h5": b""}))]
    agents.said.append(("1", Lost("has ended", "a")))
    assert pool.poll(0) == [Died("cpu0@a", "was lost", lost=True), Died("cpu1@a", "was lost", lost=True)]
    assert said == []
    assert pool.slots() == ["cpu0@b"]
    assert not (tmp_path / "trials").exists()
    # The loop may not have read that yet.
    pool.submit("cpu0@a", train(tmp_path))
    pool.stop("cpu0@a", 0, "enough")
    # The same machine again, with a new agent.
    agents.greet("3", "a")
    assert [type(m) for m in pool.poll(0)] == [Joined]
    assert pool.slots() == ["cpu0@b", "cpu0@a"]


def test_a_node_with_a_full_disk_is_left_to_the_others_as_long_as_there_are_some(
    pool: RemoteWorkers, agents: Agents
) -> None:
    agents.greet("1", "a", slots=2)
    agents.greet("2", "b")
    pool.places()
    agents.said.append(("1", Passed(MachineFailed("cpu0", "the disk is full (/tmp)", 0), {})))
    reason = "is not used any more: the disk is full (/tmp)"
    assert pool.poll(0) == [Died("cpu0@a", reason, lost=True), Died("cpu1@a", reason, lost=True)]
    assert agents.dropped == {"1": True}
    agents.said.append(("2", Passed(MachineFailed("cpu0", "the disk is full (/tmp)", 0), {})))
    assert pool.poll(0) == [MachineFailed("cpu0@b", "the disk is full (/tmp)", 0)]


def test_a_task_takes_its_files_along_and_a_message_brings_those_that_were_written_before(
    pool: RemoteWorkers, agents: Agents, tmp_path: Path
) -> None:
    agents.greet("1", "a")
    pool.places()
    for name in ("0000", "0001"):
        (tmp_path / "trials" / name).mkdir(parents=True)
        (tmp_path / "trials" / name / "state.npz").write_bytes(name.encode())
    (tmp_path / "trials" / "0000" / "model.h5").touch()
    pool.submit("cpu0@a", replace(train(tmp_path, 1), parent=str(tmp_path / "trials/0000")))
    call = agents.calls[-1][1]
    assert dict(call.files) == {"trials/0001/state.npz": b"0001", "trials/0000/state.npz": b"0000"}
    slot, task = call.arguments
    assert (slot, task.folder, task.parent) == ("cpu0", "trials/0001", "trials/0000")
    agents.said.append(("1", Passed(Reported("cpu0", 1, 1, {}), {"trials/0001/state.npz": b"new"})))
    assert pool.poll(0) == [Reported("cpu0@a", 1, 1, {})]
    assert (tmp_path / "trials/0001/state.npz").read_bytes() == b"new"


def test_a_package_goes_to_where_it_was_asked_for(pool: RemoteWorkers, agents: Agents, tmp_path: Path) -> None:
    agents.greet("1", "a")
    pool.places()
    to = tmp_path.parent / f"{tmp_path.name}-temporary" / "package"
    pool.submit("cpu0@a", Package(str(tmp_path / "trials/0000"), str(to)))
    output = agents.calls[-1][1].arguments[1].to
    agents.said.append(("1", Passed(Packaged("cpu0"), {f"{output}/data/model.keras": b"model"})))
    assert pool.poll(0) == [Packaged("cpu0@a")]
    assert (to / "data" / "model.keras").read_bytes() == b"model"


@pytest.mark.parametrize("name", ["journal.jsonl", "trials/0001/model.h5", "../model.h5"])
def test_a_file_that_does_not_belong_to_the_task_is_refused(
    pool: RemoteWorkers, agents: Agents, tmp_path: Path, name: str
) -> None:
    agents.greet("1", "a")
    pool.places()
    pool.submit("cpu0@a", train(tmp_path))
    agents.said.append(("1", Passed(Reported("cpu0", 0, 1, {}), {name: b""})))
    with pytest.raises(MachineError, match="does not belong to its task"):
        pool.poll(0)


def test_a_folder_that_is_gone_is_not_made_again(pool: RemoteWorkers, agents: Agents, tmp_path: Path) -> None:
    agents.greet("1", "a")
    pool.places()
    pool.submit("cpu0@a", train(tmp_path))
    tmp_path.rename(tmp_path.with_name("moved"))
    agents.said.append(("1", Passed(Reported("cpu0", 0, 1, {}), {"trials/0000/state.npz": b""})))
    with pytest.raises(MachineError, match="the folder is gone"):
        pool.poll(0)
    assert not tmp_path.exists()


def test_what_a_node_says_is_told_with_its_name(pool: RemoteWorkers, agents: Agents, said: list[str]) -> None:
    agents.greet("1", "a")
    pool.places()
    agents.said.append(("1", Said("imports still")))
    assert pool.poll(0) == []
    assert said == ["a: imports still"]


def test_messages_that_are_put_back_come_again(pool: RemoteWorkers, agents: Agents) -> None:
    agents.greet("1", "a")
    pool.places()
    agents.said.append(("1", Passed(Ready("cpu0"), {})))
    messages = pool.poll(0)
    pool.put_back(messages)
    assert pool.poll(0) == messages == [Ready("cpu0@a")]


def test_a_slot_is_given_back_and_opened_again_unless_its_node_is_gone(pool: RemoteWorkers, agents: Agents) -> None:
    agents.greet("1", "a")
    agents.greet("2", "b")
    assert [slot.name for slot in pool.places()] == ["cpu0@a", "cpu0@b"]
    slots = [pool.retire("cpu0@a"), pool.retire("cpu0@b")]
    assert pool.slots() == []
    agents.said.append(("2", Lost("was lost", "b")))
    assert pool.poll(0.0) == []
    for slot in slots:
        pool.open(slot)
    assert pool.slots() == ["cpu0@a"]
    assert [(node, call.method) for node, call in agents.calls][-2:] == [("2", "retire"), ("1", "open")]
    assert pool.poll(0.0) == [Died("cpu0@b", "cannot be opened again: its node is gone", lost=True)]
    # The driver does not know yet that a slot is lost.
    assert pool.retire("cpu0@b").name == "cpu0@b"


def test_what_the_slots_of_a_node_use_is_told_once_and_under_their_names_here(
    pool: RemoteWorkers, agents: Agents
) -> None:
    agents.greet("1", "a")
    pool.places()
    for cpu in (10.0, 20.0):
        agents.said.append(("1", Measured([Figures("cpu0", "1 CPU core", 3, cpu)])))
    agents.said.append(("2", Measured([Figures("cpu0", "1 CPU core", 4, 99.0)])))
    assert pool.poll(0) == []
    assert pool.measured() == [Figures("cpu0@a", "1 CPU core", 3, 20.0)]
    assert pool.measured() == []
