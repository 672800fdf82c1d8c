"""`python -m mnist_sweep predict`: predicts from pictures, tables and arrays, and says why it may be wrong."""

from __future__ import annotations

import contextlib
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
from mnist_sweep.common.text import format_value, os_reason, printable
from mnist_sweep.data.images import Array
from mnist_sweep.data.profile import Profile
from mnist_sweep.results.models import predict_rows
from mnist_sweep.results.models.doubts import profile_of, why_doubtful
from mnist_sweep.results.models.image_decoder import ImageDecoder
from mnist_sweep.results.models.model_run import ModelRun, find_trial, quiet
from mnist_sweep.results.models.preprocessing import NOTHING, Prepared
from mnist_sweep.results.models.purpose import Purpose, purpose_of

# A photograph of 60 million pixels takes 3.
_SECONDS_PER_IMAGE = 30.0
# Labels in a line.
_SHOWN = 5


@dataclass(frozen=True)
class _Answer:
    file: Path
    prepared: Prepared
    answer: dict[str, Any]
    names: list[str]
    doubts: list[str]

    @property
    def _second(self) -> int:
        """The second most probable class."""
        return int(np.argsort(-np.asarray(self.answer["probabilities"]), kind="stable")[1])

    def to_json(self) -> dict[str, Any]:
        found = {"file": str(self.file), **self.answer}
        if "class" in self.answer:
            second = self._second
            found |= {"second": second, "second_class": self.names[second]}
            found |= {"second_probability": self.answer["probabilities"][second]}
        return {**found, "doubts": self.doubts, "notes": self.prepared.notes}

    def cells(self) -> list[str]:
        """What was predicted, and how sure that is, in the columns of `_headings`."""
        if "class" in self.answer:
            second = self._second
            other = f"{self.names[second]} ({self.answer['probabilities'][second]:.4f})"
            return [self.answer["class"], f"{self.answer['probability']:.4f}", other]
        if "labels" in self.answer:
            pairs = zip(self.names, self.answer["probabilities"], strict=True)
            best = sorted(pairs, key=lambda pair: -pair[1])[:_SHOWN]
            return [", ".join(self.answer["labels"]) or "none", ", ".join(f"{name} {p:.4f}" for name, p in best)]
        return [format_value(value) for value in self.answer["values"].values()] if "values" in self.answer else ["–"]


def _headings(purpose: Purpose, profile: Profile | None) -> list[str]:
    if purpose.target.kind == "classes":
        drawn = profile is not None and profile.drawing is not None and not purpose.target.names
        return ["digit" if drawn else "class", "probability", "second"]
    return ["labels", "probabilities"] if purpose.target.kind == "labels" else purpose.names


def predict(
    files: Sequence[Path],
    what: str | None,
    trial: int | None,
    tracking_uri: str | None,
    *,
    as_json: bool = False,
    seen: Path | None = None,
    to: Path | None = None,
) -> int:
    """Predicts from files, and prints what.

    Args:
        files: Pictures, tables or `.npz` files, as the model takes them. One that cannot be read is reported on
            standard error; the others are used.
        what: The model, as for `find_trial`.
        trial: As for `find_trial`.
        tracking_uri: As for `find_trial`.
        as_json: Whether to print JSON instead of a table.
        seen: A folder for PNGs of what a model of pictures sees; created if needed.
        to: Where to write the predictions of a table or of arrays; None for a file beside theirs.

    Returns:
        The exit code: 0, or 2 if a file could not be read.

    Raises:
        UserError: The model does not exist, or a file cannot be written.
    """
    of_rows = all(map(predict_rows.has_rows, files))
    with contextlib.ExitStack() as stack:
        # First, so that it starts while MLflow is imported.
        decoder = None if of_rows else stack.enter_context(ImageDecoder(_SECONDS_PER_IMAGE))
        model = find_trial(what, trial, tracking_uri)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        purpose = purpose_of(model, folder)
        purpose.check_shown(model.sweep)
        if purpose.schema.image is None or decoder is None:
            if seen is not None:
                raise UserError(f"--save-input={seen}: is for pictures, not for tables and arrays")
            return predict_rows.predict(files, model, purpose, folder, as_json=as_json, to=to)
        if to is not None:
            raise UserError(f"--to={to}: is for tables and arrays; --save-input=DIR writes what the model sees")
        return _predict_pictures(files, model, purpose, decoder, folder, as_json=as_json, seen=seen)


def _predict_pictures(
    files: Sequence[Path],
    model: ModelRun,
    purpose: Purpose,
    decoder: ImageDecoder,
    folder: Path,
    *,
    as_json: bool,
    seen: Path | None,
) -> int:
    assert purpose.schema.image is not None
    profile = profile_of(model, folder)
    found, errors = dict[Path, Prepared](), list[UserError]()
    for file in files:
        try:
            found[file] = decoder.read_file(file, purpose.schema.image, profile, purpose.resize)
        except UserError as error:
            errors.append(error)
    answers = _answers(model, purpose, found, profile, folder) if found else []
    if seen is not None:
        _save(found, seen)
    if as_json:
        about = predict_rows.about(model, purpose)
        about |= {"judges_likeness": profile is not None and profile.likeness is not None}
        print(json.dumps({"model": about, "predictions": [a.to_json() for a in answers]}, indent=2))
    elif answers:
        _show(standard_output(), model, purpose, answers, profile)
    for unreadable in errors:
        print(f"mnist_sweep: {unreadable}", file=sys.stderr)
    return 2 if errors else 0


def _answers(
    model: ModelRun, purpose: Purpose, found: dict[Path, Prepared], profile: Profile | None, folder: Path
) -> list[_Answer]:
    predicted = _predicted(model, found, folder)
    answers, names = purpose.answers(predicted), purpose.names
    doubts = [prepared.doubts for prepared in found.values()]
    if answers and "class" in answers[0]:
        sure = purpose.probabilities(predicted)
        named = names if purpose.target.names else ()
        doubts = [why_doubtful(one, p, profile, named) for one, p in zip(found.values(), sure, strict=True)]
    rows = zip(found.items(), answers, doubts, strict=True)
    return [_Answer(file, prepared, answer, names, why) for (file, prepared), answer, why in rows]


def _predicted(model: ModelRun, found: dict[Path, Prepared], folder: Path) -> Array:
    loaded = model.load(folder)
    with quiet():
        from mnist_sweep.training import saved

        return saved.predict(loaded, np.stack([prepared.image for prepared in found.values()]))


def _show(
    console: Console, model: ModelRun, purpose: Purpose, answers: Sequence[_Answer], profile: Profile | None
) -> None:
    table = Table(
        title=f"Read by trial {model.trial} of {model.sweep}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("file", overflow="fold")
    for heading in _headings(purpose, profile):
        table.add_column(printable(heading), no_wrap=purpose.target.kind != "labels")
    # Wrapped, not cut off as in tables of numbers: doubts must be seen.
    table.add_column("remarks", overflow="fold")
    for answer in answers:
        first, *others = map(printable, answer.cells())
        if NOTHING in answer.doubts:
            first, others = "?", ["" for _ in others]
        table.add_row(
            Text(printable(str(answer.file))),
            Text(first, style="yellow" if answer.doubts else "bold"),
            *map(Text, others),
            Text("; ".join(answer.doubts), style="yellow"),
        )
    console.print(table)
    if purpose.target.kind == "classes" and (profile is None or profile.likeness is None):
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
