"""A pool of workers on other machines, each of which has an agent (`agent.py`) that runs its own local pool."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from mnist_sweep.common.errors import MachineError, UserError, writing_to
from mnist_sweep.common.versions import versions
from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE, STATE_FILE
from mnist_sweep.workers import base
from mnist_sweep.workers.agent import Call, Failed, Hello, Job, Measured, Passed, Said, Sent
from mnist_sweep.workers.carrying import Carrier, Files, Stored, files_in
from mnist_sweep.workers.devices import Slot, on_node
from mnist_sweep.workers.figures import Figures

# Seconds to wait for the first slots, and for those of the other nodes that are known by then.
_FIRST_SLOTS = 10.0
_WAIT = 0.2
# The folder that stands for one outside of the sweep's folder.
_ELSEWHERE = "elsewhere"
# Software whose versions change the metrics.
_SAME = ("python", "mnist_sweep", "tensorflow", "jax", "keras", "keras-tuner", "numpy")


@dataclass(frozen=True)
class Lost(Sent):
    """A node is gone, and its agent with it.

    Attributes:
        reason: How: `was lost (…)`.
        host: The name of its machine.
    """

    reason: str
    host: str


class Transport(Protocol):
    """Reaches the agents. Each has a name that no other agent has had before it."""

    def start(self, job: Job) -> None:
        """Starts an agent on each node that there is now or will be."""

    def poll(self, timeout: float) -> list[tuple[str, Sent]]:
        """Waits up to `timeout` seconds for what the agents send, each with the name of its agent.

        The first of an agent is `Hello`, unless it fails. The last is `Failed` or `Lost`.
        """

    def share(self, files: Files) -> object:
        """Returns what stands for files in `call` that many agents get."""

    def call(self, node: str, call: Call, shared: object = None) -> None:
        """Hands a call to an agent, with the files that are shared; ignored if it is gone."""

    def drop(self, node: str, *, forever: bool) -> None:
        """Ends an agent without waiting for it; its node gets no other one if it is `forever`."""

    def expected(self) -> int:
        """Returns how many agents have been started and have not sent anything yet."""

    def shortage(self) -> str:
        """Returns why there is no slot, for the user: `the cluster has 2 nodes, all of whose CPUs are in use`."""

    def close(self) -> None:
        """Ends all agents and waits for them."""


@dataclass
class _Node:
    name: str
    about: str
    slots: dict[str, Slot] = field(default_factory=dict)


@dataclass(frozen=True)
class _Given:
    """What a slot has to do.

    Attributes:
        output: The folder that its worker writes to, relative to the sweep's.
        elsewhere: Where that belongs if not in the sweep's folder.
        stored: The files in the storage that its worker reads.
    """

    output: str | None
    elsewhere: Path | None
    stored: list[Stored]


class RemoteWorkers:
    """Worker processes on the nodes that a transport reaches.

    The driver's folder is the only one that lasts: a task takes the files that it needs with it, and what a worker
    writes is here before the message that it belongs to. A node that is lost loses nothing but the time since.
    """

    def __init__(
        self, transport: Transport, job: Job, root: Path, say: Callable[[str], None], wait: float | None = None
    ) -> None:
        """Starts the agents.

        Args:
            transport: Reaches them.
            job: What they need to know.
            root: The sweep's folder, under which the paths of its tasks are.
            say: Prints what the user should know.
            wait: Seconds to wait for the first slot; None to give up soon.
        """
        self._transport, self._job, self._root, self._say, self._wait = transport, job, root, say, wait
        self._carrier: Carrier = job.carrier
        self._nodes: dict[str, _Node] = {}
        self._at: dict[str, str] = {}
        self._tasks: dict[str, _Given] = {}
        self._stored = Counter[Stored]()
        self._put_back: list[base.Message] = []
        self._measured: dict[str, Figures] = {}
        self._refused: list[str] = []
        # The agents that are lost or refused; what they still send is dropped.
        self._over: set[str] = set()
        self._data: object = None
        self._complete = False
        transport.start(job)

    # ---- nodes --------------------------------------------------------------------------------------------------

    def set_up(self, data: Path) -> None:
        """Sends the nodes the data.

        Args:
            data: The folder that `Dataset.save` wrote.
        """
        self._data = self._transport.share({path.name: path.read_bytes() for path in sorted(data.iterdir())})
        for node in self._nodes:
            self._transport.call(node, Call("set_up"), self._data)

    def places(self) -> list[Slot]:
        """Waits for the nodes that there are at the start, and returns their slots; later ones join with `Joined`.

        Raises:
            UserError: There is none.
        """
        started = time.monotonic()
        most = max(_FIRST_SLOTS, self._wait or 0.0)
        told = False
        while not self._complete:
            self._put_back += self._listen(_WAIT)
            waited, expected = time.monotonic() - started, self._transport.expected()
            if self._at and (not expected or waited > _FIRST_SLOTS):
                self._complete = True
            elif self._at or expected:
                continue
            elif waited > most or (self._refused and self._wait is None):
                raise UserError(
                    next(iter(self._refused), f"workers=ray: no slot is free ({self._transport.shortage()})")
                )
            elif waited > _FIRST_SLOTS and not told:
                self._say(next(iter(self._refused), f"Waiting for a slot: {self._transport.shortage()}"))
                told = True
        return [slot for node in self._nodes.values() for slot in node.slots.values()]

    def nodes(self) -> dict[str, str]:
        """Returns the processor, cores and GPUs of each node, by its name."""
        return {node.name: node.about for node in self._nodes.values()}

    def _welcome(self, agent: str, hello: Hello, messages: list[base.Message]) -> None:
        name = self._free_name(hello.about.get("host", agent))
        here = versions()
        names = [one for one in _SAME if hello.versions.get(one) != here.get(one)]
        if self._job.backend != "jax":
            names = [one for one in names if one != "jax"]
        if names:
            differ = ", ".join(
                f"{one} {hello.versions.get(one, 'is missing')} (here {here.get(one, 'none')})" for one in names
            )
            self._refuse(agent, f"workers: the node {name} has other versions: {differ}; install the same on all nodes")
            return
        if hello.missing:
            self._refuse(
                agent,
                f"workers: the node {name} cannot import the model's code ({hello.missing}); install that on all nodes",
            )
            return
        places = {slot.name: replace(slot, name=on_node(slot.name, name)) for slot in hello.slots}
        about = ", ".join(f"{key} {value}" for key, value in hello.about.items() if key != "host")
        node = self._nodes[agent] = _Node(name, about, {place.name: place for place in places.values()})
        self._at |= dict.fromkeys(node.slots, agent)
        self._transport.call(agent, Call("start", tuple(hello.slots)))
        if self._data is not None:
            self._transport.call(agent, Call("set_up"), self._data)
        if self._complete:
            messages += [base.Joined(slot, f"the node {name} has joined ({about})") for slot in node.slots]

    def _free_name(self, host: str) -> str:
        host = "".join(c if c.isalnum() or c in "-_" else "-" for c in host.partition(".")[0]) or "node"
        taken = {node.name for node in self._nodes.values()}
        return next(name for i in range(1, len(taken) + 2) if (name := host if i == 1 else f"{host}-{i}") not in taken)

    def _refuse(self, agent: str, why: str) -> None:
        self._over.add(agent)
        self._transport.drop(agent, forever=True)
        if why not in self._refused:
            self._refused.append(why)
            if self._at or self._complete:
                self._say(why)

    def _lose(self, agent: str, reason: str, host: str, messages: list[base.Message], *, forever: bool = False) -> None:
        node = self._nodes.pop(agent, None)
        if node is None:
            # It has not said hello, or was lost before.
            self._refuse(agent, f"workers: the node {host or 'of an agent'} cannot be used: its agent {reason}")
            return
        self._over.add(agent)
        self._transport.drop(agent, forever=forever)
        for slot in node.slots:
            if self._at.get(slot) == agent:
                del self._at[slot]
                self._forget_task(slot)
                messages.append(base.Died(slot, reason, lost=True))

    # ---- Workers ------------------------------------------------------------------------------------------------

    def slots(self) -> list[str]:
        """Returns the slots' names."""
        return list(self._at)

    def open(self, slot: Slot) -> None:
        """Adds a slot to the node that its name ends with."""
        name = slot.name.partition("@")
        agent = next((agent for agent, node in self._nodes.items() if node.name == name[2]), None)
        if agent is None:
            self._put_back.append(base.Died(slot.name, "cannot be opened again: its node is gone", lost=True))
            return
        self._nodes[agent].slots[slot.name] = slot
        self._at[slot.name] = agent
        self._transport.call(agent, Call("open", (replace(slot, name=name[0]),)))

    def retire(self, slot: str) -> Slot:
        """Removes a slot, kills its process, and returns it."""
        self._call(slot, "retire")
        agent = self._at.pop(slot, None)
        self._forget_task(slot)
        # If its node is lost, which nobody knows yet, `open` says so.
        return Slot(slot, 0) if agent is None else self._nodes[agent].slots.pop(slot)

    def submit(self, slot: str, task: base.Task) -> None:
        """Gives a task to a slot that is ready, with the files that it needs."""
        if slot not in self._at:
            return
        elsewhere = Path(task.to) if isinstance(task, base.Package) else None
        moved = base.moved(task, self._name)
        files: dict[str, Any] = {}
        for path in _needed(task):
            # A file may be gone by now: its worker says so.
            if path.is_file():
                files[self._name(str(path))] = self._carrier.pack(path)
        stored = [content for content in files.values() if isinstance(content, Stored)]
        self._stored.update(stored)
        self._tasks[slot] = _Given(base.output_of(moved), elsewhere, stored)
        self._call(slot, "submit", moved, files=files)

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Asks a slot to end its trial after the current epoch."""
        self._call(slot, "stop", trial, reason)

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a slot continue that waits after an epoch of its trial."""
        self._call(slot, "go_on", trial, execution, epoch)

    def kill(self, slot: str, reason: str) -> None:
        """Kills a slot's process."""
        self._call(slot, "kill", reason)

    def poll(self, timeout: float) -> list[base.Message]:
        """Waits up to `timeout` seconds for messages.

        Raises:
            MachineError: The sweep's folder cannot be written.
        """
        messages, self._put_back = self._put_back, []
        return messages or self._listen(timeout)

    def put_back(self, messages: list[base.Message]) -> None:
        """Makes the next poll return messages again, for other code that expects them."""
        self._put_back += messages

    def measured(self) -> list[Figures]:
        """Returns what the slots use, as far as the nodes have measured it since the last call."""
        found, self._measured = self._measured, {}
        return list(found.values())

    def close(self) -> None:
        """Ends all agents, and their processes."""
        self._transport.close()
        self._nodes, self._at = {}, {}
        for slot in list(self._tasks):
            self._forget_task(slot)

    def _call(self, slot: str, method: Any, *arguments: Any, files: Mapping[str, Any] | None = None) -> None:
        # A slot may be lost, and the message that says so unread.
        if slot in self._at:
            call = Call(method, (slot.partition("@")[0], *arguments), files or {})
            self._transport.call(self._at[slot], call)

    def _listen(self, timeout: float) -> list[base.Message]:
        messages: list[base.Message] = []
        for agent, sent in self._transport.poll(timeout):
            if agent in self._over:
                continue
            match sent:
                case Hello():
                    self._welcome(agent, sent, messages)
                case Passed() if agent in self._nodes:
                    self._take(agent, sent, messages)
                case Said() if agent in self._nodes:
                    self._say(f"{self._nodes[agent].name}: {sent.text}")
                case Measured() if agent in self._nodes:
                    for figures in sent.figures:
                        slot = on_node(figures.slot, self._nodes[agent].name)
                        self._measured[slot] = replace(figures, slot=slot)
                case Failed():
                    self._lose(agent, sent.reason, "", messages)
                case Lost():
                    self._lose(agent, sent.reason, sent.host, messages)
        return messages

    def _take(self, agent: str, passed: Passed, messages: list[base.Message]) -> None:
        slot = on_node(passed.message.slot, self._nodes[agent].name)
        if self._at.get(slot) != agent:
            return
        message = replace(passed.message, slot=slot)
        if isinstance(message, base.MachineFailed) and len({*self._at.values()}) > 1:
            # The others can continue without it.
            self._lose(agent, f"is not used any more: {message.reason}", "", messages, forever=True)
            return
        given = self._tasks.get(slot)
        if given is not None and passed.files:
            self._write(given, passed.files)
        if not isinstance(message, base.Reported | base.Executed | base.Ready):
            self._forget_task(slot)
        if isinstance(message, base.Died) and message.lost:
            del self._at[slot], self._nodes[agent].slots[slot]
        messages.append(message)

    # ---- files --------------------------------------------------------------------------------------------------

    def _name(self, path: str) -> str:
        """Returns the name of a file or a folder relative to the sweep's folder."""
        name = os.path.relpath(path, self._root)
        return os.path.join(_ELSEWHERE, os.path.basename(path)) if name.startswith("..") else name

    def _write(self, given: _Given, files: Files) -> None:
        output = given.output
        if output is None or any(not name.startswith(f"{output}/") for name in files):
            raise MachineError("workers: a node has sent a file that does not belong to its task")
        root = self._root
        if given.elsewhere is not None:
            root = given.elsewhere
            root.mkdir(parents=True, exist_ok=True)
            files = {name[len(output) + 1 :]: content for name, content in files.items()}
        with writing_to(root):
            self._carrier.unpack(files, root)
        for content in files.values():
            # Here is the only place where it is needed from now on.
            if isinstance(content, Stored) and content not in self._stored:
                self._carrier.remove(content)

    def _forget_task(self, slot: str) -> None:
        given = self._tasks.pop(slot, None)
        for stored in given.stored if given is not None else ():
            self._stored[stored] -= 1
            if not self._stored[stored]:
                del self._stored[stored]
                self._carrier.remove(stored)


def _needed(task: base.Task) -> list[Path]:
    """Returns the files that a task's worker reads."""
    match task:
        case base.Train():
            own = list(files_in(Path(task.folder)))
            return [*own, *(Path(task.parent).rglob(STATE_FILE) if task.parent is not None else ())]
        case base.Evaluate():
            return [Path(task.model)]
        case base.Package():
            return [Path(task.trial) / name for name in (MODEL_FILE, SAMPLE_FILE)]
    return []
