"""Who may import whom: docs/architecture.md, checked by reading every import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mnist_sweep

PACKAGE = Path(mnist_sweep.__file__).parent
# From the top down. A part imports from those below it only; those on one floor do not know each other.
FLOORS = (
    {"api"},
    {"cli"},
    {"driver"},
    {"results", "workers"},
    {"tracking", "search", "training"},
    {"journal"},
    {"config", "data"},
    {"common"},
)
FLOOR = {part: number for number, floor in enumerate(FLOORS) for part in floor}
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Every module of the package that a module imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name in MODULES or f"{name}.__init__" in MODULES} - {"mnist_sweep"}


def test_every_part_has_a_floor() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders - {"conf"} == set(FLOOR)
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py", "_old_paths.py"}


@pytest.mark.parametrize("part", sorted(FLOOR))
def test_a_part_imports_only_from_those_below_it(part: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name.split(".")[1] == part
        for other in imported(path)
        if other.split(".")[1] != part and FLOOR[other.split(".")[1]] <= FLOOR[part]
    ]
    assert not wrong


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imported(path) - {name} for name, path in MODULES.items()}
    left = dict(graph)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left
