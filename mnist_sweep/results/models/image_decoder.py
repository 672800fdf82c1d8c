"""Pictures read in a process of their own, which can be ended.

What a picture takes to decode and to prepare is decided by whoever made it, and the code that decodes it is C. So that
happens in a process with a limit on its memory, and an alarm that ends it where one picture takes too long. Between
the two go JSON and plain numbers, never Python objects.

`python -m mnist_sweep.results.models.image_decoder FD` is the process; it ends when the socket FD is closed at the
other end.
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
from mnist_sweep.data.profile import Drawing, Profile
from mnist_sweep.results.models import image_files
from mnist_sweep.results.models.image_files import Prepared

Shape = tuple[int, int, int]

# A picture of the most pixels takes half of it.
_MEMORY = 2 * 2**30
_SECONDS_TO_START = 60.0
# Beyond the alarm, which a process that was stopped does not get.
_SECONDS_MORE = 2.0


class RefusedError(Exception):
    """A picture was not read.

    Attributes:
        status: What HTTP calls it: 400 or 422 the picture is to blame, 500 the program, 503 it is ending.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


# ---- here -------------------------------------------------------------------------------------------------------


class PictureReader:
    """Reads pictures, one at a time, in a process that is replaced where it ends.

    Used by one thread at a time; `close` may come from another.
    """

    def __init__(self, seconds: float) -> None:
        """Starts the process, and does not wait for it.

        Args:
            seconds: What one picture may take.
        """
        self._seconds = seconds
        self._closed = False
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def read_file(self, path: Path, shape: Shape, profile: Profile | None) -> Prepared:
        """Reads a picture from a file, as `images.read` and `images.prepare` do.

        Args:
            path: The file.
            shape: As for `images.prepare`.
            profile: As for `images.prepare`.

        Raises:
            UserError: It cannot be read, is too large, or takes too long.
        """
        try:
            return self._ask({"file": str(path)}, f"{printable(str(path))}:", b"", shape, profile)
        except RefusedError as error:
            raise UserError(str(error)) from None

    def read_body(self, kind: str, body: bytes, shape: Shape, profile: Profile | None) -> Prepared:
        """Reads an image from a request, as `bodies.decode` and `images.prepare` do.

        Args:
            kind: The body's content type.
            body: The body.
            shape: As for `images.prepare`.
            profile: As for `images.prepare`.

        Raises:
            RefusedError: There is no image in it, it is too large, or takes too long.
        """
        return self._ask({"kind": kind}, "the picture", body, shape, profile)

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
        self, job: dict[str, Any], subject: str, content: bytes, shape: Shape, profile: Profile | None
    ) -> Prepared:
        if self._process.poll() is not None and not self._closed:
            # Killed while it had nothing to do, by the system say.
            self._start()
        drawing = asdict(profile.drawing) if profile is not None and profile.drawing is not None else None
        job |= {"subject": subject, "seconds": self._seconds}
        job |= {"shape": shape, "profiled": profile is not None, "drawing": drawing}
        try:
            if not self._ready:
                self._receive(_SECONDS_TO_START)
                self._ready = True
            self._connection.send_bytes(json.dumps(job).encode())
            self._connection.send_bytes(content)
            answer = json.loads(self._receive(self._seconds + _SECONDS_MORE))
            pixels = self._receive(self._seconds)
        except (EOFError, OSError) as error:
            raise self._after(error, subject) from None
        if "error" in answer:
            raise RefusedError(answer["status"], one_line(answer["error"]))
        image = np.frombuffer(pixels, dtype=np.float32).reshape(shape)
        return Prepared(image, answer["notes"], answer["doubts"])

    def _receive(self, seconds: float) -> bytes:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv_bytes()

    def _after(self, error: Exception, subject: str) -> RefusedError:
        """What an end of the process means; another has taken its place."""
        if self._closed:
            return RefusedError(503, "the server is ending")
        self._process.kill()
        code = self._process.wait()
        if not self._ready:
            return RefusedError(500, f"the process that reads pictures did not start (exit code {code})")
        self._start()
        if code == -signal.SIGALRM or isinstance(error, TimeoutError):
            return RefusedError(422, f"{subject} takes more than {self._seconds:g} s to read")
        return RefusedError(422, f"{subject} cannot be read (the process that opened it ended with code {code})")


# ---- there ------------------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Answers until the other end of the socket is closed."""
    from scipy import ndimage  # noqa: F401 - so that the first picture need not wait for it

    from mnist_sweep.results.models.serve import bodies  # noqa: F401

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # macOS has no such limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    connection = Connection(descriptor)
    # Also where the other end goes away in the middle of a message.
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(b"ready")
        while True:
            job, content = json.loads(connection.recv_bytes()), connection.recv_bytes()
            # The system's, as no other could come upon code in C.
            signal.setitimer(signal.ITIMER_REAL, job["seconds"])
            answer, image = _answer(job, content)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(answer).encode())
            connection.send_bytes(image)


def _answer(job: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    from mnist_sweep.results.models.serve import bodies

    try:
        given = image_files.read(Path(job["file"])) if "file" in job else bodies.decode(job["kind"], content)
        drawing = Drawing(**job["drawing"]) if job["drawing"] is not None else None
        prepared = image_files.prepare(given, tuple(job["shape"]), Profile(drawing) if job["profiled"] else None)
    except bodies.NotJsonError as error:
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
