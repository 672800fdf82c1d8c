"""The models that answer on the page: a sweep's champion, and its runners-up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, format_value, short_names, spaced
from mnist_sweep.config.data_config import DATA, DataConfig, OwnData
from mnist_sweep.data.images import Array
from mnist_sweep.data.profile import Profile
from mnist_sweep.data.schema import ONLY
from mnist_sweep.results.leaderboard import ranked
from mnist_sweep.results.models.doubts import why_doubtful
from mnist_sweep.results.models.image_decoder import DecodingError, ImageDecoder
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.models.preprocessing import Prepared
from mnist_sweep.results.models.purpose import Purpose
from mnist_sweep.results.models.rows import Inputs
from mnist_sweep.results.models.serve import questions
from mnist_sweep.results.runs.find import find_sweep
from mnist_sweep.results.runs.frames import searched
from mnist_sweep.tracking.tags import TAG_CONFIRMS


@dataclass(frozen=True)
class Candidate:
    """A model that may answer, not loaded.

    Attributes:
        trial: The trial's number.
        about: The trial's hyperparameter values, in a line.
        find: Asks the store for the model.
    """

    trial: int
    about: str
    find: Callable[[], ModelRun]


@dataclass(frozen=True)
class LoadedModel:
    """A model that answers.

    Attributes:
        name: The model's name on the page.
        about: Its hyperparameter values, in a line.
        predict: From inputs (N, …) by name to predictions (N, …).
    """

    name: str
    about: str
    predict: Callable[[Inputs], Array]


@dataclass
class ServedModels:
    """The models that answer, as far as they are loaded.

    Attributes:
        card: What the page shows about the champion and its data.
        purpose: What the models take and predict.
        profile: What the training images look like, if known.
        loaded: The loaded models, the champion first. A thread that loads models may append to it at any time.
        expected: How many models there will be, at most.
        complete: Whether all are loaded.
    """

    card: dict[str, Any]
    purpose: Purpose
    profile: Profile | None = None
    loaded: list[LoadedModel] = field(default_factory=list)
    expected: int = 1
    complete: bool = False

    @property
    def ready(self) -> bool:
        """Whether the champion is loaded."""
        return bool(self.loaded)

    @property
    def takes(self) -> Literal["drawing", "picture", "form", "arrays"]:
        """How users of the page give the models something to predict."""
        if (shape := self.purpose.schema.image) is not None:
            # As `prepare` takes them.
            drawn = shape[2] == 1 if self.profile is None else self.profile.drawing is not None
            return "drawing" if drawn else "picture"
        return "form" if self.purpose.schema.columns else "arrays"

    def about(self) -> dict[str, Any]:
        """The card, the loaded models, and how many models are expected."""
        loaded, target = list(self.loaded), self.purpose.target
        return {
            **self.card,
            "takes": self.takes,
            "predicts": target.kind,
            "names": self.purpose.names,
            "named": bool(target.names),
            "column": self.purpose.column,
            "shape": self.purpose.schema.image,
            "ready": bool(loaded),
            "complete": self.complete,
            "expected": len(loaded) if self.complete else self.expected,
            "models": [{"name": model.name, "about": model.about} for model in loaded],
        }

    def answer(self, kind: str, body: bytes, decoder: ImageDecoder) -> dict[str, Any]:
        """Has every loaded model predict what a request contains.

        Args:
            kind: The content type of the request.
            body: Its body: for models of images, an image; for others, rows as `questions.read_rows` takes them.
            decoder: Reads images.

        Returns:
            For an image, the champion's answer (`Purpose.answers`); the `image` that the models saw, in 0..255, with a
            third dimension if it has several channels; `notes` on its preprocessing; `doubts`, why the answer may be
            wrong; and `models`, see below. For rows, `predictions`, the champion's answer to each, `notes`, and for a
            single row `models`: each one's name, answer, what it `says` in words, and whether it agrees with the
            champion, which comes first; None for numbers.

        Raises:
            DecodingError: The request cannot be understood.
        """
        if (shape := self.purpose.schema.image) is None:
            inputs, notes = questions.read_rows(body, self.purpose.schema)
            predicted = [model.predict(inputs) for model in self._asked(inputs)]
            if not all(np.isfinite(one).all() for one in predicted):
                # JSON has no such numbers.
                raise DecodingError(
                    422, "a model predicts NaN or infinite values for this; the numbers may be too large"
                )
            answers = list(map(self.purpose.answers, predicted))
            found = {"predictions": answers[0], "notes": notes}
            return found if len(answers[0]) != 1 else {**found, "models": self._models([one[0] for one in answers])}
        resize = None if self.takes == "drawing" else self.purpose.resize
        return self.of_picture(decoder.read_body(kind, body, shape, self.profile, resize))

    def of_picture(self, prepared: Prepared) -> dict[str, Any]:
        """Returns the answer to an image, as the models see it."""
        inputs = {ONLY: prepared.image[np.newaxis]}
        predicted = [model.predict(inputs) for model in list(self.loaded)]
        answers = [self.purpose.answers(one)[0] for one in predicted]
        seen, doubts, target = np.rint(prepared.image * 255).astype(int), list(prepared.doubts), self.purpose.target
        if "class" in answers[0]:
            doubts = why_doubtful(prepared, self.purpose.probabilities(predicted[0])[0], self.profile, target.names)
        return {
            **answers[0],
            "image": (seen[..., 0] if seen.shape[2] == 1 else seen).tolist(),
            "notes": list(prepared.notes),
            "doubts": doubts,
            "models": self._models(answers),
        }

    def _asked(self, inputs: Inputs) -> list[LoadedModel]:
        """Returns the models to ask about some rows: only the champion, if there are many."""
        return list(self.loaded) if len(next(iter(inputs.values()))) == 1 else self.loaded[:1]

    def _models(self, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        said = [self.purpose.in_words(answer) for answer in answers]
        return [
            {
                "name": model.name,
                **{key: value for key, value in answer.items() if key != "probabilities"},
                "says": words,
                "agrees": None if self.purpose.target.kind == "numbers" else words == said[0],
            }
            for model, answer, words in zip(self.loaded, answers, said, strict=False)
        ]


def card(champion: ModelRun) -> dict[str, Any]:
    """What the page shows about the champion: its sweep, trial, scores and data."""
    tags, metrics = champion.run.data.tags, champion.run.data.metrics
    rows = "images" if "data.image" in tags else "rows"
    # Of data of one's own, the place tells more than the kind.
    own = issubclass(DATA.get(tags["data.name"], DataConfig), OwnData)
    best = [name.removeprefix("best_") for name in sorted(metrics) if name.startswith("best_val_")]
    scores = {name: metrics[f"best_{name}"] for name in best}
    tested = [f"test_{name.removeprefix('val_')}" for name in best]
    scores |= {name: metrics[name] for name in dict.fromkeys([*tested, "test_accuracy"]) if name in metrics}
    return {
        "sweep": champion.sweep,
        "trial": champion.trial,
        "confirms": int(tags[TAG_CONFIRMS]) if TAG_CONFIRMS in tags else None,
        "scores": scores,
        "data": tags["data.source"] if own and "data.source" in tags else tags["data.name"],
        "rows": rows,
        "training": int(tags.get(f"data.training_{rows}", 0)),
    }


def candidates(champion: ModelRun) -> list[Candidate]:
    """The models that may answer: the champion, then the best trials of its sweep with other hyperparameter values.

    If the best trials were retrained on new seeds, those come first, by their new scores. Of several trials with the
    same values, only the best is a candidate.
    """
    found = find_sweep(champion.sweep, champion.client.tracking_uri)
    own = champion.run.data.tags.get(TAG_CONFIRMS, champion.trial)
    trials = ranked(found.frame(), found.objective)
    names = searched(trials)
    columns = [f"params.{name}" for name in names]
    first = trials[trials["trial"] == int(own)]
    others = pd.concat([first, trials]).drop_duplicates(columns or ["trial"], ignore_index=True)[len(first) :]
    short = short_names(names)
    rows = pd.concat([first, others])
    about = [describe({short[name]: row[f"params.{name}"] for name in names}) for _, row in rows.iterrows()]

    def find(run: str) -> ModelRun:
        return ModelRun(champion.client, champion.client.get_run(run))

    # There may be hundreds of candidates, but only the few that are loaded are fetched from the store.
    return [
        Candidate(champion.trial, about[0], lambda: champion),
        *map(Candidate, map(int, others["trial"]), about[1:], (partial(find, run) for run in others["run_id"])),
    ]


def describe(values: dict[str, Any]) -> str:
    """Describes hyperparameter values in a line.

    Args:
        values: From a hyperparameter's short name to its value. Inactive ones are NA; a layer's is called `units.1`.

    Returns:
        For example `layers 2 · units 256, 32 · dropout 0.1586 · adam`. Options that are off are left out.
    """
    parts: dict[str, list[str]] = {}
    for name, value in values.items():
        if pd.isna(value):
            continue
        base, _, layer = name.rpartition(".")
        word = spaced(base if layer.isdigit() else name)
        if isinstance(value, bool | np.bool_):
            if value:
                parts[word] = []
        else:
            parts.setdefault(word, []).append(format_value(value))
    return " · ".join(f"{word} {', '.join(texts)}".rstrip() for word, texts in parts.items())


def load(models: ServedModels, queue: Sequence[Candidate], most: int, folder: Path) -> None:
    """Loads the champion and its runners-up.

    Args:
        models: Where to add them.
        queue: The champion, then its runners-up. Those without a model in MLflow, because only the best is kept or the
            training failed, are skipped.
        most: How many to load.
        folder: Where to put the files that are fetched.

    Raises:
        UserError: The champion has no model.
    """
    for candidate in queue:
        place, name = folder / str(candidate.trial), f"trial {candidate.trial}"
        place.mkdir()
        try:
            predict = candidate.find().load_quick(place, models.purpose.schema)
        except Exception as error:
            if not models.ready:
                raise
            if not isinstance(error, UserError):
                reason = masked(first_line(error))
                print(f"mnist_sweep: {name} cannot be loaded: {reason}", file=sys.stderr)
            continue
        models.loaded.append(LoadedModel(name, candidate.about, predict))
        if len(models.loaded) == most:
            break
    models.complete = True
