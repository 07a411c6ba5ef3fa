"""Tables to text that keeps each value beside the name of its column."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from retrieval.core.chunking import Section

# A chunk's place is its section's: small enough to be of use, large enough to fill a chunk.
_ROWS_A_SECTION = 50
_CHARACTERS_A_SECTION = 1_500


def flowing(rows: Sequence[Sequence[str]], *, header: bool | None = None) -> list[str]:
    """A table inside a text: one line a row, `name: value | name: value`.

    Args:
        rows: Its cells.
        header: Whether the first row names the columns; None: if it looks like it.
    """
    shown = [[" ".join(cell.split()) for cell in row] for row in rows]
    shown = [row for row in shown if any(row)]
    if header is None:
        header = bool(shown) and _names_columns(shown)
    if not header or len(shown) < 2:
        return [" | ".join(row).strip(" |") for row in shown]
    return [row_line(shown[0], row) for row in shown[1:]]


def row_line(names: Sequence[str], row: Sequence[str]) -> str:
    """The cells that are not empty, in one line."""
    return " | ".join(_named(names, row))


def _names_columns(rows: Sequence[Sequence[str]]) -> bool:
    """At least two columns, each with a name of its own, above at least one row."""
    first = rows[0]
    return len(rows) > 1 and len(first) > 1 and all(first) and len(set(first)) == len(first)


def by_rows(
    names: Sequence[str],
    rows: Iterable[tuple[int, Sequence[str]]],
    *,
    place: Callable[[int, int], str],
    keep_empty: bool = False,
) -> Iterator[Section]:
    """A table that is a document of its own: a paragraph a row, sections of some rows.

    Args:
        names: Of the columns; may be shorter than a row, or empty.
        rows: With their numbers, as a reader of the file counts them.
        place: What a section of the rows from the first to the last is called.
        keep_empty: Whether `name: ` is written for an empty cell.
    """
    texts: list[str] = []
    size = first = last = 0
    for number, row in rows:
        text = "\n".join(_named(names, row, keep_empty=keep_empty))
        if texts and (len(texts) == _ROWS_A_SECTION or size + len(text) > _CHARACTERS_A_SECTION):
            yield Section(text="\n\n".join(texts), page=place(first, last))
            texts, size = [], 0
        first = first if texts else number
        last = number
        texts.append(text)
        size += len(text)
    if texts:
        yield Section(text="\n\n".join(texts), page=place(first, last))


def _named(names: Sequence[str], row: Sequence[str], *, keep_empty: bool = False) -> Iterator[str]:
    for column in range(max(len(names), len(row))):
        name = names[column].strip() if column < len(names) else ""
        value = row[column].strip() if column < len(row) else ""
        if value or (name and keep_empty):
            yield f"{name}: {value}" if name else value
