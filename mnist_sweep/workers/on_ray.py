"""Reaches the agents through Ray: one actor for each node of the cluster, for as long as the driver lives."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import queue
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import pip_install
from mnist_sweep.common.text import counted, first_line, os_reason
from mnist_sweep.config.settings import RayConfig
from mnist_sweep.workers import devices
from mnist_sweep.workers.agent import Agent, Call, Job, Sent
from mnist_sweep.workers.carrying import Files
from mnist_sweep.workers.remote import Lost

_LOG = logging.getLogger(__name__)
# Seconds between two looks at the nodes of the cluster.
_LOOK = 1.0
# Seconds before a node whose agent has died gets another one; doubled as long as it dies again soon.
_PAUSE, _LONGEST_PAUSE = 2.0, 600.0
# Seconds in which the head must take a connection.
_CONNECTION = 5.0
# Seconds in which an agent's process must start.
_PLACED = 120.0
# Seconds in which an agent that was asked to end may remove its files.
_END = 3.0
# What a sweep's working folder has that no node needs.
_EXCLUDES = ["experiments", "mlruns", "mlartifacts", "outputs", "multirun", ".*", "__pycache__", "node_modules"]


def check_installed() -> None:
    """Checks that Ray is installed.

    Raises:
        UserError: It is not.
    """
    for name in ("ray", "fsspec"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"workers=ray: {name} is not installed; {pip_install('mnist_sweep[ray]')}")


@dataclass
class _Agent:
    actor: Any
    node: str
    slots: int
    started: float
    placed: Any
    greeted: bool = False


class RayTransport:
    """A Ray of this driver's own on this machine, or a cluster that runs already."""

    def __init__(self, config: RayConfig, most: int | None, *, custom_code: bool) -> None:
        """Starts Ray, or joins a cluster.

        Args:
            config: The group `workers`.
            most: The most trials that can run at once; None if unknown.
            custom_code: Whether tasks run the user's code, which is in the working folder.

        Raises:
            UserError: There is no cluster at the address, or it cannot be joined.
        """
        self._config = config
        self._most = min((n for n in (most, config.max_slots) if n is not None), default=None)
        self._arrived: queue.SimpleQueue[tuple[str, Sent]] = queue.SimpleQueue()
        self._agents: dict[str, _Agent] = {}
        self._refused: set[str] = set()
        # When a node whose agent has died may have another one, and how many seconds that was.
        self._next: dict[str, tuple[float, float]] = {}
        self._numbers = itertools.count(1)
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._job: Job | None = None
        self._ray = _start(config, custom_code=custom_code)
        if config.max_slots is not None and config.address is not None:
            self._ask_autoscaler(config.max_slots)

    def start(self, job: Job) -> None:
        """Starts an agent on each node that there is now or will be."""
        self._job = job
        self._look()
        threading.Thread(target=self._watch, daemon=True).start()

    def poll(self, timeout: float) -> list[tuple[str, Sent]]:
        """Waits up to `timeout` seconds for what the agents send."""
        found: list[tuple[str, Sent]] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._arrived.get(timeout=max(timeout, 0.0)) if timeout > 0 else self._arrived.get_nowait())
            while True:
                found.append(self._arrived.get_nowait())
        for name, _ in found:
            if name in self._agents:
                self._agents[name].greeted = True
        return found

    def share(self, files: Files) -> object:
        """Puts files into the object store, from where each node gets them once."""
        return self._ray.put(files)

    def call(self, node: str, call: Call, shared: object = None) -> None:
        """Hands a call to an agent."""
        agent = self._agents.get(node)
        if agent is not None:
            # An object as an argument of its own arrives as its value.
            agent.actor.call.remote(call, shared)

    def drop(self, node: str, *, forever: bool) -> None:
        """Kills an agent."""
        with self._lock:
            agent = self._agents.pop(node, None)
            if agent is None:
                return
            if forever:
                self._refused.add(agent.node)
            else:
                now = time.monotonic()
                _, before = self._next.get(agent.node, (0.0, 0.0))
                lived = now - agent.started
                pause = _PAUSE if lived > 2 * before + _PAUSE else min(2 * before, _LONGEST_PAUSE)
                self._next[agent.node] = (now + pause, pause)
        self._kill(agent)

    def expected(self) -> int:
        """Returns how many agents have not sent anything yet."""
        with self._lock:
            return sum(not agent.greeted for agent in self._agents.values())

    def shortage(self) -> str:
        """Returns why there is no slot."""
        nodes = self._nodes()
        gpus = self._config.devices == "gpu"
        what = "GPUs" if gpus else "CPUs"
        total = sum(int(node["Resources"].get("GPU" if gpus else "CPU", 0)) for node in nodes)
        if not total:
            return f"the cluster has {counted(len(nodes), 'node')} without {what}"
        return f"the cluster has {counted(len(nodes), 'node')}; all {what} are in use or cannot be used"

    def close(self) -> None:
        """Ends all agents, then Ray or the connection to it."""
        self._closed.set()
        with self._lock:
            agents, self._agents = self._agents, {}
        for agent in agents.values():
            agent.actor.call.remote(Call("end"))
        ended = [agent.actor.ended.remote() for agent in agents.values()]
        with contextlib.suppress(Exception):
            self._ray.wait(ended, num_returns=len(ended), timeout=_END)
        for agent in agents.values():
            self._kill(agent)
        if self._config.max_slots is not None and self._config.address is not None:
            self._ask_autoscaler(0)
        with contextlib.suppress(Exception):
            self._ray.shutdown()

    # ---- nodes --------------------------------------------------------------------------------------------------

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK):
            with contextlib.suppress(Exception):
                self._look()

    def _look(self) -> None:
        """Starts an agent on each node that has none and is not used by others."""
        from ray._private.state import available_resources_per_node

        self._forget_unplaced()
        free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
        for node in self._nodes():
            with self._lock:
                taken = self._refused | {agent.node for agent in self._agents.values()}
                room = None if self._most is None else self._most - sum(a.slots for a in self._agents.values())
                soon = time.monotonic() < self._next.get(node["NodeID"], (0.0, 0.0))[0]
                if node["NodeID"] in taken or soon or self._closed.is_set():
                    continue
                wanted = _share(self._config, free.get(node["NodeID"], {}), room)
                if wanted is not None:
                    self._start_agent(node, *wanted)

    def _forget_unplaced(self) -> None:
        """Gives agents up that wait for CPUs which something else has taken in the meantime."""
        with self._lock:
            for name, agent in list(self._agents.items()):
                late = not agent.greeted and time.monotonic() - agent.started > _PLACED
                if late and not self._ray.wait([agent.placed], timeout=0)[0]:
                    del self._agents[name]
                    self._kill(agent)

    def _start_agent(self, node: dict[str, Any], cpus: int, gpus: int, slots: int) -> None:
        assert self._job is not None
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor_class = _actor_class(self._ray).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        config = self._job.config.model_copy(update={"devices": "gpu" if gpus else "cpu"})
        if config.count is not None and not gpus:
            config = config.model_copy(update={"count": slots})
        actor = actor_class.remote(replace(self._job, config=config, most=slots), max(1, cpus))
        name = f"agent{next(self._numbers)}"
        self._agents[name] = _Agent(actor, node["NodeID"], slots, time.monotonic(), actor.__ray_ready__.remote())
        host = str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
        threading.Thread(target=self._listen, args=(name, host, actor), daemon=True).start()

    def _listen(self, name: str, host: str, actor: Any) -> None:
        from ray import exceptions

        try:
            for reference in actor.run.remote():
                self._arrived.put((name, self._ray.get(reference)))
            reason = "has ended"
        except exceptions.RayTaskError as error:
            reason = f"failed ({first_line(error.cause)})"
        except exceptions.RayError as error:
            reason = f"was lost ({_cause(error)})"
        except Exception as error:
            reason = f"was lost ({first_line(error)})"
        if not self._closed.is_set():
            self._arrived.put((name, Lost(reason, host)))

    def _kill(self, agent: _Agent) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(agent.actor)

    def _ask_autoscaler(self, slots: int) -> None:
        from ray.autoscaler import sdk

        bundle = {"GPU": 1.0} if self._config.devices == "gpu" else {"CPU": float(self._config.threads or 1)}
        with contextlib.suppress(Exception):
            sdk.request_resources(bundles=[bundle] * slots)


def _share(config: RayConfig, free: dict[str, float], room: int | None) -> tuple[int, int, int] | None:
    """Returns how many CPUs and GPUs of a node to take, and the slots that they make; None to leave it alone."""
    cpus, gpus = int(free.get("CPU", 0)), 0 if config.devices == "cpu" else int(free.get("GPU", 0))
    if room is not None and room <= 0:
        return None
    if gpus:
        assert config.trials_per_gpu != "auto"
        slots = gpus * config.trials_per_gpu
        if room is not None and slots > room:
            gpus, slots = -(-room // config.trials_per_gpu), room
        return cpus, gpus, slots
    threads = config.threads or 1
    if config.devices == "gpu" or cpus < threads:
        return None
    slots = min(n for n in (config.count, cpus // threads, room) if n is not None)
    # A single trial gets all cores.
    alone = config.threads is None and config.count is None and room == 1
    return (cpus if alone else slots * threads), 0, slots


def _actor_class(ray: Any) -> Any:
    """Returns the class of the actors: calls keep their order, and do not wait for what is sent."""
    members = {
        "run": ray.method(concurrency_group="out", num_returns="streaming")(_Actor.run),
        "call": ray.method(concurrency_group="in")(_Actor.call),
        "ended": ray.method(concurrency_group="in")(_Actor.ended),
    }
    return ray.remote(concurrency_groups={"in": 1, "out": 1})(type("Agent", (_Actor,), members))


def _start(config: RayConfig, *, custom_code: bool) -> Any:
    """Starts Ray or joins a cluster, and returns Ray."""
    # No report to Ray's makers, and no Ray that starts by itself when this one has ended.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_AUTO_CONNECT": "0"}
    if config.address is None:
        # Its ports are open to other machines, so it needs a token; in a file, others would find it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
        # When memory is short, the system ends one worker; Ray would end the agent, with all slots.
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        # Else its workers, and the training below them, give way to all other programs, as with `nice -n 15`.
        os.environ.setdefault("RAY_worker_niceness", "0")
    elif "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"
    import ray

    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with _muffled():
            return _connected(ray, config, custom_code=custom_code)
    finally:
        # Ray has put a handler of its own there.
        signal.signal(signal.SIGTERM, terminated)


def _connected(ray: Any, config: RayConfig, *, custom_code: bool) -> Any:
    # What Ray tells about its nodes belongs in the log: it would end up in the middle of the table.
    ray._private.worker.print_to_stdstream = lambda data, **_: _LOG.info("%s", "\n".join(data["lines"]))
    quiet: dict[str, Any] = {"configure_logging": True, "logging_level": "error", "log_to_driver": False}
    if config.address is None:
        try:
            ray.init("local", num_cpus=devices.cores(), include_dashboard=False, **quiet)
        except Exception as error:
            raise UserError(f"workers=ray: Ray does not start ({first_line(error)}); use workers=local") from error
        return ray
    code = {"working_dir": os.getcwd(), "excludes": _EXCLUDES} if custom_code else None
    where = f"workers.address={config.address}"
    _check_address(ray, config.address, where)
    try:
        ray.init(config.address, runtime_env=code, **quiet)
    except Exception as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        raise UserError(f"{where}: {_why_not_joined(error)}") from error
    return ray


def _check_address(ray: Any, address: str, where: str) -> None:
    """Checks that something listens at an address, which Ray would try to reach for a minute.

    Raises:
        UserError: Nothing does.
    """
    if address == "auto":
        try:
            address = ray._private.services.canonicalize_bootstrap_address("auto")
        except Exception:
            raise UserError(f"{where}: no Ray runs on this machine; start one with ray start, or name it") from None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTION).close()
    except (OSError, OverflowError) as error:
        reason = f"nothing answers at {address} ({os_reason(error)}); is the Ray of the head running?"
        raise UserError(f"{where}: {reason}") from None


def _has_token() -> bool:
    home = Path("~/.ray/auth_token").expanduser()
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")) or home.is_file()


def _why_not_joined(error: Exception) -> str:
    text = str(error)
    if "working_dir" in text or "too large" in text:
        return f"the working folder cannot be sent to the nodes ({first_line(error)})"
    return (
        f"the cluster does not let this command in ({first_line(error)}); it needs the token of the head, the file "
        "~/.ray/auth_token or RAY_AUTH_TOKEN, and RAY_AUTH_MODE=token"
    )


@contextlib.contextmanager
def _muffled() -> Iterator[None]:
    """Sends what this process prints to its log, also what Ray's C++ code prints."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(said.fileno(), number)
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                _LOG.info("%s", line)


def _cause(error: Exception) -> str:
    """Returns what Ray says about the loss of an actor, without the ids."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = ("The actor", "class_name", "actor_id", "namespace", "pid", "ip", "name:", "The process")
    return next((line for line in lines if not line.startswith(known)), type(error).__name__)


class _Actor:
    """What runs on a node."""

    def __init__(self, job: Job, usable: int) -> None:
        self._sent: queue.SimpleQueue[Sent | None] = queue.SimpleQueue()
        self._agent = Agent(job, self._sent.put, usable)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._agent.run()
        finally:
            self._sent.put(None)

    def run(self) -> Iterator[Sent]:
        while (sent := self._sent.get()) is not None:
            yield sent

    def call(self, call: Call, shared: Files | None = None) -> None:
        self._agent.call(call if shared is None else replace(call, files=shared))

    def ended(self) -> None:
        self._thread.join()
