"""`python -m mnist_sweep serve`: a page to draw digits on, open pictures or fill in a form, with models' answers."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_sweep.common import ports, termination
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import TOKEN_VARIABLE, access_token

if TYPE_CHECKING:
    from mnist_sweep.results.models.image_decoder import ImageDecoder
    from mnist_sweep.results.models.serve.served_models import ServedModels

_MODELS = 5
# What users do on the page, by what the models take.
_DO = {"drawing": "Draw", "picture": "Open pictures", "form": "Fill in the form", "arrays": "Send rows"}
# How many images are read at a time, so that many clients do not take all cores; and how long one may take: the
# page's drawing takes 0.1 s, the largest image 1 s.
_AT_A_TIME, _SECONDS_PER_IMAGE = 2, 5.0


def serve(
    what: str | None, trial: int | None, tracking_uri: str | None, host: str, port: int, token: str | None = None
) -> int:
    """Serves the page until Ctrl-C.

    Args:
        what: As for `find_trial`.
        trial: As for `find_trial`.
        tracking_uri: As for `find_trial`.
        host: The address to listen on. One that other machines can reach needs a token.
        port: The port to listen on; 0 for any free one.
        token: The token that requests must carry; `auto` to generate and print one. None for the value of the variable
            MNIST_SWEEP_TOKEN, if it is set.

    Returns:
        The exit code.

    Raises:
        UserError: The model does not exist, the port is taken, or a token is missing or too short.
    """
    # More threads are not faster on images this small, and take three times the CPU time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    wanted, generated = access_token(token)
    ended = termination.raise_on_signals()
    loading: threading.Thread | None = None
    with (
        contextlib.suppress(KeyboardInterrupt),
        ports.listen(host, port) as listening,
        # The thread that loads models may still be writing to it.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        if not wanted and not ports.is_loopback(listening):
            raise UserError(
                f"--host={host}: other machines can reach it, so a token is needed: set --token, or the variable "
                f"{TOKEN_VARIABLE}; auto generates one"
            )
        # This import takes seconds. An error about the port comes before.
        from mnist_sweep.common.web import server_of
        from mnist_sweep.results.models.serve.app import make_app

        models, load = _found(what, trial, tracking_uri, Path(folder))
        names = [socket.gethostname(), f"{socket.gethostname()}.local"] if host in ports.EVERYWHERE else [host]
        with image_decoders() as decoders:
            server = server_of(make_app(models, decoders, names, wanted))
            failures: list[BaseException] = []

            def load_all() -> None:
                try:
                    load()
                except BaseException as error:
                    failures.append(error)
                    server.should_exit = True

            if ended.is_set():
                return 0
            # TensorFlow takes seconds to import. The page opens at once, and shows that the model is loading.
            loading = threading.Thread(target=load_all, daemon=True)
            loading.start()
            # A token that the user gave is not printed, as the output may be kept somewhere.
            query = f"?token={wanted if generated else '…'}" if wanted else ""
            link = f"http://{ports.in_url(host)}:{listening.getsockname()[1]}/{query}"
            with contextlib.suppress(KeyboardInterrupt):
                print(f"{_DO[models.takes]} at {link} (Ctrl-C stops it)", flush=True)
                server.run(sockets=[listening])
        if failures and not ended.is_set():
            raise failures[0]
    if loading is not None and loading.is_alive():
        # Python would wait for the import that the thread is in, or crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _found(
    what: str | None, trial: int | None, tracking_uri: str | None, folder: Path
) -> tuple[ServedModels, Callable[[], None]]:
    """Finds the models to serve, and returns a function that loads them."""
    from mnist_sweep.results.models.doubts import profile_of
    from mnist_sweep.results.models.model_run import find_trial
    from mnist_sweep.results.models.purpose import purpose_of
    from mnist_sweep.results.models.serve.served_models import ServedModels, candidates, card, load

    champion = find_trial(what, trial, tracking_uri)
    champion.check_has_model()
    purpose = purpose_of(champion, folder)
    purpose.check_shown(champion.sweep)
    profile = None if purpose.schema.image is None else profile_of(champion, folder)
    queue = candidates(champion)
    models = ServedModels(card(champion), purpose, profile, expected=min(len(queue), _MODELS))
    return models, partial(load, models, queue, _MODELS, folder)


@contextlib.contextmanager
def image_decoders(seconds: float = _SECONDS_PER_IMAGE) -> Iterator[list[ImageDecoder]]:
    """Starts as many decoders as images may be read at a time, and closes them at the end.

    Args:
        seconds: How long one image may take.
    """
    from mnist_sweep.results.models.image_decoder import ImageDecoder

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ImageDecoder(seconds)) for _ in range(_AT_A_TIME)]
