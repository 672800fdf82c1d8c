"""The packages that a GPU machine lacks: `python -m benchmarks.gpu.wheels FOLDER` downloads them, `use` unpacks them.

The machine has Python 3.12 and `PRESENT`, but no network and no TensorFlow. What this program needs besides is put into
the folder as wheels, with MNIST. Unpacked, they need no installation. This module imports only what every Python has.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".gpu"
DATA = "mnist.npz"
# What the machine has; Pillow comes with matplotlib, ml_dtypes with JAX.
PRESENT = ("jax", "numpy", "scipy", "pandas", "matplotlib", "h5py", "pyarrow", "pillow", "ml-dtypes")
# keras-tuner imports it, but does not say so.
_UNSAID = ("six",)
# The files of these are also in MLflow's own wheel.
_TWICE = {"mlflow-skinny", "mlflow-tracing"}
# What the script's sweeps do without: the report, servers, MLflow's stores in the cloud.
NOT_USED = (
    *("tensorflow", "mlxtend", "scikit-learn", "skops", "aiohttp"),
    *("gunicorn", "huey", "graphene", "docker", "flask-wtf", "flask-cors"),
)
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010")
_LARGEST = 60e6


def fill(folder: Path, data: Path | None, python: str = "3.12") -> None:
    """Downloads the wheels of constraints.txt's versions, and copies MNIST.

    Args:
        folder: Gets the wheels. What it had is removed.
        data: An `mnist.npz` as Keras has it; None to go without.
        python: The version of the other machine's Python.

    Raises:
        SystemExit: pip failed, or the folder is too large to be copied to the machine.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [line for line in project["dependencies"] if _name(line) not in NOT_USED] + list(_UNSAID)
    target = ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:", "--find-links", folder]
    target += [word for name in _PLATFORMS for word in ("--platform", f"{name}_{platform.machine()}")]
    # Hydra needs this version, of which there is no wheel.
    antlr = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("antlr4"))
    _pip("wheel", "--no-deps", "--wheel-dir", folder, antlr)
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.json"
        resolved = ["--dry-run", "--ignore-installed", "--target", Path(temporary) / "site", "--report", report]
        _pip("install", *resolved, *target, "--constraint", ROOT / "constraints.txt", *wanted)
        packages = {
            _name(one["metadata"]["name"]): one["metadata"] for one in json.loads(report.read_text())["install"]
        }
    chosen = sorted(needed_by(map(_name, wanted), packages, without={*NOT_USED, *PRESENT}) - _TWICE)
    _pip("download", "--no-deps", *target, "--dest", folder, *(f"{n}=={packages[n]['version']}" for n in chosen))
    wheels = sorted(folder.glob("*.whl"))
    size = sum(path.stat().st_size for path in wheels)
    if data is not None:
        shutil.copyfile(data, folder / DATA)
    print(f"{folder}: {len(wheels)} wheels, {size / 1e6:.1f} MB" + (f", and {data}" if data else ""))
    if size > _LARGEST:
        largest = sorted(wheels, key=lambda path: -path.stat().st_size)[:3]
        sys.exit(f"more than {_LARGEST / 1e6:.0f} MB; the largest are {', '.join(path.name for path in largest)}")


def needed_by(names: Iterable[str], packages: Mapping[str, Any], without: Iterable[str] = ()) -> set[str]:
    """Returns packages and all that they need.

    Args:
        names: The packages.
        packages: The metadata of all packages by name, as pip reports it.
        without: Packages to leave out, with what only they need.
    """
    found: set[str] = set()
    left = [name for name in names if name in packages and name not in without]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needs = [line for line in packages[name].get("requires_dist", ()) if "extra ==" not in line]
            left += [need for need in map(_name, needs) if need in packages and need not in without]
    return found


def use(folder: Path, site: Path) -> None:
    """Unpacks wheels, and lets this process and its children import them; not if the packages are installed.

    Args:
        folder: Has the wheels.
        site: Gets the packages.
    """
    if all(importlib.util.find_spec(name) for name in ("keras", "hydra", "mlflow")):
        return
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    # They are found before other versions that the machine may have.
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    if subprocess.run([str(part) for part in command]).returncode:
        sys.exit(f"pip {arguments[0]} failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.wheels", description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER)
    parser.add_argument("--data", type=Path, help="an mnist.npz as Keras has it, to be copied as well")
    parser.add_argument("--python", default="3.12", help="the version of the GPU machine's Python")
    options = parser.parse_args()
    fill(options.to, options.data, options.python)
