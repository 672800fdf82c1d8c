"""The commands of docs/cluster.md, run literally on separate machines."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Machine, events, missing, no_namespaces, until
from pages import PROGRAM, ROOT, commands
from programs import UNPUBLISHED

from mnist_sweep.journal.events import AttemptFailed, EpochEnded, SweepEnded, TrialStarted

pytestmark = pytest.mark.timeout(900)
PAGE = ROOT / "docs" / "cluster.md"
# What makes the shown sweep a small one.
SMALL = [
    "search=random",
    "search.max_trials=4",
    "training.epochs=2",
    "data=npz",
    "data.path=digits.npz",
    "confirm=null",
]


# What is not run, and why.
NOT_RUN = {
    "pip install": "installs packages",
    "sbatch": "SLURM is not here; the script is run",
    "docker build": "there is no Docker here",
    "kubectl": "there is no Kubernetes here; tests/test_cluster_files.py checks the manifest",
}


@pytest.fixture
def machines(tmp_path: Path, digits: Path) -> Iterator[list[Machine]]:
    """The head and a second machine, without Ray, a token or any setting."""
    if reason := missing() or no_namespaces():
        pytest.skip(reason)
    head = Machine(1, tmp_path, [])
    second = Machine(2, tmp_path, [head.folder], head)
    for machine in (head, second):
        machine.settings = {}
    shutil.copy(digits, head.folder / "digits.npz")
    yield [head, second]
    second.kill()
    head.kill()


def section(title: str) -> list[str]:
    """The commands of a section of the page, in order; of all sections if no title is given."""
    text = PAGE.read_text()
    part = text[text.index(f"## {title}") :].partition("\n## ")[0] if title else text
    # Whole lines, as one command may be the beginning of another.
    lines = part.splitlines()
    shown = [c.text for c in commands(PAGE) if c.text in lines or f"`{c.text}`" in part]
    return [text.partition("  #")[0].strip() for text in shown]


class Reader:
    """Types the commands of a section of the page into terminals. Each must be typed, or not be for a terminal here."""

    def __init__(self, title: str) -> None:
        shown = section(title)
        self.exports = [command for command in shown if command.startswith("export ")]
        self.left = [c for c in shown if c not in self.exports and not c.startswith(tuple(NOT_RUN))]

    def line(self, start: str, more: str = "") -> str:
        """Returns a shell's line: the page's exports, and the first command that starts like this."""
        command = next(each for each in [*self.left, *section("")] if each.startswith(start))
        self.left = [each for each in self.left if each != command]
        return "; ".join([*self.exports, f"{command} {more}"])

    def type(self, machine: Machine, start: str, more: str = "") -> None:
        """Runs a command on a machine."""
        done = machine.run("bash", "-c", self.line(start, more), timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_two_machines_by_hand_run_a_sweep(machines: list[Machine]) -> None:
    head, second = machines
    page = Reader("Two machines by hand")
    page.type(head, "umask ")
    token = head.folder / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    shutil.copytree(token.parent, second.folder / ".ray")
    page.type(head, "ray start --head", "--num-cpus=1")
    page.type(second, "ray start --address", "--num-cpus=1")
    page.type(head, PROGRAM, shlex.join([*SMALL, *UNPUBLISHED]))
    assert len({event.slot for event in events(head.folder) if isinstance(event, TrialStarted)}) == 2
    for machine in machines:
        page.type(machine, "ray stop")
        until(lambda machine=machine: not machine.processes("raylet"), 30)
    assert not page.left


@pytest.mark.slow
def test_a_node_in_a_loop_comes_back_after_it_was_cut_off(machines: list[Machine]) -> None:
    head, second = machines
    for machine in machines:
        machine.say_token("ab" * 32)
    page = Reader("Machines that can be taken away")
    page.exports += [c for c in section("Two machines by hand") if c.startswith("export ")]
    page.type(head, "ray start --head", "--num-cpus=0")
    loop = page.line("while true; ").replace("--block", "--block --num-cpus=1")
    second.popen("bash", "-c", loop)
    driver = head.popen(
        "bash", "-c", page.line(f"{PROGRAM} ", shlex.join([*SMALL, "training.epochs=10", *UNPUBLISHED]))
    )
    until(lambda: any(isinstance(event, EpochEnded) for event in events(head.folder)), of=driver)
    with second.cut():
        time.sleep(20)
    assert driver.wait() == 0, output(head)
    found = events(head.folder)
    assert isinstance(found[-1], SweepEnded)
    assert any(isinstance(event, AttemptFailed) for event in found)
    assert not page.left


@pytest.mark.slow
def test_the_slurm_job_runs_a_sweep_on_both_nodes(machines: list[Machine], tmp_path: Path) -> None:
    """Instead of `srun`, a script runs the command on the first node, and leaves it for the other to the test."""
    head, second = machines
    for machine in machines:
        machine.say_token("ab" * 32)
    everywhere = tmp_path / "everywhere.sh"
    srun = head.folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(
        "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"
        f'{{ export -p | grep RAY_; printf "exec "; printf "%q " "$@"; }} > {everywhere}.new\n'
        f'mv {everywhere}.new {everywhere}\nexec "$@"\n'
    )
    srun.chmod(0o755)
    (head.folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1", "PATH": f"{srun.parent}:{os.environ['PATH']}"}
    script = head.popen("bash", str(ROOT / "examples" / "slurm.sh"), "+experiment=cnn", *SMALL, *UNPUBLISHED, **job)
    until(everywhere.exists, of=script)
    second.popen("bash", str(everywhere))
    assert script.wait() == 0, output(head) + output(second)
    found = events(head.folder)
    assert isinstance(found[-1], SweepEnded)
    assert len({event.slot for event in found if isinstance(event, TrialStarted)}) == 2
    # On the other node, Ray ends a minute later, as it has lost the head; SLURM doesn't wait longer.
    until(lambda: not head.processes("raylet"), 30)


def output(machine: Machine) -> str:
    return (machine.folder / "output.txt").read_text()
