"""`python -m mnist_sweep export`: a sweep's best model as files that have been checked."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.errors import UserError
from mnist_sweep.results.converting import Checked, convert
from mnist_sweep.results.formats import FORMATS, Format
from mnist_sweep.results.models import TrackedModel, find_model
from mnist_sweep.tables import Column, show, standard_output
from mnist_sweep.versions import versions

_MANIFEST = "manifest.json"


def export(what: str | None, tracking_uri: str | None, to: Path, formats: Sequence[Format]) -> None:
    """Writes the best model in some formats, with a manifest.

    Each file is loaded again by its own runtime and must give the predictions that the tracked run gave, before
    anything appears in the folder.

    Args:
        what: As for `find_model`.
        tracking_uri: As for `load_runs`.
        to: The folder; created if need be. Files of an earlier export are replaced, those of another model removed.
        formats: As `formats.chosen` gives them.

    Raises:
        UserError: There is no such sweep or no model in it, a format cannot express it, a file's predictions differ,
            or the folder cannot be written.
    """
    tracked = find_model(what, tracking_uri)
    earlier, there = _earlier(to), to.exists()
    for name in (format.file for format in formats):
        if (to / name).exists() and name not in earlier["files"]:
            raise UserError(f"--to={to}: holds {name}, which no export wrote; give another folder")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=to) as temporary:
            source, target = Path(temporary) / "tracked", Path(temporary) / "exported"
            source.mkdir()
            target.mkdir()
            config = tracked.config(source)
            checked = convert(tracked, config, formats, source, target)
            manifest = _with_earlier(_manifest(tracked, config, checked), earlier, to)
            (target / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            for path in (*(file.path for file in checked), target / _MANIFEST):
                _remove(to / path.name)
                path.replace(to / path.name)
    except OSError as error:
        raise UserError(f"--to={to}: cannot be written ({error.strerror or error})") from None
    finally:
        if not there:
            # Empty, unless something was exported.
            with contextlib.suppress(OSError):
                to.rmdir()
    _say(tracked, to, checked)


def _manifest(tracked: TrackedModel, config: dict[str, Any], checked: Sequence[Checked]) -> dict[str, Any]:
    data = tracked.run.data
    trained = {k.removeprefix("version."): v for k, v in sorted(data.tags.items()) if k.startswith("version.")}
    return {
        "sweep": tracked.sweep,
        "trial": tracked.trial,
        "run_id": tracked.run.info.run_id,
        "hyperparameters": config["model"],
        "scores": {k: v for k, v in sorted(data.metrics.items()) if k.startswith(("best_", "confirmed_", "test_"))},
        "data": {
            key.removeprefix("data."): int(value) if value.isdigit() and key != "data.digest" else value
            for key, value in sorted(data.tags.items())
            if key.startswith("data.")
        },
        "input": "float32 in 0..255, shape (N, height, width, channels); the model divides by 255 itself",
        "output": "float32, the probability of each class, shape (N, classes)",
        "latency": f"seconds, one image at a time, the median of up to 200 calls on one thread of {_processor()}",
        "versions": {"trained": trained, "exported": versions()},
        "files": {file.format.file: _about(file, config["model"]) for file in checked},
    }


def _about(file: Checked, model: dict[str, Any]) -> dict[str, Any]:
    own = model.get("builder") or model.get("hypermodel")
    imports = [f"import {own.partition(':')[0]}  # has the layers of the model's own"] if own else []
    return {
        "format": file.format.name,
        "bytes": _size(file.path),
        "sha256": _digest(file.path),
        "largest_difference": file.difference,
        "allowed_difference": file.tolerance,
        "because": file.format.why,
        **({"accuracy": file.accuracy} if file.accuracy else {}),
        "latency": file.latency,
        "use": [*(imports if file.format.name in ("h5", "keras") else []), *file.format.use],
    }


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _digest(path: Path) -> str | dict[str, str]:
    digests = {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(path)}
    return digests if path.is_dir() else digests["."]


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _earlier(to: Path) -> dict[str, Any]:
    """The `run_id` and the `files` of what was exported to a folder before; None and none where nothing was."""
    try:
        manifest = json.loads((to / _MANIFEST).read_text(encoding="utf-8"))
        return {"run_id": manifest["run_id"], "files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"run_id": None, "files": {}}


def _with_earlier(manifest: dict[str, Any], earlier: dict[str, Any], to: Path) -> dict[str, Any]:
    """A manifest with the files of an earlier export of the same model; the files of another model are removed."""
    files = earlier["files"]
    known = [format.file for format in FORMATS.values()]
    if earlier["run_id"] != manifest["run_id"]:
        for name in known:
            if name in files:
                _remove(to / name)
        return manifest
    files = {name: about for name, about in files.items() if (to / name).exists()} | manifest["files"]
    return {**manifest, "files": {name: files[name] for name in known if name in files}}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _say(tracked: TrackedModel, to: Path, checked: Sequence[Checked]) -> None:
    console = standard_output()
    columns = [
        Column("file", [file.format.file for file in checked], 5),
        Column("size", [_bytes(_size(to / file.format.file)) for file in checked], 4),
        Column("largest difference", [f"{file.difference:.1e}" for file in checked], 3),
        Column("one image", [f"{file.latency * 1000:.3g} ms" for file in checked], 2),
    ]
    if any(file.accuracy for file in checked):
        columns.append(Column("accuracy", [_lost(file) for file in checked], 4))
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"exported trial {tracked.trial} of {tracked.sweep} to {to}")
    show(console, columns, "Each loaded again, and compared with the run's predictions")
    for file in checked:
        if file.accuracy:
            about = file.accuracy
            say(f"{file.format.file}: accuracy on {about['images']}; calibrated on {about['calibration']}")
    say(f"Each takes pixels as they are, 0 to 255. {_MANIFEST} has the rest, and the code to use them.")


def _lost(file: Checked) -> str:
    return f"{file.accuracy['float32']:.4f} → {file.accuracy['int8']:.4f}" if file.accuracy else ""


def _bytes(amount: int) -> str:
    if amount < 1000:
        return f"{amount} B"
    return f"{amount / 1e6:.1f} MB" if amount >= 1e6 else f"{amount / 1e3:.0f} kB"
