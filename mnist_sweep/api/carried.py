"""Functions and classes that were defined in a notebook or a script, as a module that any process can import.

The module is a file in the sweep's folder: so the workers, and later `resume`, `rerun` and `export`, use the user's
function as they use any `package.module:name`, also when the notebook's kernel is gone.
"""

from __future__ import annotations

import base64
import contextlib
import dis
import hashlib
import importlib.util
import inspect
import io
import json
import linecache
import os
import re
import site
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line, format_size, one_line

_MAIN = "__main__"
# Bytes that a function may bring along: every process that builds a model loads them.
_LARGEST = 20 * 2**20
# What must be created anew for each model, or lives in this process's TensorFlow.
_OF_THIS_PROCESS = {
    "tensorflow": {"EagerTensor", "SymbolicTensor", "Tensor", "BaseResourceVariable", "DatasetV2", "Function"},
    "keras": {"Variable", "KerasVariable", "Layer", "Model", "Optimizer", "BaseOptimizer", "Metric"},
}
_COLUMNS = 100
_CLASS = re.compile(rb"[0-9a-f]{32}")
# The instructions that read a global variable.
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
_MODULE = '''"""{name}, as {where} defined it for a sweep. mnist_sweep wrote this file; its source is at the end."""

import base64
import sys

import cloudpickle
import keras
{imports}
if sys.version_info[:2] != ({major}, {minor}):
    raise ImportError("{name} was defined with Python {major}.{minor}, and can be loaded only by that version")

_CONTENT = """
{content}
"""
# The files of its code, as tracebacks name them.
__sources__ = {sources}
{name}, _registered = cloudpickle.loads(base64.b64decode(_CONTENT))
for _full_name, _kind in _registered.items():
    _package, _, _short_name = _full_name.rpartition(">")
    keras.saving.register_keras_serializable(_package, _short_name)(_kind)
{source}'''


@dataclass(frozen=True)
class Carried:
    """A function as a module.

    Attributes:
        module: The name of the module, which no other content has.
        name: The name of the function in it.
        content: The content of the module's file.
    """

    module: str
    name: str
    content: str


def carry(function: Any) -> Carried | str:
    """Makes a function, or a `keras_tuner.HyperModel`, importable by other processes.

    Args:
        function: A function of `hp`, a HyperModel subclass, or an instance of one.

    Returns:
        `package.module:name` if a new Python can import it; else the module to write.

    Raises:
        UserError: It uses something that cannot be copied to another process.
    """
    name = _name(function)
    by_value = list[str]()
    while new := _not_importable({_module_of(function), *_dump(function, by_value)[1].modules} - set(by_value)):
        by_value += new
    if _module_of(function) not in {_MAIN, *by_value} and _found_by_name(function):
        return f"{function.__module__}:{function.__qualname__}"
    _check(function, name, by_value)
    content, pickler = _dump(function, by_value, fail=name)
    if len(content) > _LARGEST:
        raise UserError(_too_large(function, name, by_value, len(content)))
    # Without what is different each time that the same notebook runs: the numbers of cells, and the names that
    # cloudpickle gives classes.
    lasting = _CLASS.sub(b"", _dump(function, by_value, numbered=False)[0])
    digest = hashlib.sha256(lasting).hexdigest()[:8]
    module = f"{_stem()}_{digest}"
    text = _MODULE.format(
        name=name,
        where="a notebook" if _shell() is not None else Path(_script() or "a program").name,
        imports="".join(f"import {top}\n" for top in _tops(pickler.modules - set(by_value))),
        major=sys.version_info[0],
        minor=sys.version_info[1],
        content="\n".join(textwrap.wrap(base64.b64encode(content).decode(), _COLUMNS)),
        sources=tuple(sorted(pickler.files)),
        source=_source(function),
    )
    return Carried(module, name, text)


# ---- what it is ---------------------------------------------------------------------------------------------------


def _name(function: Any) -> str:
    found = getattr(function, "__name__", None) or type(function).__name__
    return found if found.isidentifier() else "build_model"


def _module_of(function: Any) -> str:
    return str(getattr(function, "__module__", None) or type(function).__module__)


def _found_by_name(function: Any) -> bool:
    module, name = sys.modules.get(_module_of(function)), getattr(function, "__qualname__", "")
    return module is not None and name.isidentifier() and getattr(module, name, None) is function


def _shell() -> Any:
    """Returns IPython, if this process runs it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _script() -> str | None:
    found: str | None = getattr(sys.modules.get(_MAIN), "__file__", None)
    return found


def _stem() -> str:
    if _shell() is not None:
        return "notebook"
    found = re.sub(r"\W", "_", Path(_script() or "code").stem)
    return found if found.isidentifier() else f"code_{found}"


def _source(function: Any) -> str:
    """The source, as a comment; empty if it is not known."""
    with contextlib.suppress(OSError, TypeError):
        plain = function if isinstance(function, type | FunctionType | MethodType) else type(function)
        lines = textwrap.dedent(inspect.getsource(plain)).splitlines()
        return "\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return ""


# ---- pickling -----------------------------------------------------------------------------------------------------


def _dump(function: Any, by_value: Any, *, numbered: bool = True, fail: str = "") -> tuple[bytes, _Pickler]:
    """Pickles a function with the classes that Keras knows by a registered name.

    Args:
        function: The function.
        by_value: The modules whose functions and classes are copied, besides `__main__`.
        numbered: Whether code of a notebook is named after its cell.
        fail: The function's name, if this must not fail.
    """
    with _by_value(by_value):
        file = io.BytesIO()
        pickler = _Pickler(file, numbered=numbered)
        try:
            pickler.dump(function)
        except Exception as error:
            if fail:
                raise UserError(f"{fail}: cannot be copied to other processes ({first_line(error)})") from error
            return b"", pickler
        registered = {name: kind for name, kind in _registered() if kind in pickler.classes}
        file = io.BytesIO()
        pickler = _Pickler(file, numbered=numbered)
        pickler.dump((function, registered))
        return file.getvalue(), pickler


@contextlib.contextmanager
def _by_value(names: Any) -> Iterator[None]:
    modules = [sys.modules[name] for name in names if name != _MAIN]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _registered() -> list[tuple[str, Any]]:
    """Returns the classes and functions that `@keras.saving.register_keras_serializable` was called with, by name."""
    keras = sys.modules.get("keras")
    return [] if keras is None else list(keras.saving.get_custom_objects().items())


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes what it meets, and gives code the name of its cell or its file.

    Attributes:
        modules: The modules that are needed.
        classes: The classes and functions.
        files: The files of the code.
    """

    def __init__(self, file: io.BytesIO, *, numbered: bool = True) -> None:
        super().__init__(file)
        self.modules, self.classes, self.files, self._numbered = set[str](), set[Any](), set[str](), numbered

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, CodeType):
            name = _file_name(obj.co_filename, numbered=self._numbered)
            self.files.add(name)
            return self.dispatch_table[CodeType](obj.replace(co_filename=name))
        if what := _bound_to_this_process(obj):
            raise _BoundError(what)
        if isinstance(obj, ModuleType):
            self.modules.add(obj.__name__)
        elif isinstance(obj, type | FunctionType):
            self.modules.add(obj.__module__ or _MAIN)
            self.classes.add(obj)
        return super().reducer_override(obj)


def _file_name(file: str, *, numbered: bool = True) -> str:
    """Returns how to call the file of some code: `In[3]` for a notebook's cell."""
    shell = _shell()
    if shell is None or (Path(file).suffix == ".py" and "ipykernel" not in file):
        return file
    number = getattr(shell.compile, "_filename_map", {}).get(file)
    return f"In[{number}]" if numbered and number is not None else "notebook"


# ---- modules ------------------------------------------------------------------------------------------------------


def _not_importable(names: set[str]) -> list[str]:
    """Returns those modules of the user's that a new Python in this folder does not find, such as a script's own."""
    users = sorted(name for name in names if name != _MAIN and _is_users(sys.modules.get(name)))
    if not users:
        return []
    code = (
        "import importlib.util, json, sys\n"
        "def found(name):\n"
        "    try: return importlib.util.find_spec(name) is not None\n"
        "    except (ImportError, ValueError): return False\n"
        "print(json.dumps([name for name in sys.argv[1:] if not found(name)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *users], capture_output=True, text=True, check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


def _is_users(module: ModuleType | None) -> bool:
    file: str | None = getattr(module, "__file__", None)
    if file is None:
        return False
    installed = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    folders = [os.path.realpath(folder) for folder in (*installed, str(Path(__file__).parents[1]))]
    return not any(Path(os.path.realpath(file)).is_relative_to(folder) for folder in folders)


def _tops(modules: set[str]) -> list[str]:
    """Returns the packages of some modules, without Python's own and this one."""
    tops = {name.partition(".")[0] for name in modules} - {_MAIN, "mnist_sweep", "keras", "cloudpickle"}
    return sorted(top for top in tops - sys.stdlib_module_names if importlib.util.find_spec(top) is not None)


# ---- what cannot travel -------------------------------------------------------------------------------------------


class _BoundError(Exception):
    """Something belongs to this process; the message says what."""


def _bound_to_this_process(value: Any) -> str:
    if isinstance(value, io.IOBase):
        return "an open file"
    if isinstance(value, type | FunctionType | ModuleType):
        return ""
    for kind in type(value).__mro__:
        package = kind.__module__.partition(".")[0]
        if kind.__name__ in _OF_THIS_PROCESS.get(package, ()):
            return f"a {'Keras' if package == 'keras' else 'TensorFlow'} {kind.__name__}"
    return ""


@dataclass(frozen=True)
class _Use:
    """Where some code uses a variable from outside of it."""

    code: CodeType
    function: str
    name: str
    value: Any

    def place(self) -> str:
        """Returns `In[3], line 4: the line`."""
        line = next(
            (
                found.positions.lineno
                for found in dis.get_instructions(self.code)
                if found.argval == self.name and found.positions is not None and found.positions.lineno
            ),
            self.code.co_firstlineno,
        )
        file = self.code.co_filename
        text = linecache.getline(file, line).strip()
        shown = file if file.endswith(">") else Path(_file_name(file)).name
        return f"{shown}, line {line}" + (f": {one_line(text, _COLUMNS)}" if text else "")


def _check(function: Any, name: str, by_value: list[str]) -> None:
    """Names the first variable that cannot be copied to another process.

    Raises:
        UserError: There is one.
    """
    for use in _uses(function, {_MAIN, *by_value}):
        problem = _problem(use.value, by_value)
        if problem:
            raise UserError(f"{name}: uses {use.name}, {problem} ({use.place()})")


def _problem(value: Any, by_value: list[str]) -> str:
    try:
        with _by_value(by_value):
            _Pickler(io.BytesIO()).dump(value)
    except _BoundError as error:
        return f"{error}, which other processes cannot use; create it inside the function"
    except Exception as error:
        kind_name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return f"of type {kind_name}, which cannot be copied to other processes; create it inside the function" + (
            "" if str(error).startswith("cannot pickle") else f" ({first_line(error, _COLUMNS)})"
        )
    return ""


def _too_large(function: Any, name: str, by_value: list[str], size: int) -> str:
    sizes = [(len(cloudpickle.dumps(use.value)), use) for use in _uses(function, {_MAIN, *by_value})]
    largest, use = max(sizes, key=lambda found: found[0], default=(size, None))
    most = "" if use is None else f"; {use.name} has {format_size(largest)} ({use.place()})"
    return (
        f"{name}: uses {format_size(size)} of variables from outside of it, which every worker would copy{most}. "
        "Compute before it what the model needs of them, such as a mean"
    )


def _uses(function: Any, modules: set[str]) -> Iterator[_Use]:
    """Yields the variables that a function or a class uses from outside of it, also through others of `modules`."""
    seen, queue = set[int](), [function]
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, type):
            queue += [_unwrapped(member) for member in vars(one).values()]
            queue += [base for base in one.__bases__ if base.__module__ in modules]
        elif isinstance(one, MethodType):
            queue += [one.__func__, one.__self__]
        elif isinstance(one, FunctionType):
            for use in _used_by(one):
                if _is_code(use.value) and _module_of(use.value) in modules:
                    queue.append(use.value)
                elif not isinstance(use.value, ModuleType):
                    yield use
        elif _module_of(type(one)) in modules:
            queue.append(type(one))


def _unwrapped(member: Any) -> Any:
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.fget if isinstance(member, property) else member


def _is_code(value: Any) -> bool:
    return isinstance(value, type | FunctionType | MethodType)


def _used_by(function: FunctionType) -> Iterator[_Use]:
    inner = list[CodeType]([function.__code__])
    while inner:
        code = inner.pop()
        inner += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for name in dict.fromkeys(found.argval for found in dis.get_instructions(code) if found.opname in _LOADS):
            if name in function.__globals__:
                yield _Use(code, function.__name__, name, function.__globals__[name])
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):
            yield _Use(function.__code__, function.__name__, name, cell.cell_contents)
