"""Who answers: a sweep's champion, and its runners-up beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, format_value, short_names
from mnist_sweep.results.models.image_files import Prepared, why_doubtful
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.runs.find import SweepRuns, find_sweep
from mnist_sweep.results.runs.frames import searched
from mnist_sweep.tracking.tags import TAG_CONFIRMS

if TYPE_CHECKING:
    from mnist_sweep.data.profile import Profile

Array = npt.NDArray[Any]
Ask = Callable[[Array], Array]


@dataclass(frozen=True)
class Candidate:
    """A model that may answer.

    Attributes:
        trial: Its number.
        about: Its setting, in a line.
        find: Asks the store for the model, not loaded.
    """

    trial: int
    about: str
    find: Callable[[], ModelRun]

    @property
    def name(self) -> str:
        """What it is called."""
        return f"trial {self.trial}"


@dataclass(frozen=True)
class Judge:
    """A model that answers.

    Attributes:
        name: What it is called.
        about: Its setting, in a line.
        ask: From an image (H, W, C), float32 in 0..1, to probabilities (classes,).
    """

    name: str
    about: str
    ask: Ask


@dataclass
class Panel:
    """Who answers, as far as they are loaded.

    Attributes:
        card: What the page says of the champion and its data.
        shape: Of the images that the models take: height, width, channels.
        profile: What the training images look like, where that is known.
        judges: Those who are loaded, the champion first. Threads that load append to it while others ask.
        expected: How many there will be, at most.
        complete: Whether all are loaded.
    """

    card: dict[str, Any]
    shape: tuple[int, int, int]
    profile: Profile | None = None
    judges: list[Judge] = field(default_factory=list)
    expected: int = 1
    complete: bool = False

    @property
    def ready(self) -> bool:
        """Whether the champion is loaded."""
        return bool(self.judges)

    def about(self) -> dict[str, Any]:
        """The card, who is loaded, and how many are still expected."""
        judges = list(self.judges)
        return {
            **self.card,
            "drawn": self.profile is not None and self.profile.drawing is not None,
            "shape": self.shape,
            "ready": bool(judges),
            "complete": self.complete,
            "expected": len(judges) if self.complete else self.expected,
            "models": [{"name": judge.name, "about": judge.about} for judge in judges],
        }

    def answer(self, prepared: Prepared) -> dict[str, Any]:
        """Has everyone who is loaded judge an image.

        Args:
            prepared: The image, as the models see it.

        Returns:
            The champion's `digit`, its `probability` and all `probabilities`; the `image` that the models saw, in
            0..255, with a third dimension where it has several channels; `notes` on how it came about; `doubts`, why
            the answer may be wrong; and `models`: each one's name, digit, probability, and whether it agrees with
            the champion, which comes first.
        """
        answers = [(judge, judge.ask(prepared.image)) for judge in list(self.judges)]
        champion = answers[0][1]
        digit = int(np.argmax(champion))
        seen = np.rint(prepared.image * 255).astype(int)
        return {
            "digit": digit,
            "probability": float(champion[digit]),
            "probabilities": [float(p) for p in champion],
            "image": (seen[..., 0] if seen.shape[2] == 1 else seen).tolist(),
            "notes": list(prepared.notes),
            "doubts": why_doubtful(prepared, champion, self.profile),
            "models": [
                {
                    "name": judge.name,
                    "digit": int(np.argmax(answer)),
                    "probability": float(np.max(answer)),
                    "agrees": int(np.argmax(answer)) == digit,
                }
                for judge, answer in answers
            ],
        }


def card(champion: ModelRun) -> dict[str, Any]:
    """What there is to say of a champion: its sweep, trial, scores and data."""
    tags, metrics = champion.run.data.tags, champion.run.data.metrics
    return {
        "sweep": champion.sweep,
        "trial": champion.trial,
        "confirms": int(tags[TAG_CONFIRMS]) if TAG_CONFIRMS in tags else None,
        "validation_accuracy": metrics.get("best_val_accuracy"),
        "test_accuracy": metrics.get("test_accuracy"),
        "data": tags["data.name"],
        "training_images": int(tags["data.training_images"]),
        "classes": int(tags["data.classes"]),
    }


def image_shape(champion: ModelRun) -> tuple[int, int, int]:
    """Height, width and channels of the images that a sweep's models take."""
    height, width, channels = map(int, champion.run.data.tags["data.image"].split("x"))
    return height, width, channels


def candidates(champion: ModelRun) -> list[Candidate]:
    """Who may answer: the champion first, then the best other settings of its sweep, the best first.

    Where the best were trained anew on several seeds, those come first, by their new scores. Of trials with the same
    setting only the best is there.
    """
    found = find_sweep(champion.sweep, champion.client.tracking_uri)
    frame = found.frame()
    own = champion.run.data.tags.get(TAG_CONFIRMS, champion.trial)
    ranked = _ranked(found, frame[frame["confirms"].isna()])
    columns = searched(ranked)
    first = ranked[ranked["trial"] == int(own)]
    others = pd.concat([first, ranked]).drop_duplicates(columns or ["trial"], ignore_index=True)[len(first) :]
    names = short_names([column.removeprefix("params.") for column in columns])
    rows = pd.concat([first, others])
    about = [describe({names[c.removeprefix("params.")]: row[c] for c in columns}) for _, row in rows.iterrows()]

    def find(run: str) -> ModelRun:
        return ModelRun(champion.client, champion.client.get_run(run))

    # Of hundreds only a few are loaded, and only those are asked for.
    return [
        Candidate(champion.trial, about[0], lambda: champion),
        *map(Candidate, map(int, others["trial"]), about[1:], (partial(find, run) for run in others["run_id"])),
    ]


def _ranked(found: SweepRuns, frame: pd.DataFrame) -> pd.DataFrame:
    name, best_last = found.objective.name, found.objective.maximize
    by = [c for c in (f"metrics.confirmed_{name}", f"metrics.best_{name}") if c in frame]
    scored = frame[frame[by[-1]].notna()] if by else frame[:0]
    return scored.sort_values([*by, "trial"], ascending=[*[not best_last] * len(by), True], na_position="last")


def describe(values: dict[str, Any]) -> str:
    """A setting in a line.

    Args:
        values: From a hyperparameter's short name to its value; inactive ones are NA, a layer's own are `units.1`.
            What is off is left out.

    Returns:
        Such as `layers 2 · units 256, 32 · dropout 0.1586 · adam`.
    """
    parts: dict[str, list[str]] = {}
    for name, value in values.items():
        if pd.isna(value):
            continue
        base, _, layer = name.rpartition(".")
        word = (base if layer.isdigit() else name).replace("_", " ")
        if isinstance(value, bool | np.bool_):
            if value:
                parts[word] = []
        else:
            parts.setdefault(word, []).append(format_value(value))
    return " · ".join(f"{word} {', '.join(texts)}".rstrip() for word, texts in parts.items())


def load(panel: Panel, queue: Sequence[Candidate], most: int, folder: Path) -> None:
    """Loads the champion and its runners-up into a panel.

    Args:
        panel: Where to.
        queue: The champion, then who may follow it. Those who have no model in MLflow, as it keeps only the best or
            the training failed, are passed over.
        most: How many to load.
        folder: Where to put the files that are fetched.

    Raises:
        UserError: The champion has no model.
    """
    for candidate in queue:
        place = folder / str(candidate.trial)
        place.mkdir()
        try:
            ask = candidate.find().load_quick(place, panel.shape)
        except Exception as error:
            if not panel.ready:
                raise
            if not isinstance(error, UserError):
                told = masked(first_line(error))
                print(f"mnist_sweep: {candidate.name} cannot be loaded: {told}", file=sys.stderr)
            continue
        panel.judges.append(Judge(candidate.name, candidate.about, ask))
        if len(panel.judges) == most:
            break
    panel.complete = True
