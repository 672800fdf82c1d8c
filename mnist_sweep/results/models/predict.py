"""`python -m mnist_sweep predict`: classifies image files, and explains why an answer may be wrong."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.tables import standard_output
from mnist_sweep.common.text import os_reason, printable
from mnist_sweep.data.images import Array
from mnist_sweep.data.profile import Profile
from mnist_sweep.results.models.doubts import profile_of, why_doubtful
from mnist_sweep.results.models.image_decoder import ImageDecoder
from mnist_sweep.results.models.model_run import ModelRun, find_trial, quiet
from mnist_sweep.results.models.preprocessing import NOTHING, Prepared

# A photograph of 60 million pixels takes 3.
_SECONDS_PER_IMAGE = 30.0


@dataclass(frozen=True)
class _Answer:
    file: Path
    prepared: Prepared
    probabilities: Array
    doubts: list[str]

    @property
    def ranked(self) -> list[int]:
        return [int(label) for label in np.argsort(-self.probabilities, kind="stable")]

    def to_json(self) -> dict[str, Any]:
        first, second = self.ranked[:2]
        return {
            "file": str(self.file),
            "digit": first,
            "probability": float(self.probabilities[first]),
            "second": second,
            "second_probability": float(self.probabilities[second]),
            "probabilities": [float(p) for p in self.probabilities],
            "doubts": self.doubts,
            "notes": self.prepared.notes,
        }


def predict(
    files: Sequence[Path],
    what: str | None,
    trial: int | None,
    tracking_uri: str | None,
    *,
    as_json: bool = False,
    to: Path | None = None,
) -> int:
    """Classifies images, and prints a row for each.

    Args:
        files: The image files. One that cannot be read is reported on standard error; the others are classified.
        what: The model, as for `find_trial`.
        trial: As for `find_trial`.
        tracking_uri: As for `find_trial`.
        as_json: Whether to print JSON instead of a table.
        to: A folder for PNGs of what the model sees; created if needed.

    Returns:
        The exit code: 0, or 2 if an image could not be read.

    Raises:
        UserError: The model does not exist, or the folder cannot be written.
    """
    # First, so that it starts while MLflow is imported.
    with ImageDecoder(_SECONDS_PER_IMAGE) as decoder:
        model = find_trial(what, trial, tracking_uri)
        with tempfile.TemporaryDirectory() as temporary:
            profile = profile_of(model, Path(temporary))
            found, errors = dict[Path, Prepared](), list[UserError]()
            for file in files:
                try:
                    found[file] = decoder.read_file(file, model.image_shape, profile)
                except UserError as error:
                    errors.append(error)
            answers = _classified(model, found, profile, Path(temporary)) if found else []
    if to is not None:
        _save(found, to)
    if as_json:
        about = {
            "sweep": model.sweep,
            "trial": model.trial,
            "run_id": model.run.info.run_id,
            "judges_likeness": profile is not None and profile.likeness is not None,
        }
        print(json.dumps({"model": about, "predictions": [a.to_json() for a in answers]}, indent=2))
    elif answers:
        _show(standard_output(), model, answers, profile)
    for unreadable in errors:
        print(f"mnist_sweep: {unreadable}", file=sys.stderr)
    return 2 if errors else 0


def _classified(model: ModelRun, found: dict[Path, Prepared], profile: Profile | None, folder: Path) -> list[_Answer]:
    loaded = model.load(folder)
    with quiet():
        from mnist_sweep.training import saved

        probabilities = saved.predict(loaded, np.stack([prepared.image for prepared in found.values()]))
    return [
        _Answer(file, prepared, answer, why_doubtful(prepared, answer, profile))
        for (file, prepared), answer in zip(found.items(), probabilities, strict=True)
    ]


def _show(console: Console, model: ModelRun, answers: Sequence[_Answer], profile: Profile | None) -> None:
    table = Table(
        title=f"Read by trial {model.trial} of {model.sweep}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("file", overflow="fold")
    drawn = profile is not None and profile.drawing is not None
    for heading in ("digit" if drawn else "class", "probability", "second"):
        table.add_column(heading, no_wrap=True)
    # Wrapped, not cut off as in tables of numbers: doubts must be seen.
    table.add_column("remarks", overflow="fold")
    for answer in answers:
        first, second = answer.ranked[:2]
        scores = [f"{answer.probabilities[first]:.4f}", f"{second} ({answer.probabilities[second]:.4f})"]
        empty = NOTHING in answer.doubts
        table.add_row(
            Text(printable(str(answer.file))),
            Text("?" if empty else str(first), style="yellow" if answer.doubts else "bold"),
            *(["", ""] if empty else scores),
            Text("; ".join(answer.doubts), style="yellow"),
        )
    console.print(table)
    if profile is None or profile.likeness is None:
        console.print(
            "Whether an image looks like the training images cannot be judged: the run has no data_profile.npz.",
            style="yellow",
            soft_wrap=True,
        )


def _save(found: dict[Path, Prepared], to: Path) -> None:
    from PIL import Image

    try:
        to.mkdir(parents=True, exist_ok=True)
        for file, prepared in found.items():
            names = (f"{file.stem}{end}.png" for end in itertools.chain([""], map("-{}".format, itertools.count(2))))
            pixels = np.rint(prepared.image * 255).astype(np.uint8)
            path = next(to / name for name in names if not os.path.lexists(to / name))
            write_whole(path, Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save)
    except OSError as error:
        raise UserError(f"--save-input={to}: cannot be written ({os_reason(error)})") from None
