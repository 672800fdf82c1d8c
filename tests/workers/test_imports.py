"""Imports without optional packages."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

import pytest

from mnist_sweep.workers import imports

MODULE = """
try:
    import an_optional_package
except ImportError:
    an_optional_package = None
"""


@pytest.mark.parametrize("custom_code", [False, True])
def test_an_optional_package_is_hidden_only_while_modules_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, custom_code: bool
) -> None:
    name = f"a_module_{custom_code}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "an_optional_package.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "an_optional_package", raising=False)
    monkeypatch.setattr(imports, "_OPTIONAL", ("an_optional_package",))
    imports.load([name], custom_code=custom_code)
    assert (sys.modules[name].an_optional_package is None) != custom_code
    assert importlib.import_module("an_optional_package") is not None


def test_garbage_collection_is_on_again_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        imports.load(["no_such_module"], custom_code=False)
    assert gc.isenabled()
    gc.unfreeze()
