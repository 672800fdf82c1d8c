"""Calls a user's function that returns data: `python -m mnist_sweep.data.loader_process FOLDER`.

`loader.py` starts it.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import kind_and_line
from mnist_sweep.data import loader, loader_function, returned, stream_scan
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.loader import Job

# What a function gets for its parameter `batch_size`.
_BATCH_SIZE = 32


def main(folder: Path) -> None:
    """Does the job in a folder, and writes the answer there."""
    threading.Thread(target=_end_with_driver, daemon=True).start()
    job = loader.job_in(folder)
    try:
        loader.write(folder, _load(job, folder))
    except UserError as error:
        loader.refuse(folder, error)
    except MemoryError:
        loader.refuse(
            folder, UserError(f"{loader_function.setting(job.loader)}: needs more memory than this machine has")
        )
    except OSError as error:
        loader.refuse(folder, UserError(f"{loader_function.setting(job.loader)}: {kind_and_line(error)}"))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of user code would keep this process alive.
    os._exit(0)


def _load(job: Job, folder: Path) -> LoadedData:
    function = loader_function.find(job.loader, loader_function.plain_import)
    arguments = job.options["arguments"]
    where = loader_function.setting(job.loader)
    # So that a function that draws rows at random draws the same ones each time.
    loader_function.seed(0)
    value = loader_function.call(function, job.loader, arguments, _BATCH_SIZE)
    parts = returned.streams(value, where)
    if parts is None:
        return returned.load(value, where, job.options, job.wanted)
    try:
        return stream_scan.scan(
            parts,
            job.loader,
            arguments,
            stream_scan.Options.of(job.options),
            job.wanted,
            takes_batch_size=loader_function.takes_batch_size(function, arguments),
            tell=partial(loader.tell, folder),
        )
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise loader_function.failed(job.loader, "its stream raised", error) from error


def _end_with_driver() -> None:
    """Ends this process when the driver does, which closes its standard input."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
