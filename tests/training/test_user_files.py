"""The user's code and packages that a model needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mnist_sweep.training import user_files

FILES = {
    "usersmodel.py": (
        "import numpy\nfrom usershelper import scale\nimport userspackage.inner\nimport mnist_sweep.common\n"
    ),
    "usershelper.py": "def scale():\n    import usersdeep\n",
    "usersdeep.py": "import scipy\n",
    "userspackage/__init__.py": "",
    "userspackage/inner.py": "from . import sibling\n",
    "userspackage/sibling.py": "",
    "usersother.py": "",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    importlib.import_module("usersother")
    importlib.import_module("usersdeep")
    yield importlib.import_module("usersmodel")
    for name in set(sys.modules) - before:
        if name.startswith("users"):
            del sys.modules[name]


def test_a_model_gets_all_modules_of_the_user_that_it_imports_and_no_others(module: ModuleType, tmp_path: Path) -> None:
    found = user_files.code_paths(module)
    assert sorted(path.name for path in found) == ["usersdeep.py", "usershelper.py", "usersmodel.py", "userspackage"]
    assert all(path.parent == tmp_path for path in found)


def test_a_model_gets_the_installed_packages_that_its_modules_import(module: ModuleType) -> None:
    names = [requirement.partition("==")[0] for requirement in user_files.requirements(module)]
    assert names == ["numpy", "scipy"]
