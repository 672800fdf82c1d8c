"""What may not change when a sweep is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import command
from mnist_sweep.common.versions import versions
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.driver import larger_space
from mnist_sweep.driver.plan import Plan
from mnist_sweep.driver.summary import Say
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.state import SweepState
from mnist_sweep.workers.devices import slots

# The packages on which the metrics of a trial depend, to the last digit.
_SAME_VERSIONS = ("tensorflow", "keras", "numpy", "jax")
# The searches whose suggestions do not depend on the results.
_ANY_ORDER = ("none", "grid", "random")


def check(past: SweepState, plan: Plan, data: LoadedData, folder: Path, say: Say) -> SweepStarted:
    """Refuses to continue a sweep on other data, in another search space, or on the CPU because a GPU is missing.

    Args:
        past: The state of the sweep.
        plan: What it is to do now.
        data: Its data now.
        folder: Its folder.
        say: Prints how other workers may change the results.

    Returns:
        Its first event.

    Raises:
        UserError: It names what differs.
    """
    started = first_event(past, folder)
    _check_data(data, started, folder)
    _check_devices(plan, past, folder)
    for line in _other_workers(plan, past):
        say(line)
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


def _check_data(data: LoadedData, started: SweepStarted, folder: Path) -> None:
    if data.digest() != started.data["digest"]:
        raise UserError(
            f"{folder}: started on {started.data['name']} ({started.data['digest']}), but data={data.name} is "
            f"different now ({data.digest()}); all trials of a sweep need the same data"
        )


def _check_devices(plan: Plan, past: SweepState, folder: Path) -> None:
    wanted = plan.settings.workers.devices == "cpu"
    if _on_gpu(past) and not wanted and all(slot.gpu is None for slot in plan.slots):
        raise UserError(
            f"{folder}: ran on a GPU, and none is visible now (nvidia-smi, CUDA_VISIBLE_DEVICES); on the CPU its "
            "metrics would be different; if you want that, add workers.devices=cpu"
        )


def _on_gpu(past: SweepState) -> bool:
    return any(slot.startswith("gpu") for slot in past.slots)


def _other_workers(plan: Plan, past: SweepState) -> Iterator[str]:
    """Yields how the results may differ from those with the workers that the sweep had."""
    if not past.slots:
        return
    if _on_gpu(past) != any(slot.gpu is not None for slot in plan.slots):
        where = "the CPU" if _on_gpu(past) else "a GPU"
        yield f"The trials run on {where} now, where metrics differ in the last digits from those of the trials before."
        return
    then, now = past.config.get("workers", {}), plan.config["workers"]
    if all(then.get(key) == now.get(key) for key in ("devices", "count", "threads", "trials_per_gpu")):
        return
    if "ray" in (then.get("engine"), now.get("engine")):
        # What the nodes had is not known.
        return
    before = slots(check_settings({**plan.config, "workers": {**now, **then}}).workers, plan.most)
    if {slot.threads for slot in before} != {slot.threads for slot in plan.slots}:
        yield "With another number of threads, metrics may differ in the last digits from those of the trials before."
    search = plan.settings.search.algorithm
    if len(before) != len(plan.slots) and search not in _ANY_ORDER:
        yield (
            f"With another number of workers, trials end in another order, so search={search} may try other values "
            "than without the interruption."
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
