"""What the report says in words: what the sweep was, and what won."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_sweep.errors import UserError
from mnist_sweep.mlflow_store import TAG_CONFIRMS, TAG_REASON, TAG_STATUS, TAG_TRIAL, TAG_WINNER
from mnist_sweep.progress import duration, shown
from mnist_sweep.results.models import TrackedModel
from mnist_sweep.results.runs import SweepRuns
from mnist_sweep.settings import Objective, seconds

_ALGORITHMS = {
    "random": "independent draws",
    "grid": "every combination once",
    "tpe": "draws where good trials were, not bad ones (tree-structured Parzen estimator)",
    "gp": "a Gaussian process predicts the score of untried settings, and the most promising is tried",
    "cmaes": "the evolution strategy CMA-ES",
    "asha": "stops a trial early unless it is among the best after the same number of epochs (successive halving)",
    "median": "stops a trial that is worse than the median of the others after the same number of epochs",
    "hyperband": "rounds of short trials, of which the best train on",
    "bayesian": "a Gaussian process predicts the score of untried settings, and the most promising is tried",
    "pbt": "population based training: bad trials go on from copies of good ones, with changed hyperparameters",
    "nsga2": "a genetic algorithm for several objectives",
    "none": "nothing is searched: one run",
}
_STATUS = {
    "completed": "trained to the last epoch, or until it no longer got better",
    "stopped": "stopped before that: by the search, or because the budget was used up",
    "failed": "has no result",
    "refused": "not trained: its model would exceed the limits",
    "running": "still trains",
}
_MEASURES = {
    "val_accuracy": "the part of the validation images that a model gets right",
    "val_loss": "how wrong a model's probabilities are on the validation images",
    "accuracy": "the part of the training images that a model gets right",
    "loss": "how wrong a model's probabilities are on the training images",
    "epoch_seconds": "the seconds that an epoch takes",
    "parameters": "the number of a model's weights",
    "latency": "the seconds that one prediction takes",
}


@dataclass(frozen=True)
class Fact:
    """One thing to know of a sweep: what it is, and what it is called in full."""

    label: str
    text: str
    note: str = ""
    code: bool = False


@dataclass(frozen=True)
class Winner:
    """The best trial.

    Attributes:
        trial: Its number.
        scores: What it scored, on which images.
        story: How it was found to be the best.
        values: Its hyperparameters: those that were searched.
        others: The rest of its parameters.
        run: The MLflow run whose model is the sweep's.
    """

    trial: int
    scores: list[Fact]
    story: str
    values: dict[str, str]
    others: dict[str, str]
    run: TrackedModel


@dataclass(frozen=True)
class Candidate:
    """A trial whose setting was trained anew: its score by seed, their mean and standard deviation."""

    trial: int
    mean: str
    std: str
    scores: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """What the report says in words.

    Attributes:
        name: The experiment's.
        sweep: `name/time`.
        status: How the sweep stands.
        reason: Why it ended.
        description: The user's.
        warning: That the data are not those that were asked for; else empty.
        facts: What the sweep was.
        space: The domain of each hyperparameter, as text.
        versions: Of the packages, the git commit, the seed.
        statuses: What the statuses that occur mean.
        winner: None where no trial has a score.
        candidates: The trials whose settings were trained anew, the best first.
        seeds: On which.
        commands: What to do with the sweep next, and what for.
    """

    name: str
    sweep: str
    status: str
    reason: str
    description: str
    warning: str
    facts: list[Fact]
    space: dict[str, str]
    versions: dict[str, str]
    statuses: dict[str, str]
    winner: Winner | None
    candidates: list[Candidate]
    seeds: list[str]
    commands: list[tuple[str, str]]


def content(found: SweepRuns, frame: pd.DataFrame, folder: Path) -> Content:
    """Gathers what the report says.

    Args:
        found: The sweep.
        frame: Its trials, as `load_runs` gives them.
        folder: Where to put the files that are fetched for it.
    """
    params, tags = found.parent.data.params, found.parent.data.tags
    status = tags.get(TAG_STATUS, "running")
    confirmed = _confirmed(found, folder)
    winner = _winner(found, frame, confirmed)
    anew = list(dict.fromkeys(seed for row in confirmed.get("candidates", ()) for seed in row["scores"]))
    return Content(
        name=found.sweep.partition("/")[0],
        sweep=found.sweep,
        status=status,
        reason=tags.get(TAG_REASON, "") if status != "running" else "",
        description=_given(params, "description"),
        warning=_warning(tags),
        facts=_facts(found, frame),
        space=space(found),
        versions=_versions(found),
        statuses={s: _STATUS[s] for s in _STATUS if s in set(frame["status"])},
        winner=winner,
        candidates=[
            Candidate(
                row["trial"],
                f"{row['mean']:.4f}",
                f"{row['std']:.4f}",
                {s: f"{v:.4f}" for s, v in row["scores"].items()},
            )
            for row in confirmed.get("candidates", ())
        ],
        seeds=anew,
        commands=_commands(found.sweep, status, winner),
    )


def space(found: SweepRuns) -> dict[str, str]:
    """The domain of each hyperparameter that a sweep searched, as text."""
    params = found.parent.data.params
    return {key.removeprefix("space."): value for key, value in params.items() if key.startswith("space.")}


def measure(objective: Objective) -> str:
    """What an objective is, in words."""
    better = "larger" if objective.direction == "max" else "smaller"
    known = _MEASURES.get(objective.name)
    return f"{known}; {better} is better" if known else f"{better} is better"


def _given(params: dict[str, str], key: str) -> str:
    value = params.get(key, "None")
    return "" if value in ("None", "[]", "{}") else value


def _warning(tags: dict[str, str]) -> str:
    wanted = tags.get("data.fallback_for")
    if not wanted:
        return ""
    return f"data={wanted} could not be downloaded: this sweep used the digits of {tags.get('data.name')} instead."


# ---- what the sweep was ---------------------------------------------------------------------------------------------


def _facts(found: SweepRuns, frame: pd.DataFrame) -> list[Fact]:
    params, tags = found.parent.data.params, found.parent.data.tags
    trials = frame[frame["confirms"].isna()]
    counts = trials["status"].value_counts()
    count = f"{len(trials):,} trial{'' if len(trials) == 1 else 's'}"
    each = ", ".join(f"{counts[s]:,} {s}" for s in _STATUS if s in counts)
    anew = len(frame) - len(trials)
    more = f"; {anew} more to train the best anew" if anew else ""
    objectives = found.objectives
    facts = [
        Fact("Data", *_data(tags)),
        Fact("Objective" if len(objectives) == 1 else "Objectives", ", ".join(o.name for o in objectives),
             "; ".join(measure(o) for o in objectives) if len(objectives) == 1
             else "; ".join(f"{o.name}: {measure(o)}" for o in objectives)),
        Fact("Search", *_search(params)),
        Fact("Budget", *_budget(found)),
        Fact("Ran", count, each + more),
        Fact("Took", *_time(found, frame)),
    ]  # fmt: skip
    return [fact for fact in facts if fact.text]


def _data(tags: dict[str, str]) -> tuple[str, str]:
    sizes = [
        f"{int(tags[f'data.{part}_images']):,} {part}"
        for part in ("training", "validation", "test")
        if tags.get(f"data.{part}_images", "").isdigit()
    ]
    about = []
    if sizes:
        image = tags.get("data.image", "").replace("x", "×")
        about.append(f"{', '.join(sizes)} images of {image}, {tags.get('data.classes', '?')} classes")
    # Runs are comparable where this is the same.
    about.append(f"digest {tags.get('data.digest', 'not known')}")
    return tags.get("data.name", "not known"), "; ".join(about)


def _search(params: dict[str, str]) -> tuple[str, str]:
    algorithm = _given(params, "search.algorithm") or _given(params, "search._target_")
    sampler = _given(params, "search.sampler")
    about = _ALGORITHMS.get(algorithm, "")
    if sampler:
        proposes = _ALGORITHMS.get(sampler, "")
        about = f"{sampler} proposes the settings: {proposes}; {algorithm} {about}"
    return f"{algorithm} on {sampler}" if sampler else algorithm, about


def _budget(found: SweepRuns) -> tuple[str, str]:
    params = found.parent.data.params
    trials, time, target = (_given(params, f"search.{key}") for key in ("max_trials", "time_budget", "target"))
    limits = [
        f"{trials} trial{'' if trials == '1' else 's'}" if trials else "",
        duration(seconds(time)) if time else "",
        f"{found.objective.name} of {target}" if target else "",
    ]
    how = []
    if _given(params, "validation") == "kfold":
        how.append(f"each trial is the mean of {params.get('folds')} folds of the training images")
    if int(params.get("repeats", "1")) > 1:
        how.append(f"each trial is the mean of {params['repeats']} seeds")
    epochs = _given(params, "training.epochs")
    if epochs.isdigit():
        how.append(f"at most {epochs} epochs a trial")
    given = [limit for limit in limits if limit]
    if len(given) > 1:
        how.insert(0, "whichever comes first")
    return " or ".join(given) or "until everything is tried", "; ".join(how)


def _time(found: SweepRuns, frame: pd.DataFrame) -> tuple[str, str]:
    start, end = found.parent.info.start_time, found.parent.info.end_time
    began = pd.Timestamp(start, unit="ms", tz="UTC")
    note = f"began {began:%Y-%m-%d %H:%M} UTC"
    trained = frame["seconds"].sum()
    if trained:
        note += f"; all trials together {duration(float(trained))}"
    return (duration((end - start) / 1000) if end else "not yet ended"), note


def _versions(found: SweepRuns) -> dict[str, str]:
    tags, params = found.parent.data.tags, found.parent.data.params
    listed = {key.removeprefix("version."): value for key, value in tags.items() if key.startswith("version.")}
    more = {
        "commit": tags.get("mlflow.source.git.commit", ""),
        "seed": _given(params, "seed"),
        "MLflow run": found.parent.info.run_id,
    }
    return listed | {key: value for key, value in more.items() if value}


# ---- what won -------------------------------------------------------------------------------------------------------


def _confirmed(found: SweepRuns, folder: Path) -> dict[str, Any]:
    path = fetched(TrackedModel(found.client, found.parent), "confirmed.json", folder)
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path else {}
    return about


def _shown(scores: dict[str, float]) -> dict[str, str]:
    return {seed: f"{score:.4f}" for seed, score in scores.items()}


def fetched(model: TrackedModel, name: str, folder: Path) -> Path | None:
    """One of a run's artifacts; None where it has none of that name."""
    listed = {artifact.path for artifact in model.client.list_artifacts(model.run.info.run_id)}
    return model.fetch(name, folder) if name in listed else None


def _winner(found: SweepRuns, frame: pd.DataFrame, confirmed: dict[str, Any]) -> Winner | None:
    try:
        run = found.winner()
    except UserError:
        return None
    number = int(run.data.tags.get(TAG_CONFIRMS, run.data.tags[TAG_TRIAL]))
    row = frame[frame["trial"] == number].iloc[0]
    searched = space(found)
    values = {name: shown(row[f"params.{name}"]) for name in searched if _has(row, f"params.{name}")}
    others = {
        key.removeprefix("params."): shown(row[key])
        for key in row.index
        if key.startswith("params.") and key.removeprefix("params.") not in searched and _has(row, key)
    }
    story = _story(found, frame, confirmed, number, TAG_WINNER in found.parent.data.tags)
    return Winner(number, _winning_scores(found, row), story, values, others, TrackedModel(found.client, run))


def _has(row: pd.Series[Any], key: str) -> bool:
    return key in row.index and not pd.isna(row[key])


def _winning_scores(found: SweepRuns, row: pd.Series[Any]) -> list[Fact]:
    first, *others = found.objectives
    best, anew = f"metrics.best_{first.name}", f"metrics.confirmed_{first.name}"
    images = "validation images" if first.name.startswith("val_") else ""
    facts = []
    if _has(row, best):
        spread = f" ± {row[f'{best}_std']:.4f}" if _has(row, f"{best}_std") else ""
        note = "what it was chosen by; the best of many is always a little lucky"
        facts.append(Fact(first.name, f"{row[best]:.4f}{spread}", f"{images}: {note}" if images else note))
    if _has(row, anew):
        spread = f" ± {row[f'{anew}_std']:.4f}" if _has(row, f"{anew}_std") else ""
        facts.append(
            Fact("on new seeds", f"{row[anew]:.4f}{spread}", "its setting trained anew: mean ± standard deviation")
        )
    for objective in others:
        if _has(row, f"metrics.best_{objective.name}"):
            value = float(row[f"metrics.best_{objective.name}"])
            text = f"{int(value):,}" if value.is_integer() and value >= 1000 else shown(value)
            facts.append(Fact(objective.name, text, _MEASURES.get(objective.name, "")))
    if _has(row, "metrics.test_accuracy"):
        note = "test images, which only the winner has seen: what to expect of new digits like these"
        facts.append(Fact("test_accuracy", f"{row['metrics.test_accuracy']:.4f}", note))
    return facts


def _story(found: SweepRuns, frame: pd.DataFrame, confirmed: dict[str, Any], number: int, tested: bool) -> str:
    name = found.objective.name
    candidates = confirmed.get("candidates", [])
    if not candidates or candidates[0]["trial"] != number:
        if not tested:
            return f"The best {name} so far; the sweep has not tested it yet."
        return f"It has the best {name} of all trials." if len(frame) > 1 else ""
    first = candidates[0]
    text = f"The best settings were trained anew on new seeds, and trial {number} has the best mean"
    if len(candidates) > 1:
        second = candidates[1]
        text += f", {abs(first['mean'] - second['mean']):.4f} before trial {second['trial']}"
    p_value = confirmed.get("p_value")
    if p_value is not None:
        verdict = "that may well be chance" if p_value >= 0.05 else "that is hardly chance"
        text += f". A paired t-test gives p = {p_value:.2g}: {verdict}"
    return f"{text}."


def _commands(sweep: str, status: str, winner: Winner | None) -> list[tuple[str, str]]:
    found = []
    if status in ("stopped", "failed"):
        found.append((f"python -m mnist_sweep resume {sweep}", "go on with the sweep"))
    if winner is not None:
        found.append((f"python -m mnist_sweep export {sweep} --to exported", "write its model to a folder"))
        found.append((f"python -m mnist_sweep serve {sweep}", "draw a digit, and see what it reads"))
    found.append(("python -m mnist_sweep ui", "see every run in MLflow"))
    return found
