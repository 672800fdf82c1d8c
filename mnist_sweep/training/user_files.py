"""What a user's module needs to run elsewhere: the user's other modules, and the packages that it imports."""

from __future__ import annotations

import ast
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType


def code_paths(module: ModuleType) -> list[Path]:
    """Returns the files and folders of a user's module and of the user's modules that it imports.

    Args:
        module: The module, imported.

    Returns:
        A file for a module, the folder for a package, each once. Modules of Python, of installed packages and of this
        program are left out.
    """
    found: dict[Path, None] = {}
    for name in _imported(module):
        top = sys.modules.get(name.partition(".")[0])
        if top is not None:
            found[_path(top)] = None
    return list(found)


def requirements(module: ModuleType) -> list[str]:
    """Returns the installed packages that a user's module and its other modules import, with their versions.

    Args:
        module: The module, imported.

    Returns:
        Requirements such as `scipy==1.16.0`, sorted.
    """
    distributions = metadata.packages_distributions()
    names = {name.partition(".")[0] for user in _imported(module) for name in _imports(sys.modules[user])}
    found = {distribution for name in names for distribution in distributions.get(name, ())}
    return sorted(f"{name}=={metadata.version(name)}" for name in found if name != "mnist_sweep")


def _imported(module: ModuleType) -> list[str]:
    """The names of a module and of all modules of the user's that it imports, directly or through others."""
    queue, found = [module.__name__], dict[str, None]()
    while queue:
        name = queue.pop()
        known = sys.modules.get(name)
        if name in found or known is None or not _is_users(known):
            continue
        found[name] = None
        queue += _imports(known)
    return list(found)


def _imports(module: ModuleType) -> Iterator[str]:
    """Yields the full names of the modules that a module's source imports, also inside functions."""
    file = getattr(module, "__file__", None)
    if file is None or not str(file).endswith(".py"):
        return
    package = module.__name__ if Path(file).name == "__init__.py" else module.__name__.rpartition(".")[0]
    for node in ast.walk(ast.parse(Path(file).read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            start = ".".join(filter(None, (base, node.module)))
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _is_users(module: ModuleType) -> bool:
    path = os.path.realpath(_path(module))
    return not any(Path(path).is_relative_to(folder) for folder in _installed())


def _installed() -> list[str]:
    """The folders of Python, of installed packages and of this program."""
    folders = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    return [os.path.realpath(folder) for folder in map(str, (*folders, Path(__file__).parents[1]))]


def _path(module: ModuleType) -> Path:
    """The file of a top-level module, or the folder of a package; a built-in module is in Python's own folder."""
    file = getattr(module, "__file__", None)
    if file is None:
        return Path(next(iter(getattr(module, "__path__", ())), sysconfig.get_path("stdlib")))
    return Path(file).parent if Path(file).name == "__init__.py" else Path(file)
