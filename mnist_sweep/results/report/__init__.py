"""`python -m mnist_sweep report`: a sweep as one HTML file that works offline.

The template, the style and the scripts are the files next to this one. Everything that comes from the user is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.text import os_reason, printable
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.results.models.model_run import find_named
from mnist_sweep.results.report.content import gather
from mnist_sweep.results.report.leaderboard import leaderboard
from mnist_sweep.results.report.plots import draw
from mnist_sweep.results.report.winner import retraining, winner
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.results.runs.local import local_folder
from mnist_sweep.tracking.tags import TAG_TRIAL

if TYPE_CHECKING:
    from mlflow.entities import Run

FILE = "report.html"
_HERE = Path(__file__).parent


def report(sweep: str | None, trial: int | None, tracking_uri: str | None, to: Path | None) -> Path:
    """Writes the report of a sweep.

    Args:
        sweep: As for `find_named`.
        trial: A trial to show in detail in place of the winner, as for `find_named`.
        tracking_uri: As for `load_runs`.
        to: The file; None for `report.html`, or `report-trial-N.html`, in the sweep's folder.

    Returns:
        The file.

    Raises:
        UserError: The sweep does not exist, the sweep's folder is not here and no file is given, or the file cannot be
            written.
    """
    found, named = find_named(sweep, trial, tracking_uri)
    if to is not None and to.is_dir():
        raise UserError(f"--to={to}: is a folder; name a file in it")
    path = to
    if path is None:
        folder = local_folder(sweep, found.sweep)
        if folder is None:
            raise UserError(
                f"{found.sweep}: its folder is not in {SWEEPS}/ here; give the file to write with --to=FILE"
            )
        path = folder / (FILE if named is None else f"report-trial-{named.data.tags[TAG_TRIAL]}.html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(found, path, named)
    except OSError as error:
        raise UserError(f"--to={path}: cannot be written ({os_reason(error)})") from None
    return path


def write(found: SweepRuns, path: Path, named: Run | None = None) -> None:
    """Writes the report of a sweep, which may still be running.

    Args:
        found: The sweep.
        path: The file, in an existing folder. It is replaced at once, when the report is complete.
        named: The run of a trial to show in detail in place of the winner.

    Raises:
        OSError: The file cannot be written.
    """
    write_whole(path, _page(found, named), follow=True)


def _page(found: SweepRuns, named: Run | None) -> str:
    frame = found.frame()
    table = leaderboard(frame, found.objectives, found.space)
    with tempfile.TemporaryDirectory() as fetched:
        again = retraining(found, Path(fetched))
        best = winner(found, frame, table.board, again, named)
        drawn = draw(found, frame, found.curves(), best, Path(fetched))
    script = "(() => {\n" + "\n".join(_text(name) for name in ("page.js", "axes.js", "parallel.js")) + "})();\n"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        **gather(found, frame, best),
        winner=best,
        retraining=again,
        board=table,
        plots=drawn,
        objective=found.objective.name,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        style=_trusted(_text("report.css")),
        script=_trusted(script),
        script_hash=_trusted(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        data=_trusted(_as_json(table.for_script())),
    )


def _as_json(content: dict[str, Any]) -> str:
    """JSON that is safe inside a script: browsers end a script at `</script` wherever that is."""
    text = json.dumps(_printable(content), separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _printable(value: Any) -> Any:
    """A value with invisible characters in its texts written as escapes, such as those that reverse the text."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, sys.maxsize)
    if isinstance(value, dict):
        return {key: _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _trusted(text: str) -> Markup:
    """A text of this package, which is not escaped."""
    return Markup(text)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
