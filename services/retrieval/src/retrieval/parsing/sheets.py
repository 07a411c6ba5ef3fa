"""Excel workbooks, and CSV."""

import csv
import datetime
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.package import check_package, unreadable
from retrieval.parsing.tables import by_rows
from retrieval.parsing.text import decode

if TYPE_CHECKING:
    from zipfile import ZipFile

_EXCEL = ("Excel workbook", ".xlsx")
# The reader holds a sheet as a full rectangle, about 32 bytes a cell.
_MAX_CELLS = 8_000_000
_DIMENSION = re.compile(rb'<(?:\w+:)?dimension[^>]*\bref="(?:[A-Z]+\d+:)?([A-Z]+)(\d+)"')
_NUMBER = re.compile(r"[-+0-9.,:% ]+")
# Names of columns stand below a title, if not in the first row.
_TITLE_ROWS = 10
_SHEET = re.compile(r"xl/worksheets/[^/]+\.xml", re.IGNORECASE)


def excel(file: Path) -> tuple[list[Section], list[str]]:
    """The values of all sheets that are shown, row by row under the names of their columns."""
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum  # noqa: PLC0415

    with check_package(file, kind=_EXCEL[0], suffix=_EXCEL[1]) as package:
        _check_extent(package)
    sections: list[Section] = []
    hidden: list[str] = []
    try:
        with CalamineWorkbook.from_path(str(file)) as workbook:
            for sheet in workbook.sheets_metadata:
                if sheet.typ != SheetTypeEnum.WorkSheet:
                    continue
                if sheet.visible != SheetVisibleEnum.Visible:
                    hidden.append(sheet.name)
                    continue
                sections += _sheet(sheet.name, workbook.get_sheet_by_name(sheet.name).iter_rows())
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise unreadable(*_EXCEL, error) from error
    names = ", ".join(hidden[:10]) + (", …" if len(hidden) > 10 else "")
    return sections, [f"hidden sheets are left out: {names}"] if hidden else []


def _check_extent(package: "ZipFile") -> None:
    for part in package.infolist():
        if not _SHEET.fullmatch(part.filename):
            continue
        try:
            with package.open(part) as opened:
                found = _DIMENSION.search(opened.read(4096))
        except Exception as error:
            raise unreadable(*_EXCEL, error) from error
        if found is None:
            continue
        columns = 0
        for letter in found[1]:
            columns = columns * 26 + letter - 64
        if columns * int(found[2]) > _MAX_CELLS:
            raise Unreadable(
                f"a sheet ({part.filename}) reaches to cell {found[1].decode()}{found[2].decode()}, that is "
                f"{columns * int(found[2]):,} cells; at most {_MAX_CELLS:,} are read. Delete the cells far "
                "off, or split it.",
                reason="DOCUMENT_TOO_LARGE",
            )


def _sheet(name: str, rows: Iterable[Sequence[Any]]) -> Iterator[Section]:
    """Rows under the names of their columns, if a row near the top looks like names."""

    def place(first: int, last: int) -> str:
        return f"{name}!{first}:{last}"

    shown = ((number, list(map(_shown, row))) for number, row in enumerate(rows, 1))
    numbered = ((number, row) for number, row in shown if any(row))
    top = list(itertools.islice(numbered, _TITLE_ROWS))
    at = next((index for index, (_, row) in enumerate(top) if _names_columns(row)), None)
    if at is None:
        yield from by_rows([], itertools.chain(top, numbered), place=place)
        return
    yield from by_rows([], top[:at], place=place)
    below = list(by_rows(top[at][1], itertools.chain(top[at + 1 :], numbered), place=place))
    yield from below or by_rows([], [top[at]], place=place)


def _names_columns(row: Sequence[str]) -> bool:
    """Several cells, each different, most of them words."""
    cells = [cell for cell in row if cell]
    words = [cell for cell in cells if not _NUMBER.fullmatch(cell)]
    return len(cells) > 1 and len(set(cells)) == len(cells) and len(words) * 2 >= len(cells)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat(*([" "] if isinstance(value, datetime.datetime) else []))
    return str(value).strip()


def separated(delimiter: str) -> Callable[[Path], tuple[list[Section], list[str]]]:
    """CSV or TSV; of a CSV the first line tells what separates it."""

    def read_separated(file: Path) -> tuple[list[Section], list[str]]:
        text, warnings = decode(file.read_bytes())
        # The limit is the process's, and other readers live in it (importlib.metadata): only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
        used = _delimiter(text) if delimiter == "," else delimiter
        reader = csv.reader(io.StringIO(text), delimiter=used)
        rows = (row for row in reader if any(map(str.strip, row)))
        try:
            names = next(rows, [])
            sections = list(by_rows(names, enumerate(rows, 1), place=_rows, keep_empty=True))
        except csv.Error as error:
            raise Unreadable(f"the file is not readable CSV: {error}") from error
        return sections or [Section(text=text)], warnings

    return read_separated


def _rows(first: int, last: int) -> str:
    return f"rows {first}-{last}"


def _delimiter(text: str) -> str:
    first = text[: text.find("\n")] if "\n" in text else text
    return max(",;\t|", key=first.count) if any(sign in first for sign in ",;\t|") else ","
