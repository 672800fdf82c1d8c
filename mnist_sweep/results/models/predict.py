"""`python -m mnist_sweep predict`: what a model reads in pictures, and why it may be wrong."""

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
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.tables import standard_output
from mnist_sweep.common.text import os_reason, printable
from mnist_sweep.data.profile import Profile
from mnist_sweep.results.models import image_files
from mnist_sweep.results.models.image_decoder import PictureReader
from mnist_sweep.results.models.tracked import TrackedModel, find_model, quiet

Array = NDArray[Any]

# A photograph of 60 million pixels takes 3.
_SECONDS_A_PICTURE = 30.0


@dataclass(frozen=True)
class _Answer:
    file: Path
    prepared: image_files.Prepared
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
    tracking_uri: str | None,
    *,
    as_json: bool = False,
    to: Path | None = None,
) -> int:
    """Reads pictures, and prints a row for each.

    Args:
        files: The pictures. Of one that cannot be read, a line on standard error says so; the others are read.
        what: The model, as for `find_model`.
        tracking_uri: As for `find_model`.
        as_json: Whether to print JSON instead of a table.
        to: A folder to write PNGs of what the model sees to; created if need be.

    Returns:
        The exit code: 0, or 2 where a picture could not be read.

    Raises:
        UserError: There is no such model, or the folder cannot be written.
    """
    # First, as it starts while MLflow is imported.
    with PictureReader(_SECONDS_A_PICTURE) as reader:
        model = find_model(what, tracking_uri)
        height, width, channels = map(int, model.run.data.tags["data.image"].split("x"))
        with tempfile.TemporaryDirectory() as temporary:
            profile = image_files.profile_of(model, Path(temporary))
            found, errors = _prepared(reader, files, (height, width, channels), profile)
            answers = _asked(model, found, profile, Path(temporary)) if found else []
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
    for error in errors:
        print(f"mnist_sweep: {error}", file=sys.stderr)
    return 2 if errors else 0


def _prepared(
    reader: PictureReader, files: Sequence[Path], shape: tuple[int, int, int], profile: Profile | None
) -> tuple[dict[Path, image_files.Prepared], list[UserError]]:
    found, errors = {}, []
    for file in files:
        try:
            found[file] = reader.read_file(file, shape, profile)
        except UserError as error:
            errors.append(error)
    return found, errors


def _asked(
    model: TrackedModel, found: dict[Path, image_files.Prepared], profile: Profile | None, folder: Path
) -> list[_Answer]:
    loaded = model.load(folder)
    with quiet():
        from mnist_sweep.training import saved

        probabilities = saved.predict(loaded, np.stack([prepared.image for prepared in found.values()]))
    return [
        _Answer(file, prepared, told, image_files.why_doubtful(prepared, told, profile))
        for (file, prepared), told in zip(found.items(), probabilities, strict=True)
    ]


def _show(console: Console, model: TrackedModel, answers: Sequence[_Answer], profile: Profile | None) -> None:
    drawn = profile is not None and profile.drawing is not None
    table = Table(
        title=f"Read by trial {model.trial} of {model.sweep}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("file", overflow="fold")
    for heading in ("digit" if drawn else "class", "probability", "second"):
        table.add_column(heading, no_wrap=True)
    # Not cut off, as tables of numbers are: what is doubtful must be seen.
    table.add_column("remarks", overflow="fold")
    for answer in answers:
        first, second = answer.ranked[:2]
        said = [f"{answer.probabilities[first]:.4f}", f"{second} ({answer.probabilities[second]:.4f})"]
        empty = image_files.NOTHING in answer.doubts
        table.add_row(
            Text(printable(str(answer.file))),
            Text("?" if empty else str(first), style="yellow" if answer.doubts else "bold"),
            *(["", ""] if empty else said),
            Text("; ".join(answer.doubts), style="yellow"),
        )
    console.print(table)
    if profile is None or profile.likeness is None:
        console.print(
            "Whether a picture looks like the training images cannot be judged: the run has no data_profile.npz.",
            style="yellow",
            soft_wrap=True,
        )


def _save(found: dict[Path, image_files.Prepared], to: Path) -> None:
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
