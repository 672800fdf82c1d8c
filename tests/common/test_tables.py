"""Tables that stay readable in a narrow terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mnist_sweep.common import tables
from mnist_sweep.common.tables import Column, fitting, line_printer, markdown, show, standard_output


def printed(columns: list[Column], width: int, title: str = "A title") -> tuple[list[str], int]:
    file = StringIO()
    left_out = show(Console(file=file, width=width), columns, title)
    return [line.rstrip() for line in file.getvalue().splitlines()], len(left_out)


def headings(columns: list[Column], limit: int) -> list[str]:
    table, left_out = fitting(columns, "", limit)
    kept = [str(column.header) for column in table.columns]
    assert left_out == [column.heading for column in columns if column.heading not in kept]
    return kept


def test_table_has_title_headings_and_rows():
    lines, left_out = printed([Column("trial", ["0", "11"]), Column("units", ["512", Text("16")])], 80)
    assert left_out == 0
    assert [line.split() for line in lines if line.strip(" ─")] == [
        ["A", "title"],
        ["trial", "units"],
        ["0", "512"],
        ["11", "16"],
    ]


@pytest.mark.parametrize(
    ("column", "width"),
    [
        (Column("units"), 5),
        (Column("units", ["1", "12"]), 5),
        (Column("units", ["1", "1234567"]), 7),
        (Column("", []), 0),
        (Column("a", [Text("running on gpu0", "red")]), 15),
    ],
)
def test_column_is_as_wide_as_its_widest_cell(column, width):
    assert column.width == width


_WEIGHTS = [("a", 1), ("b", 0), ("c", 2), ("d", 0), ("e", 1)]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (200, "abcde"),
        (66, "abcde"),
        # Each takes ten characters, and two blanks and one of the box between it and the next.
        (63, "abce"),
        (53, "abce"),
        (50, "ace"),
        (40, "ace"),
        (37, "ac"),
        (27, "ac"),
        (24, "c"),
        (3, "c"),
    ],
)
def test_columns_of_low_weight_are_left_out_first_and_of_equal_ones_the_last(limit, kept):
    columns = [Column(name, ["x" * 10], weight) for name, weight in _WEIGHTS]
    assert headings(columns, limit) == list(kept)


@pytest.mark.parametrize("width", [20, 40, 62, 80, 200])
def test_lines_are_no_longer_than_the_terminal(width):
    lines, left_out = printed([Column(name, ["x" * 10, "–" * 10], weight) for name, weight in _WEIGHTS], width)
    assert max(map(cell_len, lines)) <= width
    shown = next(line.split() for line in lines if "c" in line.split())
    assert len(shown) + left_out == len(_WEIGHTS)
    # The columns that are shown are complete.
    assert not any("…" in line for line in lines)


def test_column_wider_than_the_terminal_is_still_shown():
    lines, left_out = printed([Column("units", ["x" * 100])], 40)
    assert left_out == 0
    assert max(map(cell_len, lines)) <= 40
    assert any("xxx" in line for line in lines)


def test_table_without_rows_has_headings():
    lines, _ = printed([Column("trial"), Column("units")], 80)
    assert ["trial", "units"] in [line.split() for line in lines]


@pytest.mark.parametrize("cell", ["[relu]", "[/x]", "[bold]512"])
def test_a_cell_is_shown_unchanged(cell):
    lines, _ = printed([Column("model.builder", [cell])], 80)
    assert cell in [line.strip() for line in lines]


@pytest.mark.parametrize("cell", ["[512, 256]", "['relu', 'tanh']", "512:16", "a\\b"])
def test_lists_and_paths_are_shown_unchanged(cell):
    lines, _ = printed([Column("model.units", [cell])], 80)
    assert cell in [line.strip() for line in lines]


@pytest.mark.parametrize(("wished", "most"), [("", 160), ("80", 80), ("0", 160), ("many", 160)])
def test_a_pipe_gets_lines_of_160_characters_or_of_the_variable_columns(monkeypatch, wished, most):
    pipe = StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setenv("COLUMNS", wished)
    # As a notebook does.
    monkeypatch.setenv("FORCE_COLOR", "1")
    columns = [Column(f"column_{i}", ["x" * 12]) for i in range(30)]
    left_out = show(standard_output(), columns, "A title")
    row = next(line for line in pipe.getvalue().splitlines() if "xxx" in line)
    assert most - 15 < len(row) <= most
    assert row.split() == ["x" * 12] * (30 - len(left_out))
    assert "\x1b" not in pipe.getvalue()


def test_closing_the_pipe_does_not_end_the_program() -> None:
    code = (
        "from mnist_sweep.common.tables import standard_output\n"
        "console = standard_output()\n"
        "for number in range(20_000):\n"
        "    console.print(f'line {number}')\n"
        "import sys\n"
        "print('all', file=sys.stderr)\n"
    )
    done = subprocess.run(
        f"{sys.executable} -c \"$CODE\" | head -1",
        shell=True, env={**os.environ, "CODE": code}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "line 0\n"
    assert done.stderr == "all\n"


def test_closing_the_terminal_does_not_end_the_program() -> None:
    code = (
        "import sys\n"
        "from mnist_sweep.common.tables import standard_output\n"
        "console = standard_output()\n"
        "sys.stdin.readline()\n"
        "console.print('nobody reads this')\n"
        "console.print('nor this')\n"
        "print('all', file=sys.stderr)\n"
    )
    ours, theirs = os.openpty()
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    os.close(ours)
    assert started.communicate("\n") == (None, "all\n")
    assert started.returncode == 0


def test_the_title_of_a_narrow_table_is_not_wrapped():
    lines, _ = printed([Column("units", ["8"])], 80, "small/2026-11-28_12-07-04")
    assert lines[0] == "small/2026-11-28_12-07-04"


def test_names_between_colons_do_not_become_emojis(capsys):
    for console in (standard_output(), Console(emoji=True)):
        line_printer(console)("model.builder=own:ok: raised")
    standard_output().print("own:ok: again")
    assert capsys.readouterr().out.splitlines() == ["model.builder=own:ok: raised"] * 2 + ["own:ok: again"]


def test_text_from_outside_neither_controls_the_terminal_nor_breaks_lines():
    hostile = "a\x1b[31m\nb\u202ec\udce9 [red]d[/red]"
    lines, _ = printed([Column(hostile, [hostile, Text("1")]), Column("units", ["8", "9"])], 200, hostile)
    shown = "a\\x1b[31m b\\u202ec\\udce9 [red]d[/red]"
    assert lines[0] == shown
    assert [line.split("  ")[0].strip() for line in lines[2:] if line.strip(" ─")] == [shown, shown, "1"]


def test_a_bar_or_a_line_feed_does_not_break_a_markdown_table():
    text = markdown([Column("a|b", ["c|d\ne"]), Column("x", ["1"])])
    assert text.splitlines() == ["| a\\|b | x |", "| --- | --- |", "| c\\|d e | 1 |"]


def test_counting_prints_lines_on_standard_error_where_nothing_can_be_redrawn(capsys, monkeypatch):
    monkeypatch.setattr(tables, "_SECONDS_PER_LINE", 0.0)
    with tables.counting("Reading pictures", 3) as step:
        for _ in range(3):
            step()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split("  ")[1] for line in shown.err.splitlines()] == [
        "Reading pictures: 1 of 3",
        "Reading pictures: 2 of 3",
    ]
