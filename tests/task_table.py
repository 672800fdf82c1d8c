"""The table in docs/tasks.md of what works for which task, made from the tests that ran it.

`make task-table` runs tests/e2e/test_every_task.py, which records each cell in tests/fixtures/task_table.json, and
writes the table. `python tests/task_table.py` only writes the table from what is recorded.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "fixtures" / "task_table.json"
PAGE = ROOT / "docs" / "tasks.md"
# Where tests record what ran; they record nothing without it.
VARIABLE = "RECORD_TASKS"

TASKS = {
    "classification": "classification",
    "binary": "binary",
    "multilabel": "multilabel",
    "regression": "regression",
    "custom": "several outputs",
}
ALGORITHMS = (
    "random", "grid", "none", "bayesian", "tpe", "gp", "cmaes", "hyperband", "asha", "median", "nsga2", "pbt", "own",
)  # fmt: skip
FORMATS = ("h5", "keras", "savedmodel", "tflite", "onnx")
ROWS = {
    **{f"search={name}": f"`search={name}`" for name in ALGORITHMS if name != "own"},
    "search=own": "your own search algorithm",
    "kfold": "`validation=kfold`",
    "repeats": "`repeats`",
    "confirm": "`confirm`",
    "resume": "`resume` after `kill -9`",
    "rerun": "`rerun`, the same metrics to the last bit",
    "compare": "`compare`",
    **{f"export={name}": f"`export --format={name}`, its predictions checked" for name in FORMATS},
    "registry": "MLflow's model registry",
    "report": "`report`",
    "python": "from Python and notebooks",
}
# Why a cell cannot work, or was not run.
NOTES: dict[tuple[str, str], str] = {
    (
        "search=gp",
        task,
    ): "Needs PyTorch (the extra `gp`), which the machine that made this table lacks."
    for task in TASKS
}
_BEGIN, _END = "<!-- made by make task-table -->", "<!-- end -->"


def record(row: str, task: str, *, works: bool) -> None:
    """Records whether a cell works, if the tests run to record."""
    if not os.environ.get(VARIABLE):
        return
    # Several tasks may be tested at once.
    with RECORD.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = recorded()
        found.setdefault(row, {})[task] = works
        in_order = {
            row: {task: found[row][task] for task in TASKS if task in found[row]} for row in ROWS if row in found
        }
        RECORD.write_text(json.dumps(in_order, indent=1) + "\n")


def recorded() -> dict[str, dict[str, bool]]:
    """Returns what the tests have recorded, by row and task."""
    text = RECORD.read_text() if RECORD.exists() else ""
    return json.loads(text) if text else {}


def table() -> str:
    """Returns the table in Markdown, with its footnotes."""
    found, notes = recorded(), list[str]()
    lines = [f"| | {' | '.join(TASKS.values())} |", f"|---|{'---|' * len(TASKS)}"]
    for row, text in ROWS.items():
        cells = []
        for task in TASKS:
            note = NOTES.get((row, task))
            if note and note not in notes:
                notes.append(note)
            mark = f"<sup>{notes.index(note) + 1}</sup>" if note else ""
            cells.append({True: "yes", False: "no", None: "–"}[found.get(row, {}).get(task)] + mark)
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. {note}" for i, note in enumerate(notes, start=1))]).strip()


def on_page() -> str:
    """Returns the table that the page has."""
    return PAGE.read_text().partition(_BEGIN)[2].partition(_END)[0].strip()


def main() -> None:
    """Writes the table into the page."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{table()}\n\n{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    main()
