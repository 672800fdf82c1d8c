"""Gets data from a user's function (`data=loader`).

The function runs in a process of its own, which ends when its arrays are in files or its stream was read: it may import
TensorFlow, which the driver must not.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.text import one_line
from mnist_sweep.data.dataset import LoadedData, PartName, open_rows, write_rows
from mnist_sweep.data.loader_function import setting
from mnist_sweep.data.schema import Schema, TargetKind
from mnist_sweep.data.stream import Stream

# The files of such a process.
_JOB, _ANSWER, _OUTPUT, _PROGRESS, _GROUPS = "job.json", "answer.json", "output.log", "progress.txt", "groups.npy"
_PARTS: tuple[PartName, ...] = ("train", "val", "test")
_LOOK = 0.1
# Seconds after which a terminal shows how far it is.
_SHOWN_AFTER = 2.0


@dataclass(frozen=True)
class Job:
    """What a process is to load.

    Attributes:
        loader: The function, `package.module:function`.
        options: The group `data`, by key.
        wanted: The kind of target that the task needs; None to tell it from the data.
    """

    loader: str
    options: Mapping[str, Any]
    wanted: TargetKind | None


class _LoaderError(Exception):
    """What the process of a function has printed."""


def load(options: Mapping[str, Any], wanted: TargetKind | None, code: Path | None = None) -> LoadedData:
    """Calls a user's function in a process of its own.

    Args:
        options: The group `data`, by key.
        wanted: The kind of target that the task needs; None to tell it from the data.
        code: A folder from which the process can import modules besides; None if there is none.

    Raises:
        UserError: The function cannot be imported, fails, or returns something that no model can be trained on.
    """
    job = Job(options["loader"], options, wanted)
    # Deleted while its arrays are still mapped into memory, which keeps them.
    with tempfile.TemporaryDirectory(prefix="mnist_sweep-loader-") as name:
        folder = Path(name)
        write_whole(folder / _JOB, json.dumps([job.loader, dict(job.options), job.wanted]), flush=False)
        _run(job, folder, code)
        return _read(job, folder)


def _run(job: Job, folder: Path, code: Path | None) -> None:
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    paths = [os.getcwd(), *([] if code is None else [str(code.absolute())]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if importlib.util.find_spec("tensorflow") is None:
        environment["KERAS_BACKEND"] = "jax"
    command = [sys.executable, "-m", "mnist_sweep.data.loader_process", str(folder)]
    with (folder / _OUTPUT).open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        _wait(process, folder)
    finally:
        process.kill()
        process.wait()
    if not (folder / _ANSWER).exists():
        lines = _text(folder / _OUTPUT).strip().splitlines()
        code_ = process.returncode
        how = f"was killed by signal {-code_}" if code_ < 0 else f"ended with code {code_}"
        said = f" ({one_line(lines[-1])})" if lines else ""
        raise UserError(f"{setting(job.loader)}: its process {how}{said}")


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    began, shown = time.monotonic(), ""
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)
        text = _text(folder / _PROGRESS)
        if text and text != shown and sys.stderr.isatty() and time.monotonic() - began > _SHOWN_AFTER:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
            shown = text
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


# ---- what the process writes ------------------------------------------------------------------------------------


def job_in(folder: Path) -> Job:
    """Returns what a process is to load."""
    return Job(*json.loads((folder / _JOB).read_text()))


def tell(folder: Path, text: str) -> None:
    """Shows how far a process is."""
    with contextlib.suppress(OSError):
        write_whole(folder / _PROGRESS, text, flush=False)


def refuse(folder: Path, error: UserError) -> None:
    """Answers that the data cannot be used."""
    _answer(folder, {"error": str(error)})


def write(folder: Path, data: LoadedData) -> None:
    """Writes what a process has loaded.

    Raises:
        OSError: It cannot be written.
    """
    for part, rows in _rows(data):
        write_rows(folder, part, rows)
    if data.groups is not None:
        np.save(folder / _GROUPS, data.groups, allow_pickle=False)
    _answer(
        folder,
        {
            "schema": data.schema.to_json(),
            "parts": [part for part, _ in _rows(data)],
            "ordered": data.ordered,
            "notes": data.notes,
            "stream": None if data.stream is None else data.stream.to_json(),
        },
    )


def _rows(data: LoadedData) -> Iterator[tuple[PartName, Any]]:
    for part, rows in zip(_PARTS, (data.train, data.validation, data.test), strict=True):
        if rows is not None:
            yield part, rows


def _answer(folder: Path, answer: dict[str, Any]) -> None:
    write_whole(folder / _ANSWER, json.dumps(answer), flush=False)


def _read(job: Job, folder: Path) -> LoadedData:
    answer = json.loads((folder / _ANSWER).read_text())
    if "error" in answer:
        # With the process's own traceback, for --debug.
        raise UserError(answer["error"]) from _LoaderError(_text(folder / _OUTPUT))
    schema = Schema.from_json(answer["schema"])
    rows = {part: open_rows(folder, schema, part) for part in _PARTS if part in answer["parts"]}
    groups = folder / _GROUPS
    return LoadedData(
        "loader",
        job.loader,
        schema,
        rows["train"],
        rows.get("test"),
        rows.get("val"),
        np.load(groups, allow_pickle=False) if groups.exists() else None,
        answer["ordered"],
        notes=tuple(answer["notes"]),
        stream=None if answer["stream"] is None else Stream.from_json(answer["stream"]),
    )
