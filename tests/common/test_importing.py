"""Large packages, imported in less time."""

from __future__ import annotations

import gc
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mnist_sweep.common import importing


def test_packages_are_hidden_from_one_thread_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    finders = list(sys.meta_path)
    with importing.hidden({"colorsys"}), ThreadPoolExecutor() as other:
        with pytest.raises(ImportError, match="No module named 'colorsys'"):
            importlib.import_module("colorsys")
        assert other.submit(importlib.import_module, "colorsys").result().__name__ == "colorsys"
        # Hiding it from those who have it would only be confusing.
        assert importlib.import_module("colorsys").__name__ == "colorsys"
    assert sys.meta_path == finders


def test_the_collector_is_off_until_no_thread_needs_it_off():
    assert gc.isenabled()
    one, other = importing.without_collector(), importing.without_collector()
    with ThreadPoolExecutor() as thread:
        one.__enter__()
        thread.submit(other.__enter__).result()
        one.__exit__(None, None, None)
        assert not gc.isenabled()
        thread.submit(other.__exit__, None, None, None).result()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with importing.without_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
