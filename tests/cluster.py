"""A Ray cluster of separate machines, for tests: each has its own address, name, processes and shared memory.

A machine is a set of Linux namespaces, and a bridge on the head joins them. So a machine can be killed with all that
runs on it, frozen, or cut from the network, while it shares the installed packages with the others. The folder of the
driver is invisible on all machines but the head. Where namespaces cannot be had, Ray simulates the machines as far as
it can.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import ROOT, command, environment

from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import Event

# All ports of a node are fixed, as on docs/cluster.md: Ray's own choice takes long on a busy machine.
PORT = 6390
PORTS = (
    "--node-manager-port=6391",
    "--object-manager-port=6392",
    "--metrics-export-port=6393",
    "--dashboard-agent-listen-port=6394",
    "--dashboard-agent-grpc-port=6395",
    "--runtime-env-agent-port=6396",
    "--min-worker-port=10010",
    "--max-worker-port=10100",
)
# A machine that does not answer is lost after about nine seconds.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
# Else Ray's workers, and the training below them, give way to all other programs on a busy machine.
PRIORITY = {"RAY_worker_niceness": "0"}
# Enough for a starting Ray on a busy machine.
_PATIENCE = 120
_NETWORK = "10.0.0"
# More than a cluster's machines, those included that were killed.
_MOST = 250
# Bash as the first process, because it reaps what its orphans leave.
_BOOT = """
set -e
hostname "$1"
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /var/tmp
mount --bind "$2" /etc/hosts
shift 2
for hidden; do mount -t tmpfs tmpfs "$hidden"; done
ip link set lo up
echo ready
sleep infinity & wait
"""


class Machine:
    """A machine without Ray.

    Args:
        number: The last number of its address; the head is number 1.
        folder: The folder of the cluster. The machine works in its own folder there, which is also its home.
        hidden: The folders that it cannot see.
        head: The machine to be joined to; None for the head itself.
    """

    def __init__(self, number: int, folder: Path, hidden: list[Path], head: Machine | None = None) -> None:
        self.name, self.address = f"node{number}", f"{_NETWORK}.{number}"
        self.folder = folder / self.name
        # What its user has set for Ray.
        self.settings = {**HEALTH, **PRIORITY, "RAY_AUTH_MODE": "token", "TMPDIR": "/var/tmp"}
        self._programs: list[Program] = []
        self.folder.mkdir(exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        hosts = self.folder / "hosts"
        others = (f"{_NETWORK}.{each} node{each}\n" for each in range(1, _MOST))
        hosts.write_text("".join(["127.0.0.1 localhost\n", *others]))
        # The machine ends with this process, however it ends.
        self._outer = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork",
             "--kill-child", "--mount-proc", "bash", "-c", _BOOT, "bash", self.name, str(hosts), *map(str, hidden)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._outer.stdout is not None
        said = self._outer.stdout.readline()
        if said != "ready\n":
            self._outer.kill()
            raise OSError(said + self._outer.stdout.read())
        (self._init,) = psutil.Process(self._outer.pid).children()
        self._head = head
        try:
            self._connect()
        except subprocess.CalledProcessError as error:
            self.kill()
            raise OSError(f"{error}: {error.stderr.decode()}") from error

    # ---- what runs on it ----------------------------------------------------------------------------------------

    def popen(self, *command: str, cwd: Path | None = None, **env: str) -> Program:
        """Starts a command on the machine. Its output goes to `output.txt` in its folder."""
        with open(self.folder / "output.txt", "ab") as output:
            process = subprocess.Popen(
                [*self.enter(cwd or self.folder), *command], env=self.environment(**env), cwd=cwd or self.folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._programs.append(Program(process, entered=bool(self.enter(self.folder))))
        return self._programs[-1]

    def run(self, *command: str, timeout: float = _PATIENCE, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a command on the machine."""
        return subprocess.run(
            [*self.enter(self.folder), *command], env=self.environment(**env), cwd=self.folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        """Returns the environment of a user of the machine, who has the cluster's token."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {k: v for k, v in environment().items() if not k.startswith("RAY_")}
        return {**own, "PATH": path, "HOME": str(self.folder), **self.settings, **more}

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Returns the processes of the machine; with a word, those whose command line has it."""
        here = _namespace(self._init)
        inside = [each for each in psutil.process_iter() if here is not None and _namespace(each) == here]
        return [each for each in inside if each != self._init and word in _command_line(each)]

    def temporary(self) -> list[str]:
        """Returns the names of the program's temporary files and folders on the machine."""
        return [name for name in self.run("ls", "/var/tmp").stdout.split() if name.startswith("mnist_sweep")]

    def say_token(self, token: str) -> None:
        """Writes the token of the cluster where Ray looks for it."""
        file = self.folder / ".ray" / "auth_token"
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(token)

    def start_ray(self, *options: str, cpus: int = 1, store: int = 100 * 2**20) -> None:
        """Starts Ray and waits for it: a head's, or a node's that joins the head's."""
        joins = [f"--address={self._head.address}:{PORT}"] if self._head else ["--head", f"--port={PORT}"]
        if not self._head:
            joins.append("--include-dashboard=false")
        done = self.run(
            "ray", "start", *joins, f"--node-ip-address={self.address}", *PORTS, f"--num-cpus={cpus}",
            f"--object-store-memory={store}", "--disable-usage-stats", *options,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {done.stdout}{done.stderr}")

    def stop_ray(self) -> None:
        """Stops Ray as a user does: its node leaves the cluster."""
        self.run("ray", "stop")

    # ---- what happens to it -------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Ends all that runs on the machine at once, and the machine."""
        self.thaw()
        with contextlib.suppress(psutil.NoSuchProcess, AttributeError):
            self._init.kill()
        self._outer.kill()
        self._outer.wait()

    def freeze(self) -> None:
        """Stops all processes of the machine, as if it hung."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen machine continue."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        for program in self._programs:
            program.thaw()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Cuts the machine from the network: what is sent to it or by it is lost."""
        assert self._head is not None
        self._head.ip("link", "set", self.name, "down")
        try:
            yield
        finally:
            self._head.ip("link", "set", self.name, "up")

    def ip(self, *command: str) -> None:
        """Runs `ip` in the machine's network, but outside its processes."""
        inside = ["nsenter", f"--target={self._init.pid}", "--net", "ip", *command]
        subprocess.run(inside, check=True, capture_output=True)

    def _connect(self) -> None:
        if self._head is None:
            device = "bridge"
            self.ip("link", "add", device, "type", "bridge")
        else:
            device = "eth0"
            self._head.ip("link", "add", self.name, "type", "veth", "peer", device, "netns", str(self._init.pid))
            self._head.ip("link", "set", self.name, "master", "bridge", "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", device)
        self.ip("link", "set", device, "up")
        # Ray finds a machine's address by the route to the outside.
        self.ip("route", "add", "default", "dev", device)

    def enter(self, folder: Path) -> list[str]:
        """Returns what to put before a command that runs on the machine, in a folder."""
        target = [f"--target={self._init.pid}", f"--wdns={folder}"]
        return ["nsenter", *target, "--net", "--mount", "--uts", "--ipc", "--pid", "--"]


class SimulatedMachine(Machine):
    """A Ray node on this machine, beside others: `ray.cluster_utils`. It sees all folders, and cannot be cut off.

    Args:
        number: As for `Machine`.
        folder: As for `Machine`.
        nodes: The `ray.cluster_utils.Cluster`; the first machine becomes its head.
    """

    def __init__(self, number: int, folder: Path, nodes: Any) -> None:
        self.name, self.address = f"node{number}", "127.0.0.1"
        self.folder = folder / self.name
        self.folder.mkdir(exist_ok=True)
        self.settings = {**HEALTH, **PRIORITY, "RAY_AUTH_MODE": "disabled"}
        self._programs, self._nodes, self._node = [], nodes, None

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Returns Ray's processes of the node, and what they have started."""
        infos = [] if self._node is None else [i for each in self._node.all_processes.values() for i in each]
        found = [each for info in infos for each in _family(info.process.pid)]
        return [each for each in found if word in _command_line(each)]

    def start_ray(self, *options: str, cpus: int = 1, store: int = 100 * 2**20) -> None:
        """Adds the node to the cluster."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.settings, "PYTHONPATH": str(ROOT)}.items():
                patch.setenv(name, value)
            self._node = self._nodes.add_node(num_cpus=cpus, object_store_memory=store)

    def stop_ray(self) -> None:
        """Removes the node from the cluster."""
        if self._node is not None:
            self._nodes.remove_node(self._node, allow_graceful=True)
        self._node = None

    def kill(self) -> None:
        """Ends the node's processes, and the programs that were started on it."""
        self.thaw()
        for program in self._programs:
            program.send(signal.SIGKILL)
        if self._node is not None:
            self._nodes.remove_node(self._node, allow_graceful=False)
        self._node = None

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Skips the test."""
        pytest.skip(f"no machine can be cut off: {no_namespaces()}")
        yield

    def enter(self, folder: Path) -> list[str]:
        """Returns nothing: it runs here."""
        return []


class Program:
    """A program on a machine. If it `entered` the machine's namespaces, it runs below the process that did."""

    def __init__(self, started: subprocess.Popen[bytes], entered: bool) -> None:
        self._entered, self._below = started, entered

    @property
    def process(self) -> psutil.Process | None:
        """The program, or None if it has ended."""
        try:
            started = psutil.Process(self._entered.pid)
            return next(iter(started.children()), None) if self._below else started
        except psutil.NoSuchProcess:
            return None

    def send(self, number: int) -> None:
        """Sends the program a signal."""
        if (process := self.process) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def thaw(self) -> None:
        """Lets the process that entered the machine continue: it stops itself when its program is stopped."""
        if self._entered.poll() is None:
            self._entered.send_signal(signal.SIGCONT)

    def poll(self) -> int | None:
        """Returns its exit code; None while it runs."""
        return self._entered.poll()

    def wait(self, timeout: float = 300) -> int:
        """Waits for its exit code."""
        return self._entered.wait(timeout)


class Cluster:
    """A head that trains nothing unless it is told to, and its nodes. Use it with `with`.

    Args:
        folder: Its own folder. The driver works in `driver` there, which only the head sees.
        cpus: The cores of each node, as Ray counts them.
        head_cpus: The cores of the head.
        store: The bytes of each node's object store.
    """

    def __init__(
        self, folder: Path, cpus: tuple[int, ...] = (1, 1), head_cpus: int = 0, store: int = 100 * 2**20
    ) -> None:
        self.folder, self.driver_folder = folder, folder / "driver"
        self.driver_folder.mkdir(parents=True, exist_ok=True)
        self.token = secrets.token_hex(32)
        self.machines: list[Machine] = []
        self._store = store
        self._numbers = iter(range(1, _MOST))
        self._simulated: Any = None
        if no_namespaces():
            from ray.cluster_utils import Cluster as Simulated

            self._simulated = Simulated()
        try:
            self.head = self._machine()
            self.head.start_ray(cpus=head_cpus, store=store)
            machines = [self._machine() for _ in cpus]
            with ThreadPoolExecutor() as together:
                # A simulated node sets signal handlers, which only the main thread may.
                start = map if self._simulated else together.map
                list(start(lambda machine, cores: machine.start_ray(cpus=cores, store=store), machines, cpus))
            self.nodes = machines
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        """Returns the running cluster."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all machines."""
        self.close()

    @property
    def address(self) -> str:
        """The address of the head's Ray."""
        return self._simulated.address if self._simulated else f"{self.head.address}:{PORT}"

    @property
    def output(self) -> str:
        """What the drivers have printed so far."""
        file = self.head.folder / "output.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def machine_of(self, slot: str) -> Machine:
        """Returns the machine that a slot is on; if machines are simulated, one that trains, as all have one name."""
        if self._simulated:
            return next(each for each in reversed(self.machines) if each.processes("mnist_sweep"))
        (machine,) = [each for each in self.machines if slot.partition("@")[2] in (each.name, each.address)]
        return machine

    def add(self, cpus: int = 1) -> Machine:
        """Adds a machine whose Ray joins the head's."""
        machine = self._machine()
        machine.start_ray(cpus=cpus, store=self._store)
        return machine

    def sweep(self, *arguments: str, cwd: Path | None = None, **env: str) -> Program:
        """Starts `python -m mnist_sweep` on the head, in the driver's folder or in one below it."""
        return self.head.popen(*command(*arguments), cwd=cwd or self.driver_folder, **env)

    def close(self) -> None:
        """Ends all machines."""
        for machine in reversed(self.machines):
            machine.kill()

    def _machine(self) -> Machine:
        others, number = self.machines, next(self._numbers)
        if self._simulated:
            others.append(SimulatedMachine(number, self.folder, self._simulated))
            return others[-1]
        hidden = [self.driver_folder] if others else []
        others.append(Machine(number, self.folder, hidden, others[0] if others else None))
        others[-1].say_token(self.token)
        return others[-1]


def events(folder: Path) -> list[Event]:
    """Returns the events of the only sweep in a folder so far."""
    sweeps = folders.sweeps(folder / folders.SWEEPS) if (folder / folders.SWEEPS).exists() else []
    return [event for sweep in sweeps for event in journal.read(sweep)]


def until(condition: Callable[[], object], seconds: float = _PATIENCE, of: Program | None = None) -> None:
    """Waits for a condition.

    Raises:
        AssertionError: The time is over, or the program that should bring it about has ended.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        assert of is None or of.poll() is None or condition(), "the program has ended"
        time.sleep(0.1)


@functools.cache
def missing() -> str:
    """Returns why no cluster can be had here; "" if it can."""
    return "" if importlib.util.find_spec("ray") else "Ray is not installed (pip install -e '.[ray]')"


@functools.cache
def no_namespaces() -> str:
    """Returns why machines can only be simulated here; "" if they can be had."""
    tools = ("ip", "unshare", "nsenter", "setpriv")
    if lacking := [tool for tool in tools if shutil.which(tool) is None]:
        return f"not installed: {', '.join(lacking)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "ip", "link", "add", "bridge", "type",
         "bridge"],
        capture_output=True, text=True,
    )  # fmt: skip
    return tried.stderr.strip() or "not allowed" if tried.returncode else ""


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _namespace(process: psutil.Process) -> str | None:
    try:
        return os.readlink(f"/proc/{process.pid}/ns/pid")
    except OSError:
        return None


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
