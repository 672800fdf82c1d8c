"""What may not change when a sweep is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import command
from mnist_sweep.common.versions import versions
from mnist_sweep.config.space import Space
from mnist_sweep.data.images import Images
from mnist_sweep.driver import larger_space
from mnist_sweep.driver.plan import Plan
from mnist_sweep.driver.summary import Say
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.state import SweepState
from mnist_sweep.workers.devices import Slot

# The packages on which the metrics of a trial depend, to the last digit.
_SAME_VERSIONS = ("tensorflow", "keras", "numpy", "jax")


def check(past: SweepState, plan: Plan, images: Images, folder: Path) -> SweepStarted:
    """Refuses to continue a sweep on other data or devices, or in another search space.

    Returns:
        Its first event.

    Raises:
        UserError: It names what differs.
    """
    started = first_event(past, folder)
    _check_data(images, started, folder)
    _check_devices(plan.slots, past, folder)
    if not larger_space.changed(past.config, plan.config):
        _check_space(plan.space, past, folder)
    return started


def first_event(past: SweepState, folder: Path) -> SweepStarted:
    """Returns the first event of a sweep.

    Raises:
        UserError: The journal starts with another event.
    """
    if past.started is None:
        raise UserError(f"{folder}: its journal lacks the start of the sweep; there is nothing to continue")
    return past.started


def check_versions(past: SweepState, folder: Path, backend: str, allowed: bool, say: Say) -> None:
    """Refuses to continue with other versions of what trains; if they are allowed, only names them.

    Raises:
        UserError: It names the packages that differ.
    """
    then, now = past.versions, versions()
    names = [name for name in _SAME_VERSIONS if name in then and (name != "jax" or backend == "jax")]
    changed = [f"{name} {then[name]} (now {now.get(name, 'none')})" for name in names if then[name] != now.get(name)]
    if not changed:
        return
    named = ", ".join(changed)
    if not allowed:
        raise UserError(
            f"{folder}: its trials were trained with {named}, which may change the metrics; install those versions, or "
            f"add --other-versions: {command(f'resume {folder} --other-versions')}"
        )
    say(f"Versions have changed, which may change the metrics: {named}.")


def _check_data(images: Images, started: SweepStarted, folder: Path) -> None:
    if images.digest() != started.data["digest"]:
        raise UserError(
            f"{folder}: started on {started.data['name']} ({started.data['digest']}), but data={images.name} is "
            f"different now ({images.digest()}); all trials of a sweep need the same data"
        )


def _check_devices(slots: Sequence[Slot], past: SweepState, folder: Path) -> None:
    if any(slot.startswith("gpu") for slot in past.slots) and all(slot.gpu is None for slot in slots):
        raise UserError(
            f"{folder}: ran on a GPU, and none is visible now (nvidia-smi, CUDA_VISIBLE_DEVICES); on the CPU its "
            "metrics would be different"
        )


def _check_space(space: Space, past: SweepState, folder: Path) -> None:
    before, now = past.space, space.describe()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise UserError(
            f"{folder}: started with {name} = {before.get(name)}, but it is {now.get(name)} now; "
            "undo the change of the model's code, or start a new sweep"
        )
