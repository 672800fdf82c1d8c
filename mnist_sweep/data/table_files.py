"""Reads tables: CSV, Parquet and Excel files."""

from __future__ import annotations

import csv
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line, one_line, os_reason

if TYPE_CHECKING:
    from pandas import DataFrame

# The ends of names → the packages of which one reads such files; pandas itself reads the others.
_PARQUET, _EXCEL = (".parquet", ".pq"), (".xlsx", ".xlsm", ".xls", ".ods")
_PACKAGES = {".xls": ("xlrd", "python_calamine"), ".ods": ("odf", "python_calamine")}
_MODERN_EXCEL = ("openpyxl", "python_calamine")
# Their names in `pip install`.
_DISTRIBUTIONS = {"odf": "odfpy"}
# The ends of the names of files that pandas does not decompress.
_PLAIN = (".csv", ".tsv", ".txt", ".data", "")
_READ_AT_ONCE = 1 << 20
_SEPARATORS = ",;\t|"


def read(given: str, key: str | None = "data.path") -> DataFrame:
    """Reads a table.

    Args:
        given: A Parquet or Excel file (its first sheet), by the end of its name, or else a CSV file, compressed or not,
            whose values are separated by commas, semicolons, tabs or bars.
        key: What names the file, for messages; None if it is named itself.

    Returns:
        The table, with at least one row; its columns have different names, which are texts.

    Raises:
        UserError: It cannot be read, has no rows, or two columns have the same name.
    """
    where = given if key is None else f"{key}={given}"
    try:
        path = Path(given).expanduser()
        if path.is_dir():
            raise UserError(f"{where}: is a folder; give a CSV, Parquet or Excel file")
        if not path.exists():
            raise UserError(f"{where}: no such file")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({first_line(error)})") from None
    suffix = path.suffix.lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if suffix in _PARQUET:
                frame = _parquet(path, where)
            elif suffix in _EXCEL:
                frame = _excel(path, where)
            else:
                frame = _csv(path, where)
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{where}: needs more memory than this machine has") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not a table in UTF-8; save it as CSV in UTF-8, Parquet or Excel") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({os_reason(error)})") from None
    except Exception as error:
        # pandas and the packages that it uses raise many kinds of errors for damaged files.
        raise UserError(f"{where}: pandas cannot read it ({first_line(error, 200)})") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    _refuse_duplicates(list(frame.columns), where)
    if not len(frame):
        raise UserError(f"{where}: has no rows")
    return frame


def _csv(path: Path, where: str) -> DataFrame:
    import pandas as pd

    # Its first lines in one piece, in which pandas would rename the second of two columns with the same name.
    first: dict[str, Any] = {"header": None, "nrows": 2, "dtype": str, "sep": "\x01", "quoting": csv.QUOTE_NONE}
    first |= {"on_bad_lines": "skip"}
    try:
        header, *following = map(str, pd.read_csv(path, **first, encoding="utf-8-sig").iloc[:, 0])
        separator = max(_SEPARATORS, key=header.count)
        names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        _refuse_duplicates([name.strip() for name in names if name.strip()], where)
        frame = _read_csv(path, separator, spaced=_is_spaced(path, separator.encode()))
    except pd.errors.EmptyDataError:
        raise UserError(f"{where}: is empty") from None
    line = following[0] if following else ""
    ends = line.count(separator) == len(names) and not line.rpartition(separator)[2].strip()
    # Pandas takes the first value of a line for the name of a row if there are more values than columns.
    if ends and '"' not in line and frame.iloc[:, -1].isna().all():
        raise UserError(
            f"{where}: its lines have one value more than there are names of columns, and the last value is empty; "
            "remove the separator at the end of each line, or name all columns"
        )
    return frame


def _read_csv(path: Path, separator: str, *, spaced: bool) -> DataFrame:
    import pandas as pd

    try:
        # In chunks, and without looking for spaces: half the time.
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.DtypeWarning)
            return pd.read_csv(path, sep=separator, skipinitialspace=spaced)
    except pd.errors.DtypeWarning:
        # The chunks of a column differ, and only all of its values together show what it is.
        return pd.read_csv(path, sep=separator, skipinitialspace=spaced, low_memory=False)


def _is_spaced(path: Path, separator: bytes) -> bool:
    """Returns whether a value in a file may begin with a space; one that pandas decompresses may have any."""
    if path.suffix.lower() not in _PLAIN:
        return True
    spaces = [ord(space) for space in " \t" if space.encode() != separator]
    # The first line begins like the others.
    end = b"\n"
    with path.open("rb") as file:
        while block := file.read(_READ_AT_ONCE):
            # Six times as fast as looking for each pair of bytes.
            content = np.frombuffer(end + block, np.uint8)
            places = np.flatnonzero(np.isin(content[1:], spaces))
            if np.isin(content[places], list(separator + b"\n\r")).any():
                return True
            end = block[-1:]
    return False


def _parquet(path: Path, where: str) -> DataFrame:
    import pandas as pd

    _check_installed(where, ("pyarrow", "fastparquet"))
    frame = pd.read_parquet(path)
    # Of a table that was saved with an index, which pandas restores.
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def _excel(path: Path, where: str) -> DataFrame:
    import pandas as pd

    suffix = path.suffix.lower()
    packages = _PACKAGES.get(suffix, _MODERN_EXCEL)
    _check_installed(where, packages)
    engine: Literal["calamine"] | None = "calamine" if find_spec(packages[0]) is None else None
    # Without a header, as pandas would rename the second of two columns with the same name.
    cells = pd.read_excel(path, header=None, engine=engine)
    if not len(cells):
        raise UserError(f"{where}: its first sheet is empty")
    frame = cells.iloc[1:].reset_index(drop=True).infer_objects()
    frame.columns = ["" if pd.isna(name) else name for name in cells.iloc[0]]
    return frame


def _check_installed(where: str, packages: tuple[str, ...]) -> None:
    if all(find_spec(package) is None for package in packages):
        wanted = _DISTRIBUTIONS.get(packages[0], packages[0])
        raise UserError(f"{where}: pandas needs {wanted} to read it; {invocation.pip_install(wanted)}")


def _refuse_duplicates(names: list[str], where: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"{where}: has two columns named {one_line(twice, 50) or 'nothing'}; rename one of them")
