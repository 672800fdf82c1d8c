"""`python -m mnist_sweep report`: a sweep as one HTML file that needs nothing else, no network either.

The page is a template with its own style and script beside it; everything that comes from the user is escaped.
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
from typing import Any

import jinja2
from markupsafe import Markup

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.text import os_reason, printable
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.results.report.content import gather
from mnist_sweep.results.report.leaderboard import Leaderboard, leaderboard
from mnist_sweep.results.report.pictures import draw
from mnist_sweep.results.runs.find import SweepRuns, find_sweep, local_folder

FILE = "report.html"
_HERE = Path(__file__).parent


def report(sweep: str | None, tracking_uri: str | None, to: Path | None) -> Path:
    """Writes the report of a sweep.

    Args:
        sweep: As for `load_runs`.
        tracking_uri: As for `load_runs`.
        to: The file; None for `report.html` in the sweep's folder.

    Returns:
        The file.

    Raises:
        UserError: There is no such sweep, its folder is not here and no file was given, or it cannot be written.
    """
    found = find_sweep(sweep, tracking_uri)
    if to is not None and to.is_dir():
        raise UserError(f"--to={to}: is a folder; name a file in it")
    path = to
    if path is None:
        folder = local_folder(sweep, found.sweep)
        if folder is None:
            raise UserError(f"{found.sweep}: its folder is not in {SWEEPS}/ here; say with --to=FILE where to write")
        path = folder / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(found, path)
    except OSError as error:
        raise UserError(f"--to={path}: cannot be written ({os_reason(error)})") from None
    return path


def write(found: SweepRuns, path: Path) -> None:
    """Writes the report of a sweep, which may still run.

    Args:
        found: The sweep.
        path: The file, whose folder exists; it is there only when it is whole.

    Raises:
        OSError: It cannot be written.
    """
    write_whole(path, _page(found), follow=True)


def _page(found: SweepRuns) -> str:
    frame = found.frame()
    with tempfile.TemporaryDirectory() as fetched:
        told = gather(found, frame, Path(fetched))
        drawn = draw(found, frame, found.curves(), told.winner, Path(fetched))
    table = leaderboard(frame, found.objectives, found.domains)
    script = "(() => {\n" + "\n".join(_text(name) for name in ("page.js", "axes.js", "parallel.js")) + "})();\n"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        finalize=_readable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        content=told,
        board=table,
        front=set(table.front),
        pictures=drawn,
        objective=found.objective.name,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        style=_own(_text("report.css")),
        script=_own(script),
        script_hash=_own(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        data=_own(_in_script(_for_script(table))),
    )


def _for_script(table: Leaderboard) -> dict[str, Any]:
    scores = sum(column.axis != "" and column.score for column in table.columns)
    columns = [column.for_script() for column in table.columns]
    return {"trials": table.trials, "columns": columns, "colour": table.colour, "objectives": scores}


def _in_script(content: dict[str, Any]) -> str:
    """JSON that no value in it can leave: the browser ends a script at `</script`, whatever is around that."""
    text = json.dumps(_readable(content), separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _readable(value: Any) -> Any:
    """A value whose texts have escapes for what nobody would see, such as a change of the direction of writing."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, sys.maxsize)
    if isinstance(value, dict):
        return {key: _readable(inner) for key, inner in value.items()}
    return [_readable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _own(text: str) -> Markup:
    """What is no user's, and needs no escaping."""
    return Markup(text)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
