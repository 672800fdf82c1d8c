"""The texts that the program prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mnist_sweep"
# Read on other machines, too, where this one's interpreter is of no use.
SHARED = {"tracking/descriptions.py"}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the strings of a module that are not docstrings, with their lines."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_commands_in_messages_name_the_interpreter_that_runs(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) in SHARED:
        return
    # `invocation.command` and `invocation.pip_install` write them.
    found = [line for line, text in texts(path) if "python -m mnist_sweep " in text or text.startswith("pip install")]
    assert not found, f"{path.relative_to(ROOT)}: lines {found}"
