"""HTML to sections by heading: what a reader sees."""

from html.parser import HTMLParser

from retrieval.core.chunking import Section
from retrieval.parsing.markup import Outline
from retrieval.parsing.tables import flowing

_SKIPPED = {"script", "style", "template", "noscript", "svg", "title"}
_BLOCKS = {
    *("p", "div", "section", "article", "header", "footer", "main", "nav", "aside", "ul", "ol", "dl"),
    *("li", "dt", "dd", "table", "tr", "pre", "blockquote", "figure", "figcaption", "form", "br", "hr"),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


_MAX_SPAN = 50


class _Table:
    """A table whose first row names its columns; one without names is laid out as text."""

    def __init__(self) -> None:
        self.nested = 0
        self._caption: list[str] = []
        self._rows: list[list[str]] = []
        self._cells: list[list[str]] = []
        self._spans: list[int] = []
        self._names = True

    def cell(self, *, name: bool, span: str | None) -> None:
        if not self._rows:
            self._names = self._names and name
        self._cells.append([])
        self._spans.append(min(int(span), _MAX_SPAN) if span and span.isdecimal() else 1)

    def text(self, data: str) -> None:
        (self._cells[-1] if self._cells else self._caption).append(data)

    def end_row(self) -> None:
        row: list[str] = []
        for parts, span in zip(self._cells, self._spans, strict=True):
            text = "".join(parts)
            row += [text] + [text if not self._rows else ""] * (span - 1)
        if row:
            self._rows.append(row)
        self._cells, self._spans = [], []

    def lines(self) -> list[str]:
        self.end_row()
        caption = " ".join("".join(self._caption).split())
        return ([caption] if caption else []) + flowing(self._rows, header=self._names)


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.outline = Outline()
        self._table: _Table | None = None
        self._table_begins = False
        self._in_head = False
        self._skipping = 0
        self._preformatted = 0
        self._title: list[str] | None = None
        self._line: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping += 1
        elif self._table is not None or self._begins_table(tag):
            self._in_table(tag, dict(attrs))
        elif tag in _HEADINGS:
            self._end_line()
            self._title = []
        elif tag in _BLOCKS:
            self._end_line()
            self._preformatted += tag == "pre"
            self._table_begins = tag == "table" or (self._table_begins and tag == "tr")
        elif tag in ("td", "th"):
            self._line.append(" | " if self._line else "")
        for name, value in attrs:
            if tag == "img" and name == "alt" and value:
                self.handle_data(value)

    def _begins_table(self, tag: str) -> bool:
        """A `thead` or a `th` before any other cell: the table has names."""
        if not self._table_begins or tag not in ("thead", "th", "td"):
            return False
        self._table_begins = False
        if tag == "td":
            return False
        self._end_line()
        self._table = _Table()
        return True

    def _in_table(self, tag: str, attrs: dict[str, str | None]) -> None:
        assert self._table is not None
        if tag == "table":
            self._table.nested += 1
        elif tag in ("td", "th") and not self._table.nested:
            self._table.cell(name=tag == "th" or self._in_head, span=attrs.get("colspan"))
        elif tag == "tr" and not self._table.nested:
            self._table.end_row()
        elif tag == "thead":
            self._in_head = True
        elif tag == "tbody":
            self._in_head = False
        elif tag in _BLOCKS or tag in _HEADINGS or tag in ("td", "th"):
            self._table.text(" ")

    def _end_table(self) -> None:
        if self._table is not None:
            for line in self._table.lines():
                self.outline.line(f"{line}\n")
        self._table = None
        self._in_head = False
        self.outline.line("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SKIPPED:  # <script/> has no end to wait for
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipping = max(0, self._skipping - 1)
        elif self._table is not None:
            if tag == "table":
                if self._table.nested:
                    self._table.nested -= 1
                else:
                    self._end_table()
            elif tag in _BLOCKS or tag in _HEADINGS:
                self._table.text(" ")
        elif tag in _HEADINGS and self._title is not None:
            title = " ".join("".join(self._title).split())
            self._title = None
            if title:
                self.outline.heading(_HEADINGS[tag], title, [f"{title}\n"])
        elif tag in _BLOCKS:
            self._end_line()
            self._preformatted = max(0, self._preformatted - (tag == "pre"))
            if tag in ("p", "table", "ul", "ol", "pre", "blockquote"):
                self.outline.line("\n")

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if self._title is not None:
            self._title.append(data)
        elif self._table is not None:
            self._table.text(data)
        else:
            self._line.append(data)

    def finish(self) -> list[Section]:
        self.close()
        if self._table is not None:
            self._end_table()
        if self._title:
            self._line = self._title
        self._end_line()
        self.outline.end()
        return self.outline.sections

    def _end_line(self) -> None:
        text = "".join(self._line)
        if not self._preformatted:
            text = " ".join(text.split())
        if text.strip():
            self.outline.line(f"{text}\n")
        self._line = []


def html(text: str) -> list[Section]:
    """Visible text by h1 to h6, tolerant of unclosed tags."""
    parser = _Html()
    parser.feed(text)
    return parser.finish()
