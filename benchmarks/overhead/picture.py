"""A bar for each kind of sweep: what its slots' time goes to."""

from __future__ import annotations

from pathlib import Path

from benchmarks.overhead.slots import middle_round
from benchmarks.overhead.store import Store

# What is told apart, with Okabe and Ito's colours, or a grey where the slot does nothing.
_GROUPS = {
    "training steps": (("train",), "#009E73"),
    "validation": (("validate",), "#56B4E9"),
    "building, tracing": (("build", "trace"), "#E69F00"),
    ".h5, checkpoints": (("save", "checkpoint"), "#CC79A7"),
    "rest of the trial": (("other", "wait", "failed"), "#0072B2"),
    "between trials": (("between trials",), "#F0E442"),
    "start-up": (("start-up",), "#D55E00"),
    "idle at the end, winner's test": (("idle", "winner's test"), "#BBBBBB"),
    "last logging, report, registry": (("after",), "#777777"),
}
# A share narrower than this has no room for its number.
_NARROW = 0.035


def draw(store: Store, path: Path, machine: str) -> None:
    """Draws the shares of the slots' time, from the command to its exit.

    Args:
        store: What was measured; nothing is drawn without `profile` and `trivial`.
        path: The picture to write.
        machine: Where it comes from, in a line.
    """
    found = {name: middle_round(records) for name, records in store.newest("profile").items()}
    for name, records in store.newest("trivial").items():
        if name == "all on":
            found[f"{records[0].figures['trials']:,} trials of one step"] = middle_round(records)
    if not found:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9.5, 1.7 + 0.62 * len(found)))
    for place, record in enumerate(found.values()):
        seconds, left = record.figures["activities"], 0.0
        whole = sum(seconds.values())
        for title, (names, colour) in _GROUPS.items():
            share = sum(seconds.get(name, 0.0) for name in names) / whole
            label = title if place == 0 else None
            axis.barh(place, share, left=left, color=colour, height=0.68, label=label, edgecolor="white", linewidth=0.4)
            if share > _NARROW:
                axis.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=9)
            left += share
    labels = [
        f"{name}\n{record.figures['trials']} trials of {record.figures['trial_seconds']:.2g} s, "
        f"{record.figures['wall_seconds']:.0f} s"
        for name, record in found.items()
    ]
    axis.set_yticks(range(len(found)), labels, fontsize=8.5)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_xlabel("share of the slots' time, from the command to its exit", fontsize=9)
    figure.legend(loc="upper center", ncols=5, fontsize=8, frameon=False, handlelength=1.1, columnspacing=1.2)
    figure.text(0.5, 0.01, machine, fontsize=6, ha="center", va="bottom", color="#555555")
    figure.tight_layout(rect=(0, 0.03, 1, 1 - 0.5 / figure.get_figheight()))
    figure.savefig(path, dpi=130)
    plt.close(figure)
