"""Finds the config key that a user meant: by its last part, by its usual names elsewhere, or by its spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mnist_sweep.common.invocation import command

# What keras-tuner, Optuna, scikit-learn, PyTorch and people call our keys, without underscores and plural endings.
_ALIASES = {
    name: keys.split()
    for names, keys in (
        ("lr rate stepsize", "optimizer.learning_rate"),
        ("opt optim", "optimizer.name"),
        ("decay weightdecay wd momentum beta1 beta2 nesterov clipnorm clipvalue rho epsilon", "optimizer.arguments"),
        ("scheduler lrschedule", "optimizer.schedule"),
        ("epoch nepoch numepoch maxepoch", "training.epochs"),
        ("batch bs minibatch", "training.batch_size"),
        ("patience earlystop", "training.early_stopping.patience"),
        ("depth nlayer numlayer hiddenlayer numhiddenlayer", "model.layers"),
        ("hidden hiddenunit hiddensize hiddendim width neuron node nunit numunit", "model.units model.dense.units"),
        ("kernel channel nfilter numfilter", "model.filters"),
        ("act activationfunction nonlinearity", "model.activation"),
        ("drop dropoutrate dropoutprob", "model.dropout"),
        ("regularization regularizer regularisation l2reg", "model.l2"),
        ("batchnorm bn", "model.batch_normalization"),
        ("buildmodel hyperparameter", "model.hypermodel"),
        ("buildfn modelfn", "model.builder"),
        ("trial ntrial numtrial maxtrial numsample maxeval iteration niter", "search.max_trials"),
        ("time timeout maxtime duration", "search.time_budget"),
        ("algorithm algo sampler strategy tuner method", "search"),
        ("metric monitor score direction mode goal", "objective"),
        ("worker nworker numworker njob job process cpu parallel parallelism core", "workers.count"),
        ("gpu device", "workers.devices"),
        ("randomseed randomstate rng", "seed"),
        ("dataset", "data"),
        ("datapath file npz datafile", "data.path"),
        ("valsplit validation valsize validationsize", "data.validation_split"),
        ("cv nfold kfold nsplit", "folds"),
        ("runname experimentname project", "name"),
        ("trackinguri mlflowuri mlflow", "tracking.uri"),
    )
    for name in names.split()
}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Describes an unknown key, and suggests the one that was meant.

    Args:
        key: The key, dotted, as the user wrote it.
        known: The valid keys, dotted; some or all of them.

    Returns:
        A message such as `lr: unknown key; did you mean 'optimizer.learning_rate'?`. If no key is similar, it lists
        the keys of the same group, or says how to list all.
    """
    keys = list(dict.fromkeys(known))
    near = nearest(key, keys)
    if near == _ALIASES.get(_bare(key)) == ["optimizer.arguments"] and "arguments" not in key:
        near = [f"+optimizer.arguments.{key.rpartition('.')[2]}"]
    if near:
        return f"{key}: unknown key; did you mean {' or '.join(map(repr, near))}?"
    group = key.rpartition(".")[0]
    beside = [k for k in keys if k.rpartition(".")[0] == group] if group else []
    if beside:
        return f"{key}: unknown key; {group} has the keys {', '.join(k.rpartition('.')[2] for k in beside)}"
    return f"{key}: unknown key; to list all keys: {command('--cfg job')}"


def nearest(key: str, known: list[str]) -> list[str]:
    """Returns the keys that the user most likely meant: one, several with the same last part, or none.

    Args:
        key: The key, dotted.
        known: The valid keys, dotted.
    """
    group, _, last = key.rpartition(".")
    if group in known and not any(k.startswith(f"{group}.") for k in known):
        # The group is a single value here, as `objective` is.
        return [group]
    same = same_end(key, known)
    inside = [k for k in same if group and k.startswith(f"{group}.")]
    if inside or same:
        highest = min(k.count(".") for k in inside or same)
        return [k for k in inside or same if k.count(".") == highest][:3]
    others = [k for k in _ALIASES.get(_bare(last), ()) if k in known or _of_another_group(k, known)]
    return others[:1] or _spelt_alike(key, known)


def same_end(key: str, known: Iterable[str]) -> list[str]:
    """Returns the keys with the same last part, whatever its case, underscores and plural ending."""
    return [k for k in known if _bare(k) == _bare(key)]


def nested_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of a nested mapping, a group before its keys."""
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        yield f"{prefix}{name}"
        yield from nested_keys(value, f"{prefix}{name}.")


def _spelt_alike(key: str, known: list[str]) -> list[str]:
    """Returns the key that is spelt most similarly, as a whole or in its last part."""
    lower = {k.lower(): k for k in known}
    ends = {k.rpartition(".")[2]: k for k in reversed(lower) if k.startswith(key.lower().rpartition(".")[0])}
    end = key.lower().rpartition(".")[2]
    whole = difflib.get_close_matches(key.lower(), list(lower), n=1, cutoff=0.75)
    whole = [k for k in whole if difflib.SequenceMatcher(None, k.rpartition(".")[2], end).ratio() >= 0.6]
    part = [ends[name] for name in difflib.get_close_matches(end, list(ends), n=1, cutoff=0.65)]
    return [lower[k] for k in (whole or part)]


def _of_another_group(key: str, known: list[str]) -> bool:
    """Whether `known` lists only the keys of one group, and the key belongs to another."""
    return key.partition(".")[0] not in {k.partition(".")[0] for k in known}


def _bare(key: str) -> str:
    return key.rpartition(".")[2].lower().replace("_", "").replace("-", "").removesuffix("s")
