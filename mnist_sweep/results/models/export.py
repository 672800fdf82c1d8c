"""`python -m mnist_sweep export`: writes a sweep's best model in other formats, and checks each file."""

from __future__ import annotations

import glob
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import move, remove, remove_folder, write_whole
from mnist_sweep.common.reading import digest_of, read_text
from mnist_sweep.common.tables import Column, line_printer, show, standard_output
from mnist_sweep.common.text import format_size, os_reason
from mnist_sweep.common.versions import versions
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.results.models.conversion import Checked, convert
from mnist_sweep.results.models.formats import FORMATS, OF_TABLES, Format
from mnist_sweep.results.models.model_run import ModelRun, find_trial
from mnist_sweep.results.models.purpose import Purpose, purpose_of

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 10_000_000
# Names in a line.
_SHOWN = 10
# How pictures were made to fit, in the words of the manifest.
_FITTED = {
    "crop": "; the longer side of a picture is cropped to fit",
    "pad": "; a picture is padded with black to fit",
    "stretch": "; a picture is stretched to fit",
}


def export(what: str | None, trial: int | None, tracking_uri: str | None, to: Path, formats: Sequence[Format]) -> None:
    """Writes a model in several formats, with a manifest.

    Each file is loaded again by its own runtime and must give the predictions that the run logged, before anything
    appears in the folder.

    Args:
        what: As for `find_trial`.
        trial: As for `find_trial`.
        tracking_uri: As for `load_runs`.
        to: The folder; created if needed. Files of an earlier export are replaced; those of another model are removed.
        formats: The formats, as `formats.chosen` returns them.

    Raises:
        UserError: The sweep does not exist or has no model, a format cannot express it, a file's predictions differ, or
            the folder cannot be written.
    """
    model = find_trial(what, trial, tracking_uri)
    model.check_has_model()
    (earlier_run, earlier), existed = _earlier(to), to.exists()
    wanted = [format.file for format in formats]
    of_another = [] if earlier_run == model.run.info.run_id else list(earlier)
    _check_ours(to, wanted, [*wanted, *of_another], earlier)
    try:
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=to) as temporary:
            source, target = Path(temporary) / "logged", Path(temporary) / "exported"
            source.mkdir()
            target.mkdir()
            config = model.config(source, ("model", "training"))
            checked = convert(model, config, formats, source, target)
            manifest = _manifest(model, purpose_of(model, source), config, checked)
            for name in of_another:
                _remove(to / name, earlier)
            kept = {name: earlier[name] for name in earlier if name not in of_another and (to / name).exists()}
            files = kept | manifest["files"]
            manifest["files"] = {format.file: files[format.file] for format in FORMATS.values() if format.file in files}
            for file in checked:
                _remove(to / file.path.name, earlier)
                move(file.path, to / file.path.name)
            write_whole(to / _MANIFEST, json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--to={to}: cannot be written ({os_reason(error)})") from None
    finally:
        if not existed:
            # Removed only if it is empty, because nothing was exported.
            remove_folder(to, ())
    _show(model, to, checked)


def _manifest(model: ModelRun, purpose: Purpose, config: dict[str, Any], checked: Sequence[Checked]) -> dict[str, Any]:
    data, table = model.run.data, any(file.columns for file in checked)
    trained = {k.removeprefix("version."): v for k, v in sorted(data.tags.items()) if k.startswith("version.")}
    return {
        "sweep": model.sweep,
        "trial": model.trial,
        "run_id": model.run.info.run_id,
        "hyperparameters": config["model"],
        "scores": {k: v for k, v in sorted(data.metrics.items()) if k.startswith(("best_", "confirmed_", "test_"))},
        "data": {
            key.removeprefix("data."): int(value) if value.isdigit() and key != "data.digest" else value
            for key, value in sorted(data.tags.items())
            # The names are in `target`.
            if key.startswith("data.") and key != "data.names"
        },
        "target": _target(purpose),
        "input": (
            "a column or more for each input: see columns of each file"
            if table
            else "float32 in 0..255, shape (N, height, width, channels); the model divides by 255 itself"
            + _FITTED.get(purpose.resize or "", "")
            if "data.image" in data.tags
            else "float32, as in the data, shape (N, …)"
        ),
        "output": _output(purpose),
        "latency": (
            f"seconds for one {'image' if 'data.image' in data.tags else 'row'}, the median of up to 200 calls on one "
            f"thread of {_processor()}"
        ),
        "versions": {"trained": trained, "exported": versions()},
        "files": {file.format.file: _about(file, config["model"]) for file in checked},
    }


def _target(purpose: Purpose) -> dict[str, Any]:
    """What the model predicts: its classes, labels or numbers in the order of its outputs, and their units."""
    if purpose.target.kind in ("array", "several"):
        return {"task": purpose.task, "outputs": purpose.target.about}
    found: dict[str, Any] = {"task": purpose.task, purpose.target.kind: purpose.names}
    if purpose.column:
        found["column"] = purpose.column
    if purpose.target.kind == "numbers":
        found["units"] = "as in the training data: predictions are not scaled"
    return found


def _output(purpose: Purpose) -> str:
    if purpose.task == "custom":
        return "float32, the values of each output by its name, shape (N, …)"
    names, size = purpose.names, purpose.target.size
    if purpose.target.kind == "numbers":
        return f"float32, {_listed(names)}, in the units of the training data, shape (N, {size})"
    if purpose.task == "binary":
        return f"float32, the probability of the second class, {names[1]}, shape (N, 1)"
    what = "label" if purpose.target.kind == "labels" else "class"
    return f"float32, the probability of each {what}: {_listed(names)}, shape (N, {size})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" … as in target" if len(names) > _SHOWN else "")


def _about(file: Checked, model: dict[str, Any]) -> dict[str, Any]:
    builder = made_by(model)
    use = OF_TABLES[file.format.name] if file.columns else file.format.use
    imports = [f"import {builder.partition(':')[0]}  # registers the model's custom layers"] if builder else []
    return {
        "format": file.format.name,
        "bytes": _size(file.path),
        "sha256": _digest(file.path),
        "largest_difference": file.difference,
        "allowed_difference": file.tolerance,
        "because": file.format.why,
        **({"accuracy": file.accuracy} if file.accuracy else {}),
        "latency": file.latency,
        "use": [*(imports if file.format.name in ("h5", "keras") else []), *use],
        **({"columns": file.columns} if file.columns else {}),
    }


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _digest(path: Path) -> str | dict[str, str]:
    digests = {str(file.relative_to(path)): digest_of(file) for file in _files(path)}
    return digests if path.is_dir() else digests["."]


def _processor() -> str:
    """The processor's name, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _earlier(to: Path) -> tuple[str | None, dict[str, Any]]:
    """The run's id and the files of an earlier export to a folder; None and empty if there was none.

    Raises:
        UserError: The folder has a manifest that no export wrote.
    """
    path = to / _MANIFEST
    if not os.path.lexists(path):
        return None, {}
    what = f"--to={to}: contains {_MANIFEST}"
    try:
        manifest = json.loads(read_text(path, what, _LARGEST_MANIFEST))
        files = {str(name): about["sha256"] for name, about in manifest["files"].items()}
        ours = bool(manifest["sweep"] and manifest["run_id"]) and set(files) <= {f.file for f in FORMATS.values()}
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise UserError(f"{what}, which export did not write; give another folder")
    return manifest["run_id"], manifest["files"]


def _check_ours(to: Path, wanted: Sequence[str], replaced: Sequence[str], earlier: Mapping[str, Any]) -> None:
    """Refuses a folder in which a file that no export wrote would be replaced or removed."""
    for name in wanted:
        if os.path.lexists(to / name) and name not in earlier:
            raise UserError(f"--to={to}: contains {name}, which export did not write; give another folder")
    for name in replaced:
        listed = _written(earlier[name]) if name in earlier else {}
        others = [file for file in _inside(to / name) if file not in listed]
        if others:
            raise UserError(f"--to={to}: contains {name}/{others[0]}, which export did not write; give another folder")


def _inside(folder: Path) -> list[str]:
    """The files in a folder and below it, links to folders included; none if it is not a folder."""
    if folder.is_symlink():
        return []
    return [
        str(Path(place, name).relative_to(folder))
        for place, folders, files in os.walk(folder)
        for name in (*files, *(one for one in folders if Path(place, one).is_symlink()))
    ]


def _written(about: Mapping[str, Any]) -> Mapping[str, str]:
    """The files of an exported folder, with their digests; none for an exported file."""
    return about["sha256"] if isinstance(about["sha256"], dict) else {}


def _remove(path: Path, earlier: Mapping[str, Any]) -> None:
    """Removes what an earlier export wrote: of a folder the listed files, and the folder itself if it is then empty."""
    if not path.is_dir() or path.is_symlink():
        remove(path)
        return
    listed = _written(earlier.get(path.name, {"sha256": {}}))
    for place, _, files in os.walk(path, topdown=False):
        ours = [name for name in files if str(Path(place, name).relative_to(path)) in listed]
        remove_folder(Path(place), map(glob.escape, ours))


def _show(model: ModelRun, to: Path, checked: Sequence[Checked]) -> None:
    console, images = standard_output(), "data.image" in model.run.data.tags
    columns = [
        Column("file", [file.format.file for file in checked], 5),
        Column("size", [format_size(_size(to / file.format.file)) for file in checked], 4),
        Column("largest difference", [f"{file.difference:.1e}" for file in checked], 3),
        Column("one image" if images else "one row", [f"{file.latency * 1000:.3g} ms" for file in checked], 2),
    ]
    if any(file.accuracy for file in checked):
        columns.append(Column("accuracy", [_lost(file) for file in checked], 4))
    say = line_printer(console)
    say(f"exported trial {model.trial} of {model.sweep} to {to}")
    show(console, columns, "Checked against the run's predictions")
    for file in checked:
        if file.accuracy:
            about = file.accuracy
            say(f"{file.format.file}: accuracy on {about['images']}; calibrated on {about['calibration']}")
    others = "the columns of the table" if checked[0].columns else "arrays as in the data"
    takes = "raw pixels, 0 to 255" if images else others
    say(f"Each takes {takes}. {_MANIFEST} has more details, and the code to use them.")


def _lost(file: Checked) -> str:
    return f"{file.accuracy['float32']:.4f} → {file.accuracy['int8']:.4f}" if file.accuracy else ""
