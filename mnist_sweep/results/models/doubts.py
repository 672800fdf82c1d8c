"""Explains why a model's answer may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_npz
from mnist_sweep.data import profile as profiles
from mnist_sweep.data.images import Array
from mnist_sweep.data.profile import Drawing, Profile
from mnist_sweep.journal.files import PROFILE_FILE, SAMPLE_FILE
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.models.preprocessing import NOTHING, Prepared

# An image is doubtful if fewer than this part of the training images of its class are as unusual, or if a second class
# is at least this likely, relative to the first. With a model that reads 98.0 % of MNIST's test digits right, 2.4 % of
# them are doubtful (1.4 % of those read right, 53 % of the others). Of 200 each, so are 78 % of letters, 78 % of digits
# turned by 60 or 90 degrees, 97 % of photographs and 99 % of pairs of digits.
_RARE = 0.01
_RIVAL = 0.5


def profile_of(run: ModelRun, folder: Path) -> Profile | None:
    """What a model's training images look like, as far as MLflow has it.

    Args:
        run: The model's run.
        folder: Where to put the files that are fetched.

    Returns:
        The profile, which only a tested model has: that of the sweep's best one serves all trials, as they have the
        same training images. If there is none, a profile without `likeness`, measured on the sample of images that
        every trial has. None if there is no sample either.
    """
    for with_profile in (run, *run.on_the_same_data()):
        try:
            return Profile.load(with_profile.fetch(PROFILE_FILE, folder))
        except (UserError, ValueError):
            pass
    try:
        return profiles.measure(read_npz(run.fetch(SAMPLE_FILE, folder), SAMPLE_FILE)["images"])
    except (UserError, ValueError, KeyError, IndexError):
        return None


def why_doubtful(
    prepared: Prepared, probabilities: Array, profile: Profile | None = None, names: Sequence[str] = ()
) -> list[str]:
    """Explains why a prediction may be wrong.

    Args:
        prepared: What the model saw.
        probabilities: (classes,), the model's answer.
        profile: What the training images look like; None if unknown.
        names: The names of the classes; empty for their numbers.

    Returns:
        The reasons, a short sentence each; empty if there is none.
    """
    doubts = list(prepared.doubts)
    if NOTHING in doubts:
        return doubts
    first, second = (int(label) for label in np.argsort(-probabilities, kind="stable")[:2])
    called = [names[label] if names else str(label) for label in (first, second)]
    if profile is not None and profile.drawing is not None:
        doubts += _oddly_drawn(prepared.image[..., 0], profile.drawing)
    if profile is not None and profile.likeness is not None:
        rarity = profile.likeness.rarity(prepared.image, first)
        if rarity < _RARE:
            others = f"all but 1 in {round(1 / rarity)}" if rarity else "every one"
            doubts.append(f"more unusual than {others} of the training images of a {called[0]}")
    if probabilities[second] > _RIVAL * probabilities[first]:
        doubts.append(f"the model hesitates between {called[0]} and {called[1]}")
    return doubts


def _oddly_drawn(image: Array, drawing: Drawing) -> list[str]:
    ink = np.abs(image - drawing.background)
    share, (height, width) = float(ink.mean()), profiles.extent(ink)
    aspect, count = width / max(height, 1), profiles.pieces(ink)
    reasons = {
        "more ink than in any training image": share > 1.1 * drawing.ink[1],
        "less ink than in any training image": share < 0.9 * drawing.ink[0],
        "wider than any training image: is it one digit?": aspect > 1.1 * drawing.aspect[1],
        "narrower than any training image": aspect < 0.9 * drawing.aspect[0],
        f"in {count} pieces, where training images have at most {drawing.pieces}": count > drawing.pieces,
    }
    return [reason for reason, holds in reasons.items() if holds]
