"""Chooses Keras's backend for a new sweep (`training.backend=auto`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_sweep.config import backend
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.workers.devices import jax_finds_gpu, visible_gpus


def with_backend(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config that names its backend.

    JAX is chosen if there is a GPU that JAX can use, and the config defines the model: user code may be written for
    TensorFlow. It is also chosen if TensorFlow is not installed. The sweep keeps its backend when it is resumed.

    Args:
        config: The config of a new sweep, checked.
    """
    if backend.of(config) != backend.AUTO:
        return config
    return {**config, "training": {**config["training"], "backend": _chosen(config)}}


def _chosen(config: Mapping[str, Any]) -> str:
    if not backend.is_installed("jax"):
        return "tensorflow"
    if not backend.is_installed("tensorflow"):
        return "jax"
    on_gpu = config["workers"]["devices"] != "cpu" and bool(visible_gpus())
    return "jax" if on_gpu and made_by(config["model"]) is None and jax_finds_gpu() else "tensorflow"
