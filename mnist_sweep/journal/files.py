"""The names of the files in a sweep's folder."""

from __future__ import annotations

from pathlib import Path

from mnist_sweep.common.files import PARTIAL, remove, remove_folder

# In the sweep's folder.
FILE = "journal.jsonl"
LOCK = "lock"
LOG = "driver.log"
# Where `steer` reaches the process that runs the sweep.
SOCKET = "steer.sock"
# What each slot uses, for the live page, while a sweep runs.
SLOTS = "slots.json"
# Hydra's copies of the config.
CONFIGS = ".hydra"
# The workers' output.
WORKERS = "workers"
# The copy of the data that the workers map into memory while a sweep runs.
ARRAYS = "arrays"
# The programs that JAX has compiled, which the workers share while a sweep runs.
COMPILED = "compiled"

# What a sweep from Python carries: its arrays, and the modules with the functions that were defined for it.
DATA = "data.npz"
CODE = "code"

# In a trial's folder.
MODEL_FILE = "model.h5"
SAMPLE_FILE = "sample_predictions.npz"
DETAILS_FILE = "test_details.npz"
PROFILE_FILE = "data_profile.npz"
STATE_FILE = "state.npz"
EXECUTION_FILE = "execution.json"
# The model as an MLflow model.
PACKAGE = "package"


def code_folder(sweep: Path) -> Path | None:
    """Returns the folder of the modules that a sweep carries; None if it carries none."""
    return sweep / CODE if (sweep / CODE).is_dir() else None


def trial_folder(sweep: Path, number: int) -> Path:
    """Returns the folder of a trial's files while its sweep runs."""
    return sweep / "trials" / f"{number:04d}"


def execution_folder(trial: Path, execution: int) -> Path:
    """Returns the folder of an execution, counted from 1; that of the first one is the trial's."""
    return trial if execution == 1 else trial / f"execution_{execution}"


def forget(trial: Path) -> None:
    """Deletes what an ended trial no longer needs: the states of its executions, and the files of all but the first.

    Its model, its sample of predictions and the results of its test are kept. No trial can continue from it any more,
    nor can it be resumed.

    Args:
        trial: The trial's folder; it need not exist.
    """
    for name in (STATE_FILE, EXECUTION_FILE):
        remove(trial / name)
    for folder in trial.glob("execution_*/"):
        remove_folder(folder, (MODEL_FILE, SAMPLE_FILE, STATE_FILE, EXECUTION_FILE, f"{PARTIAL}*"))
