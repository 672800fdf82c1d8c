"""The table of what works for which task is the one that the tests recorded."""

from __future__ import annotations

import task_table


def test_the_page_has_the_recorded_table() -> None:
    assert task_table.on_page() == task_table.table()


def test_every_cell_works_or_says_why_not() -> None:
    found = task_table.recorded()
    silent = [
        (row, task)
        for row in task_table.ROWS
        for task in task_table.TASKS
        if not found.get(row, {}).get(task) and (row, task) not in task_table.NOTES
    ]
    assert silent == []
