"""Finds files in the working directory that Python would import instead of a library of the same name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# What this program and its libraries import. A folder without `__init__.py` hides nothing.
_LIBRARIES = """
    PIL absl alembic antlr4 cmaes docker fastapi flask google graphene grpc h5py hydra jax jinja2 joblib
    keras keras_tuner matplotlib mlflow mlxtend namex numpy omegaconf onnx optree optuna packaging
    pandas psutil pyarrow pydantic pynvml requests rich scipy sklearn sqlalchemy tensorflow torch tqdm
    uvicorn yaml
""".split()  # noqa: SIM905 - a list of that length would fill the page


class HidesLibrary(Exception):  # noqa: N818 - reported as a user's mistake
    """A file in the working directory hides a library; the message is one line for the user."""


def check() -> None:
    """Checks that no file in the working directory hides a library.

    Raises:
        HidesLibrary: One does.
    """
    file = hiding_file()
    if file is not None:
        library = file.removesuffix(".py").removesuffix("/")
        raise HidesLibrary(
            f"{file} in this folder hides the library {library}, because Python imports it instead; rename it, or run "
            "the command in another folder"
        )


def hiding_file() -> str | None:
    """Returns a file in the working directory that hides a library from this program; None if there is none.

    A file with the name of a module of Python itself counts only if that module was imported from it.

    Returns:
        The file's name, such as `keras.py`, or a package's folder with a slash.
    """
    folder = os.getcwd()
    if "" not in sys.path and not any(entry and os.path.abspath(entry) == folder for entry in sys.path):
        return None
    return next(_hiding(folder), None)


def _hiding(folder: str) -> Iterator[str]:
    for name in _LIBRARIES:
        if os.path.isfile(os.path.join(folder, f"{name}.py")):
            yield f"{name}.py"
        elif os.path.isfile(os.path.join(folder, name, "__init__.py")):
            yield f"{name}/"
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in sys.stdlib_module_names and file == os.path.join(folder, f"{name}.py"):
            yield f"{name}.py"
