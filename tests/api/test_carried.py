"""Functions of a notebook or a script, as modules for other processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import environment

from mnist_sweep.api import carried
from mnist_sweep.common.errors import UserError

Loaded = Callable[[carried.Carried], Any]


class Registry(types.SimpleNamespace):
    """Stands for Keras, which takes seconds to import."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        super().__init__(saving=self)

    def get_custom_objects(self) -> dict[str, Any]:
        return self.objects

    def register_keras_serializable(self, package: str, name: str) -> Callable[[Any], Any]:
        def register(kind: Any) -> Any:
            self.objects[f"{package}>{name}"] = kind
            return kind

        return register


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setitem(sys.modules, "keras", registry)
    return registry


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], types.ModuleType]:
    """Returns a function that runs source as the `__main__` of this process, from a file."""

    def ran(source: str) -> types.ModuleType:
        file = tmp_path / "train.py"
        file.write_text(textwrap.dedent(source))
        module = types.ModuleType("__main__")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile(file.read_text(), str(file), "exec"), vars(module))
        return module

    return ran


def load(made: carried.Carried) -> dict[str, Any]:
    module: dict[str, Any] = {}
    exec(made.content, module)
    return module


def test_a_function_brings_what_it_uses(cell, keras):
    main = cell("""
        import math
        scale = 3
        def half(value):
            return value / 2
        def build_model(hp):
            return half(hp) * scale + math.pi - math.pi
    """)
    made = carried.carry(main.build_model)
    assert made.name == "build_model"
    assert made.module.startswith("train_")
    assert load(made)["build_model"](4) == 6
    assert "#     return half(hp) * scale + math.pi - math.pi" in made.content


def test_a_class_and_an_object_of_it_can_be_passed(cell, keras):
    main = cell("""
        class Own:
            def build(self, hp):
                return hp + 1
    """)
    assert load(carried.carry(main.Own))["Own"]().build(1) == 2
    assert load(carried.carry(main.Own()))["Own"].build(1) == 2


def test_registered_classes_are_registered_again_where_they_are_loaded(cell, keras):
    main = cell("""
        class Twice:
            pass
        class Other:
            pass
        def build_model(hp):
            return Twice()
    """)
    keras.objects |= {"mine>Twice": main.Twice, "mine>Other": main.Other}
    made = carried.carry(main.build_model)
    keras.objects.clear()
    loaded = load(made)
    # Only those that the function uses.
    assert set(keras.objects) == {"mine>Twice"}
    assert type(loaded["build_model"](None)) is keras.objects["mine>Twice"]


@pytest.mark.parametrize(
    ("defined", "used", "message"),
    [
        (
            "import threading\nlock = threading.Lock()",
            "lock",
            "uses lock, of type _thread.lock, which cannot be copied to",
        ),
        (
            "file = open(__file__)",
            "file.read()",
            "uses file, an open file, which other processes cannot use; create it",
        ),
        ("layers = [keras_layer]", "layers", "uses layers, a Keras Layer, which other processes cannot use"),
        ("mean = tensor", "mean", "uses mean, a TensorFlow EagerTensor, which other processes cannot use"),
        ("rows = (i for i in [1])", "rows", "uses rows, of type generator, which cannot be copied to other processes"),
    ],
)
def test_what_cannot_be_copied_is_named_with_its_line(cell, keras, defined, used, message):
    kinds = {"EagerTensor": "tensorflow.python.framework.ops", "Layer": "keras.src.layers.layer"}
    tensor, layer = (type(name, (), {"__module__": module})() for name, module in kinds.items())
    keras.objects |= {"tensor": tensor, "layer": layer}
    main = cell(f"""
import sys
tensor, keras_layer = sys.modules["keras"].objects["tensor"], sys.modules["keras"].objects["layer"]
{defined}
def helper():
    return {used}
def build_model(hp):
    return helper()
""")
    keras.objects.clear()
    with pytest.raises(UserError) as raised:
        carried.carry(main.build_model)
    assert str(raised.value).startswith(f"build_model: {message}")
    assert f": return {used})" in str(raised.value)
    assert "(train.py, line " in str(raised.value)


def test_a_method_of_the_same_name_is_no_use_of_a_variable(cell, keras):
    main = cell("""
        import threading
        model = threading.Lock()
        def build_model(hp):
            return hp.model
    """)
    assert load(carried.carry(main.build_model))["build_model"](types.SimpleNamespace(model=1)) == 1


def test_data_that_every_worker_would_copy_is_refused(cell, keras):
    main = cell("""
        import numpy
        small, x_train = 1, numpy.zeros(30_000_000, numpy.uint8)
        def build_model(hp):
            return x_train.mean() * small
    """)
    with pytest.raises(
        UserError, match="uses .* of variables from outside of it, which every worker would copy; x_train"
    ):
        carried.carry(main.build_model)


def test_a_function_of_an_importable_module_is_named(tmp_path, monkeypatch):
    (tmp_path / "importable_model.py").write_text("def build_model(hp):\n    return hp\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import importable_model  # type: ignore[import-not-found]

    assert carried.carry(importable_model.build_model) == "importable_model:build_model"


def test_modules_that_only_this_process_finds_are_copied(tmp_path, monkeypatch, keras):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "helping.py").write_text("def half(value):\n    return value / 2\n")
    (tmp_path / "elsewhere" / "hidden_mine.py").write_text(
        "import helping\ndef build_model(hp):\n    return helping.half(hp)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    import hidden_mine  # type: ignore[import-not-found]

    made = carried.carry(hidden_mine.build_model)
    for name in ("helping", "hidden_mine"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "elsewhere" not in entry])
    assert load(made)["build_model"](4) == 2


def test_the_same_code_has_the_same_name_in_another_process(tmp_path):
    (tmp_path / "train.py").write_text(
        "from mnist_sweep.api import carried\n"
        "class Layer:\n    pass\n"
        "def build_model(hp):\n    return Layer()\n"
        "print(carried.carry(build_model).module)\n"
    )
    runs = [
        subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.startswith("train_"), runs[0].stderr
