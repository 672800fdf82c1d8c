"""What may not change when a sweep is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.versions import versions
from mnist_sweep.config.space import Space
from mnist_sweep.data import images as data
from mnist_sweep.driver import summary
from mnist_sweep.journal.events import Event, SweepResumed, SweepStarted, TrialStarted
from mnist_sweep.workers.devices import Slot

# Of these the figures of a trial depend, to the last digit.
_SAME_VERSIONS = ("tensorflow", "keras", "numpy", "jax")


def first_event(events: Sequence[Event], folder: Path) -> SweepStarted:
    """The start of a sweep, whose first event it must be.

    Raises:
        UserError: It is not.
    """
    if not events or not isinstance(events[0], SweepStarted):
        raise UserError(f"{folder}: its journal does not begin with the sweep's start; there is nothing to continue")
    return events[0]


def check_data(images: data.Images, started: SweepStarted, folder: Path) -> None:
    """Refuses other data than the sweep was started on.

    Raises:
        UserError: Their digests differ.
    """
    if images.digest() != started.data["digest"]:
        raise UserError(
            f"{folder}: began on {started.data['name']} ({started.data['digest']}), but data={images.name} now is "
            f"another ({images.digest()}); a sweep's trials are compared on the same data"
        )


def check_devices(places: Sequence[Slot], past: Sequence[Event], folder: Path) -> None:
    """Refuses to continue on CPUs what was trained on GPUs.

    Raises:
        UserError: No slot has a GPU, and a trial had one.
    """
    on_gpu = any(isinstance(event, TrialStarted) and event.slot.startswith("gpu") for event in past)
    if on_gpu and all(place.gpu is None for place in places):
        raise UserError(
            f"{folder}: ran on a GPU, and none is visible now (nvidia-smi, CUDA_VISIBLE_DEVICES); on the CPU its "
            "metrics would be others"
        )


def check_versions(past: Sequence[Event], folder: Path, backend: str, allowed: bool, say: summary.Say) -> None:
    """Says, and unless it is allowed refuses, that what trains is not what trained the trials so far."""
    then = [e.versions for e in past if isinstance(e, SweepStarted | SweepResumed) and e.versions][-1:]
    now = versions()
    names = [name for name in _SAME_VERSIONS if name != "jax" or backend == "jax"]
    changed = [(n, then[0][n], now.get(n, "none")) for n in names if then and n in then[0] and then[0][n] != now.get(n)]
    if not changed:
        return
    told = ", ".join(f"{name} {before} (now {after})" for name, before, after in changed)
    if not allowed:
        raise UserError(
            f"{folder}: its trials were trained with {told}, which may give other figures; install those versions, or "
            f"add --other-versions: python -m mnist_sweep resume {folder} --other-versions"
        )
    say(f"Other versions than before, which may give other figures: {told}.")


def check_space(space: Space, started: SweepStarted, folder: Path) -> None:
    """Refuses a search space that is not the one that the sweep was started with.

    Raises:
        UserError: It names the first hyperparameter that differs.
    """
    now = space.describe()
    changed = [name for name in {**started.space, **now} if started.space.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise UserError(
            f"{folder}: began with {name} = {started.space.get(name)}, which now is {now.get(name)}; "
            "undo the change of the model's code, or begin a new sweep"
        )
