"""Decodes and preprocesses images in a separate process, which can be killed.

A malicious image can take any amount of time and memory to decode, and the decoders are written in C. So this happens
in a process with limited memory, and an alarm kills the process if one image takes too long. The two processes
exchange only JSON and plain numbers, never Python objects.

`python -m mnist_sweep.results.models.image_decoder FD` is that process. It ends when the other end of the socket FD is
closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import kind_and_line, one_line, printable
from mnist_sweep.data.pictures import How, Resize
from mnist_sweep.data.profile import Drawing, Profile
from mnist_sweep.results.models import image_files
from mnist_sweep.results.models.preprocessing import Prepared, prepare

Shape = tuple[int, int, int]

# The largest image takes half of it.
_MEMORY = 2 * 2**30
_SECONDS_TO_START = 60.0
# How much longer to wait than the alarm, which a stopped process does not get.
_SECONDS_MORE = 2.0


class DecodingError(Exception):
    """An image could not be read.

    Attributes:
        status: The HTTP status: 400 or 422 for a bad image, 500 for a bug, 503 while the server is shutting down.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


# ---- the parent process -----------------------------------------------------------------------------------------


class ImageDecoder:
    """Reads images, one at a time, in a process that is replaced when it ends.

    One thread at a time may use it; `close` may be called from another.
    """

    def __init__(self, seconds: float) -> None:
        """Starts the process without waiting for it.

        Args:
            seconds: How long one image may take.
        """
        self._seconds = seconds
        self._closed = False
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills the process."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def read_file(self, path: Path, shape: Shape, profile: Profile | None, resize: Resize | None = None) -> Prepared:
        """Reads an image file, as `image_files.read` and `prepare` do.

        Args:
            path: The file.
            shape: As for `prepare`.
            profile: As for `prepare`.
            resize: As for `prepare`.

        Raises:
            UserError: The file cannot be read, is too large, or takes too long.
        """
        try:
            return self._ask({"file": str(path)}, f"{printable(str(path))}:", b"", shape, profile, resize)
        except DecodingError as error:
            raise UserError(str(error)) from None

    def read_body(
        self, kind: str, body: bytes, shape: Shape, profile: Profile | None, resize: Resize | None = None
    ) -> Prepared:
        """Reads an image from a request, as `body_decoder.decode` and `prepare` do.

        Args:
            kind: The body's content type.
            body: The body.
            shape: As for `prepare`.
            profile: As for `prepare`.
            resize: As for `prepare`.

        Raises:
            DecodingError: The body is not an image, or one that is too large or takes too long.
        """
        return self._ask({"kind": kind}, "the image", body, shape, profile, resize)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mnist_sweep.results.models.image_decoder", str(theirs.fileno())],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for this process, which then closes the socket.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._ready = False

    def _ask(
        self,
        job: dict[str, Any],
        subject: str,
        content: bytes,
        shape: Shape,
        profile: Profile | None,
        resize: Resize | None,
    ) -> Prepared:
        if self._process.poll() is not None and not self._closed:
            # Something killed it while it was idle.
            self._start()
        drawing = asdict(profile.drawing) if profile is not None and profile.drawing is not None else None
        job |= {"subject": subject, "seconds": self._seconds}
        job |= {"shape": shape, "profiled": profile is not None, "drawing": drawing, "resize": resize}
        try:
            if not self._ready:
                self._receive(_SECONDS_TO_START)
                self._ready = True
            self._connection.send_bytes(json.dumps(job).encode())
            self._connection.send_bytes(content)
            answer = json.loads(self._receive(self._seconds + _SECONDS_MORE))
            pixels = self._receive(self._seconds)
        except (EOFError, OSError) as error:
            raise self._replaced(error, subject) from None
        if "error" in answer:
            raise DecodingError(answer["status"], one_line(answer["error"]))
        image = np.frombuffer(pixels, dtype=np.float32).reshape(shape)
        return Prepared(image, answer["notes"], answer["doubts"])

    def _receive(self, seconds: float) -> bytes:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv_bytes()

    def _replaced(self, error: Exception, subject: str) -> DecodingError:
        """Replaces a process that has ended or hangs, and returns what that means for the image."""
        if self._closed:
            return DecodingError(503, "the server is shutting down")
        self._process.kill()
        code = self._process.wait()
        if not self._ready:
            return DecodingError(500, f"the process that reads images did not start (exit code {code})")
        self._start()
        if code == -signal.SIGALRM or isinstance(error, TimeoutError):
            return DecodingError(422, f"{subject} takes more than {self._seconds:g} s to read")
        return DecodingError(422, f"{subject} cannot be read (the process that opened it ended with code {code})")


# ---- the child process ------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Answers until the other end of the socket is closed."""
    # Imported before the first image needs them.
    from scipy import ndimage  # noqa: F401

    from mnist_sweep.results.models.serve import body_decoder  # noqa: F401

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # macOS does not have this limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    connection = Connection(descriptor)
    # The other end may be closed in the middle of a message.
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(b"ready")
        while True:
            job, content = json.loads(connection.recv_bytes()), connection.recv_bytes()
            # The system's alarm, as Python's could not interrupt code in C.
            signal.setitimer(signal.ITIMER_REAL, job["seconds"])
            answer, image = _answer(job, content)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(answer).encode())
            connection.send_bytes(image)


def _answer(job: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    from mnist_sweep.results.models.serve import body_decoder

    try:
        shape, resize = tuple(job["shape"]), job["resize"]
        how = None if resize is None else How(shape[0], shape[1], shape[2] == 1, resize, exact=False)
        of_file = "file" in job
        given = image_files.read(Path(job["file"]), how) if of_file else body_decoder.decode(job["kind"], content, how)
        drawing = Drawing(**job["drawing"]) if job["drawing"] is not None else None
        prepared = prepare(given, shape, Profile(drawing) if job["profiled"] else None, resize)
    except body_decoder.NotJsonError as error:
        return {"error": str(error), "status": 400}, b""
    except (UserError, image_files.UnreadableError) as error:
        return {"error": str(error), "status": 422}, b""
    except MemoryError:
        return {"error": f"{job['subject']} takes too much memory to read", "status": 422}, b""
    except Exception as error:
        return {"error": f"{job['subject']} cannot be read (unexpected {kind_and_line(error)})", "status": 500}, b""
    return {"notes": prepared.notes, "doubts": prepared.doubts}, prepared.image.tobytes()


if __name__ == "__main__":
    main(int(sys.argv[1]))
