"""The names of the files in a sweep's folder."""

from __future__ import annotations

from pathlib import Path

from mnist_sweep.common.files import PARTIAL, remove, remove_folder

# In the sweep's folder.
FILE = "journal.jsonl"
LOCK = "lock"
LOG = "driver.log"
# Hydra's copies of the config.
CONFIGS = ".hydra"
# The workers' output.
WORKERS = "workers"
# The copy of the data that the workers map into memory while a sweep runs.
ARRAYS = "arrays"

# In a trial's folder.
MODEL_FILE = "model.h5"
SAMPLE_FILE = "sample_predictions.npz"
DETAILS_FILE = "test_details.npz"
PROFILE_FILE = "data_profile.npz"
STATE_FILE = "state.npz"
EXECUTION_FILE = "execution.json"
# The model as an MLflow model.
PACKAGE = "package"


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial's files lie while its sweep runs.

    Args:
        sweep: The sweep's folder.
        number: The trial.
    """
    return sweep / "trials" / f"{number:04d}"


def execution_folder(trial: Path, execution: int) -> Path:
    """Where the files of one of a trial's executions lie.

    Args:
        trial: The trial's folder, which is also that of its first execution.
        execution: Counted from 1.
    """
    return trial if execution == 1 else trial / f"execution_{execution}"


def forget(trial: Path) -> None:
    """Deletes what an ended trial needs no more: the states of its executions, and all but its first one's other files.

    What is left is its model, the sample of predictions, and what its test told. No trial can go on from it, nor can
    it be resumed.

    Args:
        trial: The trial's folder; it need not exist.
    """
    for name in (STATE_FILE, EXECUTION_FILE):
        remove(trial / name)
    for folder in trial.glob("execution_*/"):
        remove_folder(folder, (MODEL_FILE, SAMPLE_FILE, STATE_FILE, EXECUTION_FILE, f"{PARTIAL}*"))
