"""The commands of docs/cluster.md, run literally on separate machines."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Machine, events, missing, no_namespaces, until
from pages import PROGRAM, ROOT, commands
from programs import UNPUBLISHED

from mnist_sweep.journal.events import SweepEnded, TrialStarted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is a Ray"),
    pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces() or "there are machines"),
]
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


@pytest.fixture
def machines(tmp_path: Path, digits: Path) -> Iterator[list[Machine]]:
    """The head and a second machine, without Ray, a token or any setting."""
    head = Machine(1, tmp_path, [])
    second = Machine(2, tmp_path, [head.folder], head)
    for machine in (head, second):
        machine.settings = {}
    shutil.copy(digits, head.folder / "digits.npz")
    yield [head, second]
    second.kill()
    head.kill()


def section(title: str) -> list[str]:
    """The commands of a section of the page, in order."""
    text = PAGE.read_text()
    part = text[text.index(f"## {title}") :].partition("\n## ")[0]
    return [c.text.partition("  #")[0].strip() for c in commands(PAGE) if c.text in part]


def test_two_machines_by_hand_run_a_sweep(machines: list[Machine]) -> None:
    head, second = machines
    shown = section("Two machines by hand")
    exports = [command for command in shown if command.startswith("export ")]

    def typed(machine: Machine, start: str, more: str = "") -> str:
        """Types the first command that starts like this into a terminal with the page's variables."""
        (command, *_) = [each for each in shown if each.startswith(start)]
        done = machine.run("bash", "-c", "; ".join([*exports, f"{command} {more}"]), timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    typed(head, "umask ")
    token = head.folder / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    shutil.copytree(token.parent, second.folder / ".ray")
    typed(head, "ray start --head", "--num-cpus=1")
    typed(second, "ray start --address", "--num-cpus=1")
    typed(head, PROGRAM, shlex.join([*SMALL, *UNPUBLISHED]))
    slots = {event.slot for event in events(head.folder) if isinstance(event, TrialStarted)}
    assert len(slots) == 2
    for machine in machines:
        typed(machine, "ray stop")
        until(lambda machine=machine: not machine.processes("ray"), 30)


def test_the_slurm_job_runs_a_sweep_on_both_nodes(machines: list[Machine], tmp_path: Path) -> None:
    """SLURM's two commands are replaced: `scontrol` names the nodes, `srun` runs a command on all of them."""
    head, second = machines
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    everywhere = "; ".join(
        f'HOME={machine.folder} {shlex.join(machine.enter(machine.folder))} "$@" & pids+=($!)' for machine in machines
    )
    replaced = {
        "scontrol": f"echo {head.name}; echo {second.name}",
        "srun": f"while [[ $1 == --* ]]; do shift; done; code=0; {everywhere}; "
        'for pid in "${pids[@]}"; do wait $pid || code=$?; done; exit $code',
    }
    for name, code in replaced.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{code}\n")
        (bin_folder / name).chmod(0o755)
    for machine in machines:
        machine.say_token("ab" * 32)
    (head.folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    environment = {**head.environment(**job), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / "examples" / "slurm.sh", "+experiment=cnn", *SMALL, *UNPUBLISHED],
        cwd=head.folder, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = events(head.folder)
    assert isinstance(found[-1], SweepEnded)
    assert len({event.slot for event in found if isinstance(event, TrialStarted)}) == 2
    assert not head.processes("ray")
